"""What calibration keeps of a tensor: a mergeable histogram of fixed memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import frexp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError, counted

BINS = 4096
"""Bins kept by default: more than 2047 lie between the extremes, 8 to a step of 8-bit codes, so
that a range can be clipped to an eighth before its steps are finer than the bins. 200 tensors take
6.5 MB."""

SMALLEST = float(np.finfo(np.float32).smallest_normal)
"""Magnitudes below this one count as zero, as XLA flushes them to zero."""

_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST_EXPONENT = -126
_CHUNK = 1 << 15
_CACHED_BINS = 1 << 15
"""Bins up to which counting is hardly slower."""
_SPARKS = " ▁▂▃▄▅▆▇█"


class NonFiniteError(QirError):
    """A tensor that calibration saw with NaN or infinite values.

    Args:
        nan: How many values are NaN.
        infinite: How many values are infinite.
    """

    def __init__(self, nan: int, infinite: int) -> None:
        super().__init__(f"statistics: expected finite values, got {nan} NaN, {infinite} infinite")
        self.nan = nan
        self.infinite = infinite


@dataclass(frozen=True, eq=False)
class Histogram:
    """The extremes of the values that a tensor took and the histogram of those values.

    A bin is `width = 2**exponent` wide and the bins are aligned at zero. In units of the width, bin
    k >= 0 holds [k, k + 1) and bin k < 0 holds (k, k + 1], so that bins k and -1 - k hold the same
    magnitudes. The exponent is the smallest at which the bins between zero and the extremes number
    at most `bins`. It follows from the extremes alone and grows with them, and doubling the width
    adds neighbours (`k >> 1`) exactly: the statistic is a function of the multiset of values, and
    `merge` is exactly associative and commutative, with the empty statistic as its identity.

    Args:
        minimum: Smallest value, a float32 value; infinity when there are no values.
        maximum: Largest value, a float32 value; minus infinity when there are no values.
        zeros: How many values are zero (magnitudes below the smallest normal float32 included).
        counts: Values in each bin, int64[n], from the bin of the minimum to the bin of the maximum.
        bins: The most bins that may lie between zero and the extremes, at least 16.

    Raises:
        QirError: If the parts contradict one another.
    """

    minimum: float
    maximum: float
    zeros: int
    counts: NDArray[np.int64]
    bins: int = BINS

    @staticmethod
    def empty(bins: int = BINS) -> Histogram:
        """Returns the statistic of no values."""
        return Histogram(np.inf, -np.inf, 0, np.zeros(0, np.int64), bins)

    def __post_init__(self) -> None:
        counts = np.array(self.counts, np.int64)
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)
        check_bins(self.bins)
        if not counts.size:
            if (self.minimum, self.maximum, self.zeros) != (np.inf, -np.inf, 0):
                raise QirError("statistic: expected counts of the values, got none")
            return
        length = self.last - self.first + 1
        if counts.size != length:
            raise QirError(f"statistic: expected {counted(length, 'count')}, got {counts.size}")
        if counts.min() < 0 or not (counts[0] and counts[-1]):
            raise QirError("statistic: expected counts >= 0, and > 0 at the extremes")
        if not 0 <= self.zeros <= (counts[-self.first] if self.first <= 0 <= self.last else 0):
            raise QirError(f"statistic: expected zeros among bin 0, got {self.zeros}")

    @cached_property
    def count(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @cached_property
    def _span(self) -> tuple[int, int, int]:
        if not self.counts.size:
            return _SMALLEST_EXPONENT, 0, -1
        return bin_span(self.minimum, self.maximum, self.bins)

    @property
    def exponent(self) -> int:
        """The base-2 logarithm of the bin width."""
        return self._span[0]

    @property
    def first(self) -> int:
        """The bin of the minimum."""
        return self._span[1]

    @property
    def last(self) -> int:
        """The bin of the maximum."""
        return self._span[2]

    @property
    def width(self) -> float:
        """The bin width."""
        return float(2.0**self.exponent)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The bounds of the bins, float64[n + 1]."""
        return np.arange(self.first, self.last + 2, dtype=np.float64) * self.width

    def merge(self, other: Histogram) -> Histogram:
        """Returns the statistic of the values of both; its `bins` is the smaller of the two."""
        minimum = min(self.minimum, other.minimum)
        maximum = max(self.maximum, other.maximum)
        bins = min(self.bins, other.bins)
        if minimum > maximum:
            return Histogram.empty(bins)
        exponent, first, last = bin_span(minimum, maximum, bins)
        counts = np.zeros(last - first + 1, np.int64)
        for part in (self, other):
            if part.counts.size:
                # Bins number at most 2**20: this shift leaves 0 or -1, as any further one would.
                shift = min(exponent - part.exponent, 31)
                start, end = part.first >> shift, (part.last >> shift) + 1
                sums = part.counts
                if shift:
                    cuts = np.maximum((np.arange(start, end) << shift) - part.first, 0)
                    sums = np.add.reduceat(sums, cuts)
                counts[start - first : end - first] += sums
        return Histogram(minimum, maximum, self.zeros + other.zeros, counts, bins)

    def coarsen(self, bins: int) -> Histogram:
        """Returns the statistic that `observe` would have given for fewer bins."""
        if bins > self.bins:
            raise QirError(f"statistic: expected at most the {self.bins} bins it has, got {bins}")
        return self if bins == self.bins else self.merge(Histogram.empty(bins))

    def clipped(self, low: float, high: float, bins: int) -> Histogram:
        """Returns the statistic that `observe` would give for the values clipped to bounds.

        Args:
            low: Lower bound, a float32 value below inf.
            high: Upper bound, a float32 value above -inf, at least `low`.
            bins: Bins of the result.

        Raises:
            QirError: The result's bins are finer than those of this statistic.
        """
        if not self.counts.size:
            return Histogram.empty(bins)
        low, high = (_flush(np.float32(bound)) for bound in (low, high))
        minimum, maximum = (_clip(bound, low, high) for bound in (self.minimum, self.maximum))
        exponent, first, last = bin_span(minimum, maximum, bins)
        if exponent < self.exponent:
            raise QirError(
                f"statistic: expected bins of at most 2**{exponent}, got 2**{self.exponent}"
            )
        # What is beyond a bound moves into the bound's own bin, which is the first or the last.
        shift = min(exponent - self.exponent, 31)
        inner = (np.arange(first + 1, last + 1) << shift) - self.first
        counts = np.add.reduceat(self.counts, np.concatenate([[0], inner]))
        zeros = self.zeros if low <= 0 <= high else 0
        below = int(self.counts[: max(-self.first, 0)].sum())
        zeros += below if low == 0 else 0
        zeros += self.count - below - self.zeros if high == 0 else 0
        return Histogram(minimum, maximum, zeros, counts, bins)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (
            self.minimum == other.minimum
            and self.maximum == other.maximum
            and self.zeros == other.zeros
            and self.bins == other.bins
            and np.array_equal(self.counts, other.counts)
        )

    def sparkline(self, cells: int = 24) -> str:
        """Draws the histogram from minimum to maximum, with logarithmic heights."""
        if not self.counts.size:
            return ""
        cells = min(cells, len(self.counts))
        starts = np.arange(cells) * len(self.counts) // cells
        sums = np.add.reduceat(self.counts, starts)
        heights = np.ceil(np.log1p(sums) / np.log1p(sums.max()) * (len(_SPARKS) - 1))
        return "".join(_SPARKS[int(height)] for height in heights)

    def columns(self) -> list[str]:
        """Returns what `str` shows, one text for each column of a table."""
        if not self.counts.size:
            return ["count 0"]
        return [
            f"count {self.count}",
            f"zeros {self.zeros / self.count:.1%}",
            f"min {self.minimum:.6g}",
            f"max {self.maximum:.6g}",
            f"|{self.sparkline()}|",
        ]

    def __str__(self) -> str:
        return "  ".join(self.columns())


