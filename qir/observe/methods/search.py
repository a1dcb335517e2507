"""Methods that look for the range of the least cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from qir.errors import PassError
from qir.observe.histograms import BINS, Histogram
from qir.observe.methods.density import Density, Floats, steps_of
from qir.observe.methods.histogram_method import HistogramMethod

Cost: TypeAlias = Callable[[Floats, Floats], Floats]
"""Costs of ranges, by their reach below and above zero in bin widths."""

_OCTAVES = 10
_PER_OCTAVE = 4


@dataclass(frozen=True)
class Search(HistogramMethod):
    """A method that minimises a cost.

    Args:
        percentile: A share of the values, in percent, that the range always keeps, in [0, 100].
        bits: Bits of the codes that it reckons with.
        symmetric: Whether these have their zero point in the middle.
        bins: Bins of the histograms that it looks at.
    """

    percentile: float = 0.0
    bits: int = 8
    symmetric: bool = False
    bins: int = BINS
    _power: ClassVar[int] = 0
    """Which power of the bin width the cost is measured in."""
    _finest: ClassVar[float] = 0.0
    """The narrowest step that can be judged, in bin widths."""

    def check(self) -> None:
        """Raises QirError for options out of bounds."""
        super().check()
        if not 0 <= self.percentile <= 100:
            raise PassError(f"calibrate: expected percentile in [0, 100], got {self.percentile!r}")

    def _extents(self, density: Density, steps: int) -> tuple[float, float]:
        if not density.below + density.above:
            return 0.0, 0.0
        least = density.keeping(self.percentile) if self.percentile else (0.0, 0.0)
        most = density.below, density.above
        return minimise(self._cost(density, steps), most, least, self._finest * steps)

    def cost(
        self,
        statistic: Histogram,
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
        of = self._cost(Density.of(statistic, fold=symmetric), steps_of(levels, symmetric))
        total = of(np.array([-low / statistic.width]), np.array([high / statistic.width]))
        return float(total[0]) * statistic.width**self._power / statistic.count

    @abstractmethod
    def _cost(self, density: Density, steps: int) -> Cost:
        """Returns the costs of ranges, by their reach below and above zero in bin widths."""


def minimise(
    cost: Cost, most: tuple[float, float], least: tuple[float, float], narrowest: float
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
