"""Clipping ranges from calibration statistics: which values the codes of a tensor span.

Every solver is a function of one `Statistic`, so that its answer does not depend on how the data
was cut into batches or on their order, and another method or bit width needs no new data. All
arithmetic is in units of the bin width: data scaled by a power of two gives the range scaled by it,
exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qir.errors import PassError, did_you_mean
from qir.observe.statistics import Statistic

Floats = NDArray[np.float64]
"""Float64 numbers."""

_Cost = Callable[[Floats, Floats], Floats]
_OCTAVES = 10
_PER_OCTAVE = 4


@dataclass(frozen=True)
class Solver(ABC):
    """A way to choose the range that the codes of a tensor span."""

    def solve(
        self,
        statistic: Statistic,
        levels: int = 256,
        *,
        symmetric: bool = False,
        include_zero: bool = True,
    ) -> tuple[float, float]:
        """Chooses the range for a number of codes.

        Args:
            statistic: What the tensor was seen to hold.
            levels: How many codes there are, at least 3. Symmetric codes are `(levels - 1) // 2` on
                each side of zero, so that 255 and 256 mean the same.
            symmetric: Whether the range is `(-high, high)`.
            include_zero: Whether the range contains zero, as that of affine codes must. Otherwise
                only the part of it between the observed extremes is returned, which zero (or the
                mirror image) restores.

        Returns:
            The bounds, float32 values that reach no further from zero than the observed extremes.

        Raises:
            PassError: If the statistic is empty or there are too few codes.
        """
        density = _Density.of(statistic, fold=symmetric)
        below, above = self._extents(density, _steps(levels, symmetric))
        high = float(np.float32(above * statistic.width))
        low = -high if symmetric else -float(np.float32(below * statistic.width))
        if not include_zero:
            low, high = max(low, statistic.minimum), min(high, statistic.maximum)
        return low + 0.0, high + 0.0

    @abstractmethod
    def _extents(self, density: _Density, steps: int) -> tuple[float, float]:
        """Returns how far the range reaches below and above zero, in bin widths."""


@dataclass(frozen=True)
class MinMax(Solver):
    """All that was observed: nothing is clipped."""

    def _extents(self, density: _Density, steps: int) -> tuple[float, float]:
        return density.below, density.above


@dataclass(frozen=True)
class Percentile(Solver):
    """The smallest range of whole bins that holds a share of the values.

    Half of the rest is cut at each end, as by ONNX Runtime's percentile calibrator; all of it at
    the far end if the values have one sign; and the largest magnitudes if the range is symmetric.

    Args:
        percentile: The share of the values to keep, in percent, in (0, 100].
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise PassError(f"calibrate: expected percentile in (0, 100], got {self.percentile!r}")

    def _extents(self, density: _Density, steps: int) -> tuple[float, float]:
        return density.keeping(self.percentile)


@dataclass(frozen=True)
class Search(Solver):
    """A solver that minimises a cost.

    Args:
        percentile: A share of the values, in percent, that the range always keeps, in [0, 100].
    """

    percentile: float = 0.0
    _power: ClassVar[int] = 0
    """Which power of the bin width the cost is measured in."""
    _finest: ClassVar[float] = 0.0
    """The narrowest step that can be judged, in bin widths."""

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise PassError(f"calibrate: expected percentile in [0, 100], got {self.percentile!r}")

    def _extents(self, density: _Density, steps: int) -> tuple[float, float]:
        if not density.below + density.above:
            return 0.0, 0.0
        least = density.keeping(self.percentile) if self.percentile else (0.0, 0.0)
        most = density.below, density.above
        return _minimise(self._cost(density, steps), most, least, self._finest * steps)

    def cost(
        self,
        statistic: Statistic,
        bounds: tuple[float, float],
        levels: int = 256,
        *,
        symmetric: bool = False,
    ) -> float:
        """Returns what a range costs, on average over the values.

        Args:
            statistic: What the tensor was seen to hold.
            bounds: A range with zero in it; if it is symmetric, its upper bound counts.
            levels: How many codes there are, as for `solve`.
            symmetric: Whether codes are symmetric.

        Raises:
            PassError: If the range is empty, the statistic is or there are too few codes.
        """
        low, high = (0.0, bounds[1]) if symmetric else bounds
        if not low <= 0 <= high or low == high:
            raise PassError(f"calibrate: expected a range with zero in it, got {bounds}")
        of = self._cost(_Density.of(statistic, fold=symmetric), _steps(levels, symmetric))
        total = of(np.array([-low / statistic.width]), np.array([high / statistic.width]))
        return float(total[0]) * statistic.width**self._power / statistic.count

    @abstractmethod
    def _cost(self, density: _Density, steps: int) -> _Cost:
        """Returns the costs of ranges, by their reach below and above zero in bin widths."""


