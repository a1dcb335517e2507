"""Intervals of real numbers and their arithmetic, for range propagation and for proofs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from qir.types import Array


@dataclass(frozen=True, eq=False)
class Interval:
    """The numbers between two bounds, for a whole tensor or for parts of it.

    Args:
        lo: Lower bounds, float64: a scalar, or an array that broadcasts against the tensor.
        hi: Upper bounds, likewise and of the same shape. A constant tensor is an interval whose
            bounds are both the array itself, so that rules of linear ops can use its exact values.
    """

    lo: Array
    hi: Array

    @staticmethod
    def of(lo: ArrayLike, hi: ArrayLike) -> Interval:
        """Builds an interval from numbers or arrays."""
        low, high = np.broadcast_arrays(np.asarray(lo, np.float64), np.asarray(hi, np.float64))
        return Interval(low, high)

    @staticmethod
    def point(values: ArrayLike) -> Interval:
        """Returns the interval of a constant; what is no number may be anything."""
        array = np.asarray(values, np.float64)
        if (unknown := np.isnan(array)).any():
            return Interval.of(np.where(unknown, -np.inf, array), np.where(unknown, np.inf, array))
        return Interval(array, array)

    @property
    def is_point(self) -> bool:
        """Whether the values are known exactly."""
        return self.lo is self.hi

    @property
    def bounds(self) -> tuple[float, float]:
        """The hull of all parts as two numbers; (0, 0) for an empty tensor."""
        if not self.lo.size:
            return 0.0, 0.0
        return float(self.lo.min()), float(self.hi.max())

    @property
    def is_finite(self) -> bool:
        """Whether both bounds are finite everywhere."""
        return bool(np.all(np.isfinite(self.lo)) and np.all(np.isfinite(self.hi)))

    def hull(self) -> Interval:
        """Returns one interval for the whole tensor."""
        return Interval.of(*self.bounds)

    def union(self, other: Interval) -> Interval:
        """Returns the smallest interval that holds both."""
        return Interval.of(np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi))

    def intersect(self, other: Interval) -> Interval:
        """Returns what lies in both; where disjoint, the point of self that is nearest to other."""
        lo = np.clip(other.lo, self.lo, self.hi)
        return Interval.of(lo, np.maximum(lo, np.clip(other.hi, self.lo, self.hi)))

    def contains(self, values: ArrayLike, slack: float = 0.0) -> bool:
        """Tells whether all values lie inside, give or take `slack` in real units."""
        array = np.asarray(values, np.float64)
        return bool(np.all(array >= self.lo - slack) and np.all(array <= self.hi + slack))

    def __add__(self, other: Interval) -> Interval:
        return Interval.of(self.lo + other.lo, self.hi + other.hi)

    def __neg__(self) -> Interval:
        return Interval.of(-self.hi, -self.lo)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        with np.errstate(invalid="ignore"):
            corners = [
                np.nan_to_num(a * b, nan=0.0, posinf=np.inf, neginf=-np.inf)
                for a in (self.lo, self.hi)
                for b in (other.lo, other.hi)
            ]
        return Interval.of(reduce(np.minimum, corners), reduce(np.maximum, corners))

    def clip(self, lo: float, hi: float) -> Interval:
        """Returns the image under clipping to [lo, hi]."""
        return Interval.of(np.clip(self.lo, lo, hi), np.clip(self.hi, lo, hi))

    def monotone(self, function: Callable[[Array], Array]) -> Interval:
        """Returns the image under a function that never decreases."""
        with np.errstate(all="ignore"):
            return Interval.of(function(self.lo), function(self.hi))

    def moved(self, move: Callable[[Array], Array]) -> Interval:
        """Returns the bounds after numbers are moved about: one interval unless self is a point."""
        return Interval.point(move(self.lo)) if self.is_point else self.hull()

    def weighted(self, weights: Interval, total: Callable[[Array, Array], Array]) -> Interval:
        """Returns the bounds of a weighted sum of values inside this interval.

        Args:
            weights: The weights; bounds are exact where they are a point.
            total: `total(values, weights)`, linear in both, such as a matrix product.
        """
        if not (self.is_finite and weights.is_finite):
            return EVERYTHING
        center, radius = (self.lo + self.hi) / 2, (self.hi - self.lo) / 2
        middle = total(center, (weights.lo + weights.hi) / 2)
        spread = total(radius, np.maximum(np.abs(weights.lo), np.abs(weights.hi)))
        if not weights.is_point:
            spread = spread + total(np.abs(center), (weights.hi - weights.lo) / 2)
        return Interval.of(middle - spread, middle + spread)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interval):
            return NotImplemented
        return np.array_equal(self.lo, other.lo) and np.array_equal(self.hi, other.hi)

    def __hash__(self) -> int:
        return hash((self.lo.tobytes(), self.hi.tobytes()))

    def __str__(self) -> str:
        low, high = self.bounds
        return f"[{low:.9g}, {high:.9g}]"


EVERYTHING = Interval.of(-np.inf, np.inf)