def observe(array: NDArray[Any], bins: int = BINS) -> Histogram:
    """Takes the statistic of an array on the host, at 3 ns a value.

    Args:
        array: Floats of any shape. Types wider than float32 are rounded to float32 first.
        bins: The most bins between zero and the extremes, at least 16.

    Raises:
        NonFiniteError: If a value is NaN or infinite (as a float32).
        QirError: If the array does not hold floats.
    """
    check_bins(bins)
    flat = _flat(array)
    return _counted(flat, *_extremes(flat), bins) if flat.size else Histogram.empty(bins)


def observe_clipped(
    array: NDArray[Any], low: float, high: float, bins: int = BINS
) -> tuple[Histogram, Histogram]:
    """Takes the statistics of an array and of `clip(array, low, high)`, and counts only once.

    Args:
        array: As for `observe`.
        low: Lower bound, a float32 value below inf.
        high: Upper bound, a float32 value above -inf, at least `low`.
        bins: As for `observe`.

    Raises:
        QirError: As for `observe`.
    """
    check_bins(bins)
    flat = _flat(array)
    if not flat.size:
        return Histogram.empty(bins), Histogram.empty(bins)
    minimum, maximum = _extremes(flat)
    exponent, finest = (
        bin_span(*bounds, bins)[0]
        for bounds in (
            (minimum, maximum),
            (_clip(minimum, low, high), _clip(maximum, low, high)),
        )
    )
    # Twice as many bins are at most half as wide.
    finer = bins << max(exponent - finest, 0)
    if finer > max(bins, _CACHED_BINS):
        clipped = np.clip(flat, np.float32(low), np.float32(high))
        return _counted(flat, minimum, maximum, bins), observe(clipped, bins)
    counted = _counted(flat, minimum, maximum, finer)
    return counted.coarsen(bins), counted.clipped(low, high, bins)


