"""Levels with the least squared error for given numbers: k-means in one dimension."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qir.types.dtype import Array

MOST_ITERATIONS = 1000


def nearest_levels(numbers: Array, count: int) -> NDArray[np.float32]:
    """Returns levels that are each the mean of the numbers nearest to it.

    Lloyd's iteration ("Least Squares Quantization in PCM", 1982) on sorted numbers, whose sums are
    differences of running sums, so that a step takes logarithmic time. It starts with as many
    numbers below each level as the best levels of fine quantization have there, whose density grows
    with the cube root of the numbers' (Panter and Dite 1951), and ends where nothing changes:
    nothing is drawn at random.

    Args:
        numbers: Real numbers, at least one.
        count: How many levels there are at most, at least 2; there are fewer where numbers are.

    Returns:
        Increasing levels, at least two.
    """
    flat = np.sort(np.asarray(numbers, np.float64), axis=None)
    different = np.unique(flat.astype(np.float32))
    if len(different) <= count:
        return _two(different)
    running = np.concatenate([[0.0], np.cumsum(flat)])
    levels = _start(flat, count)
    for _ in range(MOST_ITERATIONS):
        ends = np.searchsorted(flat, (levels[1:] + levels[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(flat)]])
        sizes = np.diff(ends)
        sums = running[ends[1:]] - running[ends[:-1]]
        means = np.divide(sums, sizes, out=levels.copy(), where=sizes > 0)
        if np.array_equal(means, levels):
            break
        levels = np.sort(means)
    return _two(np.unique(levels.astype(np.float32)))


def _start(flat: Array, count: int) -> NDArray[np.float64]:
    """Returns places at equal steps of the integral of the cube root of the density."""
    density, edges = np.histogram(flat, bins=min(4096, 8 * count))
    grown = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    wanted = (np.arange(count) + 0.5) / count * grown[-1]
    found: NDArray[np.float64] = np.interp(wanted, grown, edges)
    return found


def _two(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Adds a level to one alone, which is no code: 0, or 1 to 0."""
    if len(levels) > 1:
        return levels
    return np.unique(np.append(levels, np.float32(0 if np.any(levels) else 1)))