@dataclass(frozen=True)
class MeanSquaredError(Search):
    """The range with the least expected squared error of rounding and clipping.

    The expectation is that of the true quantizer, whose grid has a code for zero, over values
    spread evenly within each bin; zeros have no error. Related: ACIQ (Banner et al., 2019,
    arXiv:1810.05723) assumes a Gaussian or Laplace density; OCTAV (Sakr et al., 2022,
    arXiv:2206.06501) iterates on raw data and takes step**2 / 12 for the error of rounding.
    """

    _power: ClassVar[int] = 2

    def _cost(self, density: _Density, steps: int) -> _Cost:
        widths = np.diff(density.edges)
        slopes = np.divide(density.spread, widths, out=np.zeros_like(widths), where=widths > 0)
        jumps = -np.diff(slopes, prepend=0.0, append=0.0)
        edges, jumps = density.edges[jumps != 0], jumps[jumps != 0]

        def cost(below: Floats, above: Floats) -> Floats:
            step, lowest, highest = _grid(below, above, steps)
            error = edges * (1 / step)
            code = np.rint(error)
            np.maximum(code, lowest, out=code)
            np.minimum(code, highest, out=code)
            error -= code
            # The integral of the squared error from zero, in steps: 1/12 for each whole cell, and
            # for the part of the last one a cubic, which runs on where values are clipped.
            cube = error * error
            cube *= error
            total: Floats = (cube @ jumps / 3 + code @ jumps / 12) * step[:, 0] ** 3
            for point, weight in density.points:
                nearest = np.clip(np.rint(point / step), lowest, highest) * step
                total += weight * (point - nearest[:, 0]) ** 2
            return total

        return cost


@dataclass(frozen=True)
class Entropy(Search):
    """The range whose codes lose the least information, by Kullback-Leibler divergence.

    After TensorRT (Migacz, "8-bit inference with TensorRT", GTC 2017) and ONNX Runtime's entropy
    calibrator: the reference P is the histogram with the clipped values piled up at the bound; Q is
    the histogram of the values that are not clipped, made flat over the occupied bins of each code.
    It differs from them:

    - Cells lie around the codes of the true grid, and around zero, for either symmetry.
    - Zeros, which codes represent exactly, and values equal to an extreme that is a bound of its
      bin, such as the 6 of relu6, are in no flattened cell: a sparse tensor would pay more for the
      width of the cell of zero than for all that is clipped.
    - Clipped values pile up on the flat level of the outermost cell (one value if that is empty),
      where a single bin's count would let noise decide and an empty bin would forbid the range.
    - Q is not scaled up to the mass of P: the divergence is that of measures, the sum of
      P log(P/Q) - P + Q. Else a range that keeps hardly anything would cost hardly anything.

    Within a cell the sum is one of cumulative sums, so that a range costs as many logarithms as it
    has codes. Steps finer than a bin cannot be judged: the search stops at one bin a step, and
    codes of 12 or more bits are not clipped at all. The cost is in nats.
    """

    _finest: ClassVar[float] = 1.0

    def _cost(self, density: _Density, steps: int) -> _Cost:
        counts, edges, first = density.spread, density.edges, density.first
        rates = counts, (counts > 0).astype(np.float64), counts * np.log(np.maximum(counts, 1))
        sums = [np.concatenate([[0.0], np.cumsum(rate)]) for rate in rates]
        widths = np.maximum(np.diff(edges), 2.0**-20)

        def cost(below: Floats, above: Floats) -> Floats:
            step, lowest, _ = _grid(below, above, steps)
            bounds = (lowest + np.arange(steps + 2) - 0.5) * step
            bounds[:, 0] = np.minimum(bounds[:, 0], -below)
            bounds[:, -1] = np.maximum(bounds[:, -1], above)
            index = np.clip(np.floor(bounds).astype(np.intp) - first, 0, len(counts) - 1)
            part = np.clip((bounds - edges[index]) / widths[index], 0, 1)
            reached = [
                total[index] + rate[index] * part for total, rate in zip(sums, rates, strict=True)
            ]
            mass, occupied, logs = (np.diff(values) for values in reached)
            flat = np.divide(mass, occupied, out=np.ones_like(mass), where=mass > 0)
            divergence: Floats = (logs - mass * np.log(flat)).sum(axis=1)
            for end, outside in ((0, reached[0][:, 0]), (-1, sums[0][-1] - reached[0][:, -1])):
                clipped = outside + sum(
                    weight * (np.abs(bounds[:, end]) < abs(point))
                    for point, weight in density.points
                    if (point > 0) == (end == -1)
                )
                level = flat[:, end]
                divergence += (level + clipped) * np.log1p(clipped / level) - clipped
            return divergence

        return cost


