"""Histograms in units of their bins, and the grids of codes over them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qir.errors import PassError
from qir.observe.histograms import Histogram

Floats: TypeAlias = NDArray[np.float64]
"""Float64 numbers."""


@dataclass(frozen=True, eq=False)
class Density:
    """A histogram in units of its bin width; folded, that of the magnitudes.

    Args:
        below: How far the values reach below zero.
        above: How far they reach above zero.
        first: The index of the first bin.
        edges: The bounds of the bins, the outermost drawn in to the extremes, float64[n + 1].
        counts: All values in each bin, int64[n].
        zeros: How many values are zero.
        points: Extremes that are the inner bound of their bin, so that all its values equal them,
            and how many these are.
        spread: The values in each bin that are neither zeros nor points, float64[n].
    """

    below: float
    above: float
    first: int
    edges: Floats
    counts: NDArray[np.int64]
    zeros: int
    points: tuple[tuple[float, float], ...]
    spread: Floats

    @staticmethod
    def of(statistic: Histogram, *, fold: bool) -> Density:
        """Returns that of a histogram; raises PassError where it has no values."""
        if not statistic.count:
            raise PassError("calibrate: expected a tensor with values, got none")
        first, counts = statistic.first, statistic.counts
        below = max(-statistic.minimum, 0.0) / statistic.width
        above = max(statistic.maximum, 0.0) / statistic.width
        if fold:
            first, above, below = 0, max(below, above), 0.0
            index = np.arange(statistic.first, statistic.last + 1)
            counts = np.zeros(max(-statistic.first, statistic.last + 1), np.int64)
            np.add.at(counts, np.where(index < 0, ~index, index), statistic.counts)
        edges = np.arange(first, first + len(counts) + 1, dtype=np.float64)
        if below:
            edges[0] = -below
        if above:
            edges[-1] = above
        spread = counts.astype(np.float64)
        if statistic.zeros:
            spread[-first] -= statistic.zeros
        points = []
        for end in {0, len(counts) - 1}:
            if edges[end] == edges[end + 1] and spread[end]:
                points.append((float(edges[end]), float(spread[end])))
                spread[end] = 0
        return Density(below, above, first, edges, counts, statistic.zeros, tuple(points), spread)

    def keeping(self, percentile: float) -> tuple[float, float]:
        """Returns the reach of the smallest range of bins, one or more, that keeps a share."""
        spare = (100 - Fraction(str(percentile))) * int(self.counts.sum()) / 100
        if self.below and self.above:
            spare /= 2
        low = int(np.searchsorted(np.cumsum(self.counts), int(spare), side="right"))
        high = int(np.searchsorted(np.cumsum(self.counts[::-1]), int(spare), side="right"))
        # The outermost edges are at the extremes, but for an extreme of zero.
        above = min(max(float(self.edges[-1 - high]), 0.0), self.above)
        least = 0.0 if above else min(self.below, 1.0)
        return max(-float(self.edges[low]), least), above


def steps_of(levels: int, symmetric: bool) -> int:
    """Returns how many steps there are between codes, on each side of zero where symmetric."""
    if levels < 3:
        raise PassError(f"calibrate: expected at least 3 levels, got {levels}")
    return (levels - 1) // 2 if symmetric else levels - 1


def grid(below: Floats, above: Floats, steps: int) -> tuple[Floats, Floats, Floats]:
    """Returns step, lowest and highest code of the grids that span the ranges, each a column."""
    step = ((below + above) / steps)[:, None]
    lowest = -np.rint(below[:, None] / step)
    return step, lowest, lowest + steps