def _flat(array: NDArray[Any]) -> NDArray[np.float32]:
    array = np.asarray(array)
    if array.dtype.kind not in "fV":  # V is what bfloat16 and its kin say of themselves
        raise QirError(f"statistics: expected an array of floats, got {array.dtype}")
    with np.errstate(over="ignore"):
        return array.ravel(order="K").astype(np.float32, copy=False)


def _extremes(flat: NDArray[np.float32]) -> tuple[float, float]:
    low, high = flat.min(), flat.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise NonFiniteError(int(np.isnan(flat).sum()), int(np.isinf(flat).sum()))
    return _flush(low), _flush(high)


def _counted(flat: NDArray[np.float32], minimum: float, maximum: float, bins: int) -> Histogram:
    exponent, *_ = bin_span(minimum, maximum, bins)
    scale = np.float32(2.0**-exponent)
    least, most = (int(bound * 2.0**-exponent) for bound in (minimum, maximum))
    below = above = 0
    # By their whole parts, truncated: the bins, but for -1 and 0, which together are one.
    counts = np.zeros(most - least + 1, np.int64)
    size = max(_CHUNK, 4 * len(counts))
    for start in range(0, flat.size, size):
        chunk = flat[start : start + size]
        below += int(np.count_nonzero(chunk <= -SMALLEST)) if minimum < 0 else 0
        above += int(np.count_nonzero(chunk >= SMALLEST)) if maximum > 0 else 0
        whole = (chunk * scale).astype(np.int32)
        counts += np.bincount(whole - least, minlength=len(counts))
    if minimum < 0 <= maximum:
        fractions = below - int(counts[:-least].sum())
        counts = np.concatenate([counts[:-least], [fractions], counts[-least:]])
        counts[1 - least] -= fractions
    return Histogram(minimum, maximum, flat.size - below - above, counts, bins)


def bin_span(minimum: float, maximum: float, bins: int) -> tuple[int, int, int]:
    """Returns the exponent of the bin width, the bin of the minimum and the bin of the maximum.

    The exponent is the smallest, from -126, at which `bins` bins hold zero and both extremes.

    Raises:
        QirError: If the extremes are not normal float32 values or zero, in order.
    """
    check_bins(bins)
    for value in (minimum, maximum):
        if (value and not SMALLEST <= abs(value) <= _LARGEST) or float(np.float32(value)) != value:
            raise QirError(f"statistic: expected normal float32 extremes, got {value!r}")
    if minimum > maximum:
        raise QirError(f"statistic: expected minimum <= maximum, got {minimum!r} > {maximum!r}")
    below, above = min(minimum, 0.0), max(maximum, 0.0)
    leading = frexp(max(-below, above, SMALLEST))[1]
    exponent = max(leading - bins.bit_length(), _SMALLEST_EXPONENT)
    while _bin(above, exponent) - _bin(below, exponent) >= bins:
        exponent += 1
    return exponent, _bin(minimum, exponent), _bin(maximum, exponent)


def merge(statistics: Iterable[Histogram]) -> Histogram:
    """Returns the statistic of all the values; the order of the statistics does not matter."""
    whole = None
    for statistic in statistics:
        whole = statistic if whole is None else whole.merge(statistic)
    return Histogram.empty() if whole is None else whole


def check_bins(bins: int) -> None:
    """Raises QirError for a number of bins that no histogram has."""
    if not 16 <= bins <= 2**20:
        raise QirError(f"statistics: expected 16 to 1048576 bins, got {bins}")


def _flush(value: np.floating) -> float:
    return float(value) if abs(value) >= SMALLEST else 0.0


def _clip(value: float, low: float, high: float) -> float:
    return _flush(np.float32(min(max(value, low), high)))


def _bin(value: float, exponent: int) -> int:
    return int(value * 2.0**-exponent) - (value < 0)
