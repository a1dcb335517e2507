"""What calibration keeps of a tensor's channels and rows, beside its histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.observe.exact_sums import ExactSums
from qir.observe.histograms import SMALLEST
from qir.types import Array

_CHUNK = 1 << 18
"""Numbers that are squared or summed in float64 at a time."""

MOST_PLACES = 32
"""Places of a sample, such as pixels, at most twice as many, that moments of channels are of."""


@dataclass(frozen=True, eq=False)
class ChannelStatistic:
    """The extremes and the mean square of each channel of a tensor.

    A channel is what has one index along some axes: the last one where a product sums over it, or
    the heads of a product of batches. Statistics of one tensor merge over batches, exactly: their
    order makes no difference. Each batch is summed in float64, so that how data is cut into batches
    may move the last bits of the squares, which are gone in float32.

    Args:
        axes: The axes of the tensor, increasing and counted from 0, that number the channels.
        minimum: Least number of each channel, float32 with the sizes of the axes; infinite where
            nothing was seen.
        maximum: Greatest number of each channel, likewise; minus infinity where nothing was seen.
        squares: Sum of the squares of each channel.
        count: Numbers seen in each channel.

    Raises:
        QirError: The parts contradict one another.
    """

    axes: tuple[int, ...]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    squares: ExactSums
    count: int

    def __post_init__(self) -> None:
        shapes = {self.minimum.shape, self.maximum.shape, self.squares.shape}
        if len(shapes) != 1 or self.minimum.ndim != len(self.axes):
            raise QirError(
                f"channels: expected arrays of one shape with {len(self.axes)} axes, got "
                f"{self.minimum.shape}, {self.maximum.shape} and {self.squares.shape}"
            )
        if self.count < 0 or (self.count and np.any(self.minimum > self.maximum)):
            raise QirError("channels: expected minimum <= maximum of at least 0 numbers")

    @property
    def mean_square(self) -> NDArray[np.float32]:
        """Mean of the squares of each channel, in float32; 0 where nothing was seen."""
        with np.errstate(over="ignore"):
            return (self.squares.array / max(self.count, 1)).astype(np.float32)

    @property
    def peaks(self) -> NDArray[np.float32]:
        """Largest magnitude of each channel; minus infinity where nothing was seen."""
        return np.maximum(self.maximum, -self.minimum)

    def turned(self, order: Sequence[int]) -> ChannelStatistic:
        """Returns that of the tensor with its axes in another order: axis i is axis `order[i]`."""
        places = [list(order).index(axis) for axis in self.axes]
        inner = sorted(range(len(places)), key=places.__getitem__)
        return ChannelStatistic(
            tuple(sorted(places)),
            self.minimum.transpose(inner),
            self.maximum.transpose(inner),
            self.squares.transpose(inner),
            self.count,
        )

    def divided(self, factors: NDArray[np.floating[Any]]) -> ChannelStatistic:
        """Returns that of the numbers divided by a factor for each channel."""
        return ChannelStatistic(
            self.axes,
            (self.minimum / factors).astype(np.float32),
            (self.maximum / factors).astype(np.float32),
            ExactSums.of(self.squares.array / factors**2),
            self.count,
        )

    def merge(self, other: ChannelStatistic) -> ChannelStatistic:
        """Returns the statistic of the numbers of both.

        Raises:
            QirError: They are of other axes or of another number of channels.
        """
        if (self.axes, self.minimum.shape) != (other.axes, other.minimum.shape):
            raise QirError(
                f"channels: expected {self.minimum.shape} along axes {list(self.axes)}, got "
                f"{other.minimum.shape} along {list(other.axes)}"
            )
        return ChannelStatistic(
            self.axes,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.squares.merge(other.squares),
            self.count + other.count,
        )


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Mean and variance of each channel of a tensor: of what has one index along its last axis.

    Args:
        sums: Sum of the numbers of each channel that were seen [channels].
        squares: Sum of their squares, likewise.
        count: Numbers seen in each channel.

    Raises:
        QirError: The parts contradict one another.
    """

    sums: ExactSums
    squares: ExactSums
    count: int

    def __post_init__(self) -> None:
        if self.sums.shape != self.squares.shape or len(self.sums.shape) != 1 or self.count < 0:
            raise QirError(
                "moments: expected a sum and a square for each channel of at least 0 numbers, got "
                f"{list(self.sums.shape)} and {list(self.squares.shape)} of {self.count}"
            )

    @classmethod
    def even(cls, low: float, high: float, channels: int) -> ChannelMoments:
        """Returns those of numbers spread evenly over a range, the same in each channel."""
        square = (low**2 + low * high + high**2) / 3
        means, squares = np.full(channels, (low + high) / 2), np.full(channels, square)
        return cls(ExactSums.of(means), ExactSums.of(squares), 1)

    @property
    def means(self) -> NDArray[np.float32]:
        """Mean of each channel, in float32 as ChannelStatistic.mean_square; 0 of no numbers."""
        return (self.sums.array / max(self.count, 1)).astype(np.float32)

    @property
    def variances(self) -> NDArray[np.float32]:
        """Variance of each channel, likewise, at most the largest float32."""
        count = max(self.count, 1)
        spread = self.squares.array / count - np.square(self.sums.array / count)
        return spread.clip(0, float(np.finfo(np.float32).max)).astype(np.float32)

    def merge(self, other: ChannelMoments) -> ChannelMoments:
        """Returns those of the numbers of both.

        Raises:
            QirError: They are of another number of channels.
        """
        if self.sums.shape != other.sums.shape:
            raise QirError(
                f"channels: expected {self.sums.shape[0]} along the last axis, got "
                f"{other.sums.shape[0]}"
            )
        return ChannelMoments(
            self.sums.merge(other.sums),
            self.squares.merge(other.squares),
            self.count + other.count,
        )

    def take(self, channels: NDArray[np.integer[Any]]) -> ChannelMoments:
        """Returns those of some channels."""
        return ChannelMoments(self.sums.take(channels), self.squares.take(channels), self.count)

    def divided(self, factors: NDArray[np.floating[Any]]) -> ChannelMoments:
        """Returns those of the numbers divided by a factor for each channel."""
        sums, squares = self.sums.array / factors, self.squares.array / factors**2
        return ChannelMoments(ExactSums.of(sums), ExactSums.of(squares), self.count)


