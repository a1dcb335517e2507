"""What calibration keeps of a tensor's channels and rows, beside its histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.observe.statistics import SMALLEST
from qir.types import Array

_CHUNK = 1 << 18
"""Numbers that are squared in float64 at a time."""


@dataclass(frozen=True, eq=False)
class ChannelStatistic:
    """The extremes and the mean square of each channel of a tensor.

    A channel is what has one index along some axes: the last one where a product sums over it, or
    the heads of a product of batches. Statistics of one tensor merge over batches; neither the
    order of the batches nor how data is cut into them makes a difference.

    Args:
        axes: The axes of the tensor, increasing and counted from 0, that number the channels.
        minimum: Least number of each channel, float32 with the sizes of the axes; infinite where
            nothing was seen.
        maximum: Greatest number of each channel, likewise; minus infinity where nothing was seen.
        squares: Sum of the squares of each channel, float64.
        count: Numbers seen in each channel.

    Raises:
        QirError: The parts contradict one another.
    """

    axes: tuple[int, ...]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    squares: NDArray[np.float64]
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
        """Mean of the squares of each channel; 0 where nothing was seen.

        The last bits of the sums in float64 depend on the order of the batches: in float32 they are
        gone.
        """
        with np.errstate(over="ignore"):
            return (self.squares / max(self.count, 1)).astype(np.float32)

    @property
    def peaks(self) -> NDArray[np.float32]:
        """Largest magnitude of each channel; minus infinity where nothing was seen."""
        return np.maximum(self.maximum, -self.minimum)

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
            self.squares + other.squares,
            self.count + other.count,
        )


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
        _squares(single, others).reshape(sizes),
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
