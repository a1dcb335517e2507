"""octav: the least squared error of rounding and clipping, where its derivative is 0."""

from __future__ import annotations

import numpy as np

from qir.observe.histograms import BINS
from qir.observe.methods.density import Density, Floats
from qir.observe.methods.histogram_method import HistogramMethod
from qir.observe.methods.method import calibration_method

_ROUNDS = 20
_SETTLED = 2.0**-16
"""A round that moves no bound by more than this share is the last one."""
_HALVINGS = 24
"""How often the interval that holds a bound is halved: to the precision of float32."""


@calibration_method("octav")
class Octav(HistogramMethod):
    """Optimally clipped tensors and vectors (Sakr et al., 2022, arXiv:2206.06501).

    What is inside of the range is taken to lose step**2 / 12 on average, what is outside its
    distance to the bound, squared; zeros lose nothing. Where the derivative of that is 0, with P
    the shares of values and n the steps,

        high = (E[x; x > high] - P(inside) low' / 12 n^2) / (P(inside) / 12 n^2 + P(x > high))

    of which low' is how far the range reaches below 0, and for the other end likewise. The paper
    has symmetric codes, for which low' is no unknown and the factor is 4^-bits / 3. It solves this
    by Newton's iteration, which jumps to 0 and back where no value lies beyond its start, as with
    values of one magnitude. The left side less the right one times its divisor, the derivative,
    never falls as the bound grows: halving finds its zero, one end after the other until both stay.

    That how many are inside depends on the bound is left out, as in the paper: where many lie near
    to it, as silu's least numbers do, the range is not quite the one of the least error. Method
    `mse` looks for that of the true quantizer, in many ranges; this takes a few sums over the
    histogram.

    Args:
        bits: Bits of the codes that it reckons with.
        symmetric: Whether these have their zero point in the middle.
        bins: Bins of the histograms that it looks at.
    """

    bits: int = 8
    symmetric: bool = False
    bins: int = BINS

    def _extents(self, density: Density, steps: int) -> tuple[float, float]:
        sides = [_Side.of(density, sign) for sign in (-1, 1)]
        total = sum(side.mass for side in sides)
        if not total:
            return 0.0, 0.0
        reach = [0.0, 0.0]
        noise = 1 / (12 * steps**2)
        for _ in range(_ROUNDS):
            before = list(reach)
            for index, side in enumerate(sides):
                beyond = sides[1 - index].tail(reach[1 - index])[0]
                reach[index] = side.balanced(noise, total - beyond, reach[1 - index])
            moves = [abs(new - old) for new, old in zip(reach, before, strict=True)]
            if max(moves) <= _SETTLED * sum(reach):
                break
        if not sum(reach):
            return density.below, density.above
        return reach[0], reach[1]


class _Side:
    """The values of one sign, by their magnitudes.

    Args:
        low: Lower bounds of the bins, in bin widths.
        high: Upper bounds.
        counts: Values in each bin.

    Attributes:
        mass: How many there are.
        most: The greatest.
    """

    def __init__(self, low: Floats, high: Floats, counts: Floats) -> None:
        self.low = low
        self.high = high
        self.counts = counts
        self.mass = float(counts.sum())
        self.most = float(high[counts > 0].max(initial=0.0))

    @staticmethod
    def of(density: Density, sign: int) -> _Side:
        """Returns the values of a sign; zeros have none."""
        points = [(point, weight) for point, weight in density.points if point]
        at, weights = np.array(points).reshape(-1, 2).T
        low = sign * np.concatenate([density.edges[:-1], at])
        high = sign * np.concatenate([density.edges[1:], at])
        counts = np.concatenate([density.spread, weights])
        bounds = np.stack([low, high])
        there = (bounds.max(axis=0) > 0) & (counts > 0)
        return _Side(bounds.min(axis=0)[there], bounds.max(axis=0)[there], counts[there])

    def balanced(self, noise: float, others: float, below: float) -> float:
        """Returns the bound at which clipping less and finer steps cost the same; 0 without values.

        Args:
            noise: What a value inside loses, for steps of 1.
            others: How many values there are but those that the other end cuts off.
            below: How far the range reaches on the other side.
        """
        low, high = 0.0, self.most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            outside, first = self.tail(middle)
            inside = noise * (others - outside)
            if (inside + outside) * middle + inside * below < first:
                low = middle
            else:
                high = middle
        return high

    def tail(self, bound: float) -> tuple[float, float]:
        """Returns how many values lie beyond a bound, and the sum of their magnitudes."""
        low, widths = np.maximum(self.low, bound), self.high - self.low
        part = np.divide(
            self.high - low,
            widths,
            out=(self.high > bound).astype(np.float64),
            where=widths > 0,
        ).clip(0, 1)
        mass = self.counts * part
        return float(mass.sum()), float((mass * (low + self.high) / 2).sum())