@dataclass(frozen=True)
class RowPeaks:
    """The least of the rows' greatest numbers: what no row of a softmax stays below.

    Args:
        axes: The axes of the tensor along which a row lies, increasing and counted from 0.
        least: The least over all rows of the greatest number in the row; infinite where nothing was
            seen.
    """

    axes: tuple[int, ...]
    least: float = np.inf

    def turned(self, order: Sequence[int]) -> RowPeaks:
        """Returns that of the tensor with its axes in another order: axis i is axis `order[i]`."""
        return RowPeaks(tuple(sorted(list(order).index(axis) for axis in self.axes)), self.least)

    def merge(self, other: RowPeaks) -> RowPeaks:
        """Returns that of the rows of both; raises QirError where they lie along other axes."""
        if self.axes != other.axes:
            raise QirError(
                f"rows: expected rows along axes {list(self.axes)}, got {list(other.axes)}"
            )
        return RowPeaks(self.axes, min(self.least, other.least))


def observe_channels(array: NDArray[Any], axes: Sequence[int]) -> ChannelStatistic:
    """Takes the statistic of the channels of an array, at 1 ns a number.

    Args:
        array: Finite floats. Types wider than float32 are rounded to float32 first.
        axes: The axes that number the channels, increasing and counted from 0.
    """
    single = np.asarray(array).astype(np.float32, copy=False)
    others = tuple(axis for axis in range(single.ndim) if axis not in axes)
    sizes = tuple(single.shape[axis] for axis in axes)
    return ChannelStatistic(
        tuple(axes),
        _flushed(single.min(axis=others, initial=np.inf)),
        _flushed(single.max(axis=others, initial=-np.inf)),
        ExactSums.of(_squares(single, others).reshape(sizes)),
        prod(single.shape[axis] for axis in others),
    )


def _squares(array: NDArray[np.float32], others: tuple[int, ...]) -> NDArray[np.float64]:
    """Sums the squares along some axes."""
    last = array.ndim - 1
    if last in others:
        rows = np.einsum("...i,...i->...", array, array, dtype=np.float64)
        return np.asarray(rows.sum(axis=others[:-1]))
    channels = [axis for axis in range(array.ndim) if axis not in others]
    sizes = (prod(array.shape[axis] for axis in part) for part in (others, channels))
    flat = np.transpose(array, (*others, *channels)).reshape(tuple(sizes))
    squares = np.zeros(flat.shape[1], np.float64)
    step = max(_CHUNK // max(flat.shape[1], 1), 1)
    for start in range(0, len(flat), step):
        chunk = flat[start : start + step].astype(np.float64)
        squares += np.einsum("ij,ij->j", chunk, chunk)
    return squares


def few_places(array: NDArray[Any]) -> NDArray[Any]:
    """Returns the numbers of some evenly spaced places of each sample.

    Whole samples would take as long to sum as to compute. All samples are there, so that how data
    is cut into batches makes no difference.

    Args:
        array: Numbers [samples, places…, channels].

    Returns:
        Numbers [samples, few places, channels], a view where the array lies in order; the array
        itself where there are no places.
    """
    if array.ndim < 3:
        return array
    places = prod(array.shape[1:-1])
    step = max(places // MOST_PLACES, 1)
    while gcd(step, places) > 1:  # A step that divides rows of pixels would stay in few columns.
        step += 1
    return array.reshape(len(array), places, array.shape[-1])[:, ::step]


def observe_moments(array: NDArray[Any]) -> ChannelMoments:
    """Takes mean and variance of the channels along the last axis of an array of finite floats."""
    flat = array.reshape(-1, array.shape[-1]) if array.size else array.reshape(0, array.shape[-1])
    sums, squares = np.zeros((2, flat.shape[1]), np.float64)
    step = max(_CHUNK // max(flat.shape[1], 1), 1)
    for start in range(0, len(flat), step):
        chunk = flat[start : start + step].astype(np.float64)
        ones = np.ones(len(chunk))
        sums += ones @ chunk
        squares += ones @ np.square(chunk, out=chunk)
    return ChannelMoments(ExactSums.of(sums), ExactSums.of(squares), len(flat))


def observe_rows(array: NDArray[Any], axes: Sequence[int], mask: Array | None = None) -> RowPeaks:
    """Takes the least row maximum of an array.

    Args:
        array: Finite floats.
        axes: The axes along which a row lies, increasing and counted from 0.
        mask: Bools that broadcast against the array, true where a number counts, or None; a row of
            which none counts is left out.
    """
    single = np.asarray(array).astype(np.float32, copy=False)
    counted = single if mask is None else np.where(mask, single, np.float32(-np.inf))
    peaks = counted.max(axis=tuple(axes), initial=-np.inf)
    return RowPeaks(tuple(axes), float(peaks.min(initial=np.inf, where=peaks > -np.inf)))


def _flushed(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.abs(numbers) < SMALLEST, np.float32(0), numbers)