SOLVERS: dict[str, type[Solver]] = {
    "minmax": MinMax,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquaredError,
}
"""The solvers by the names that pipelines give them."""


def solver(name: str, **options: float) -> Solver:
    """Makes the solver that a pipeline names.

    Raises:
        PassError: If there is no such solver, or it has no such option.
    """
    if name not in SOLVERS:
        raise PassError(
            f"calibrate: expected a method of {', '.join(SOLVERS)}, got {name!r}"
            + did_you_mean(name, SOLVERS)
        )
    known = [field.name for field in fields(SOLVERS[name])]
    for option in options:
        if option not in known:
            raise PassError(
                f"calibrate: expected an option of {name} ({', '.join(known) or 'it has none'}), "
                f"got {option!r}" + did_you_mean(option, known)
            )
    return SOLVERS[name](**options)


@dataclass(frozen=True, eq=False)
class _Density:
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
    def of(statistic: Statistic, *, fold: bool) -> _Density:
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
        return _Density(below, above, first, edges, counts, statistic.zeros, tuple(points), spread)

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


def _steps(levels: int, symmetric: bool) -> int:
    if levels < 3:
        raise PassError(f"calibrate: expected at least 3 levels, got {levels}")
    return (levels - 1) // 2 if symmetric else levels - 1


def _grid(below: Floats, above: Floats, steps: int) -> tuple[Floats, Floats, Floats]:
    """Returns step, lowest and highest code of the grids that span the ranges, each a column."""
    step = ((below + above) / steps)[:, None]
    lowest = -np.rint(below[:, None] / step)
    return step, lowest, lowest + steps


def _minimise(
    cost: _Cost, most: tuple[float, float], least: tuple[float, float], narrowest: float
) -> tuple[float, float]:
    """Searches ranges in geometric steps: both ends or either, each in turn, then finer.

    The first range tried is the whole one and only a lower cost replaces what was found. The finer
    steps also slide the range along, past the cost's ripples from one zero point to the next.

    Args:
        cost: The costs of ranges.
        most: The largest reach below and above zero.
        least: The smallest.
        narrowest: The smallest sum of both.
    """
    best = most

    def keep(below: Floats, above: Floats) -> None:
        nonlocal best
        below = np.append(best[0], np.clip(below, least[0], most[0]))
        above = np.append(best[1], np.clip(above, least[1], most[1]))
        allowed = below + above >= narrowest
        if allowed[1:].any():
            allowed[0] = True
            below, above = below[allowed], above[allowed]
            chosen = int(np.argmin(cost(below, above)))
            best = float(below[chosen]), float(above[chosen])

    shrunk = 2.0 ** -(np.arange(1, _OCTAVES * _PER_OCTAVE + 1) / _PER_OCTAVE)
    same = np.ones_like(shrunk)
    two_sided = all(most)
    if two_sided:
        # An outlier at one end hides what shrinking both, or the other first, would gain.
        rough, whole = shrunk[1::2], same[1::2]
        keep(
            most[0] * np.concatenate([rough, rough, whole]),
            most[1] * np.concatenate([rough, whole, rough]),
        )
        keep(most[0] * shrunk, best[1] * same)
        keep(best[0] * same, most[1] * shrunk)
    else:
        keep(most[0] * shrunk, most[1] * shrunk)
    for finer in (4, 16):
        move = np.arange(-6, 7) / (finer * _PER_OCTAVE)
        scaled, same = 2.0**move, np.ones_like(move)
        if two_sided:
            slide = (best[0] + best[1]) * move
            keep(best[0] + slide, best[1] - slide)
            keep(best[0] * scaled, best[1] * same)
            keep(best[0] * same, best[1] * scaled)
        else:
            keep(best[0] * scaled, best[1] * scaled)
    return best
