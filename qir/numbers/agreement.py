"""Do two rounding modes give the same integers for every accumulator that can occur? Decided.

A requantize is a monotone step function of its accumulator: at most 255 thresholds say all about
one of 8 bits. Two modes therefore agree from one accumulator to another if and only if they agree
on both sides of every threshold of the first and at the two ends. Between two thresholds the first
is constant, and the second, being monotone, lies between equal numbers. So a few hundred
evaluations of the definitions decide about all of 2^32 accumulators, those beyond 2^24 included,
where the conversion to float32 rounds already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qir.numbers.int32 import INT32_MAX, Int64Array
from qir.numbers.rounding import Multiplier, rounding_mode
from qir.types import FrozenArray

BoolArray: TypeAlias = NDArray[np.bool_]

_CHUNK = 2**15
"""Thresholds looked at together, so that the arrays on the way stay in the cache."""


@dataclass(frozen=True)
class Staircase:
    """A rounding mode with its multipliers: what it makes of accumulators, before the zero point.

    Attributes:
        rounding: The mode.
        value: The multipliers [n], one for each channel.
        shift: Their shifts [n].
    """

    rounding: str
    value: FrozenArray
    shift: FrozenArray

    def multiplier(self, rows: slice) -> Multiplier:
        """Returns the multipliers of some channels as a column."""
        return Multiplier(self.value.array[rows, None], self.shift.array[rows, None])

    def step(self, accumulator: int, row: int) -> int:
        """Returns what it makes of one accumulator of one channel, not clamped."""
        multiplier = Multiplier(self.value.array[row], self.shift.array[row])
        return int(rounding_mode(self.rounding).rounded(np.asarray(accumulator), multiplier))


@dataclass(frozen=True)
class Domain:
    """What is asked about: the accumulators of each channel, and the steps that the clamp leaves.

    Attributes:
        low: Least accumulator [n], int64.
        high: Greatest accumulator [n], int64.
        least: Smallest result before the zero point [n], int64.
        greatest: Largest result before the zero point [n], int64; as far from the smallest in
            all channels.
    """

    low: FrozenArray
    high: FrozenArray
    least: FrozenArray
    greatest: FrozenArray


@dataclass(frozen=True, eq=False)
class Differences:
    """Where two modes give different integers.

    Attributes:
        found: Whether they do, for each channel [n].
        accumulator: The least accumulator next to a threshold for which they do [n], int64;
            without meaning where they don't.
    """

    found: BoolArray
    accumulator: Int64Array


@lru_cache(maxsize=512)
def differences(first: Staircase, second: Staircase, domain: Domain) -> Differences:
    """Decides for every channel whether two modes agree on all its accumulators; exact.

    Results are kept by content, so that proving the same again costs a comparison.

    Args:
        first: A mode with its multipliers.
        second: Another one, for the same channels.
        domain: The accumulators, and the clamp.
    """
    count = domain.low.array.size
    found, accumulator = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    if count:
        span = int(domain.greatest.array[0] - domain.least.array[0])
        rows = max(_CHUNK // max(span, 1), 1)
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            found[part], accumulator[part] = _differences(first, second, domain, part, span)
    found.flags.writeable = accumulator.flags.writeable = False
    return Differences(found, accumulator)


def _differences(
    first: Staircase, second: Staircase, domain: Domain, rows: slice, span: int
) -> tuple[BoolArray, Int64Array]:
    low, high = domain.low.array[rows, None], domain.high.array[rows, None]
    steps = domain.least.array[rows, None] + np.arange(1, span + 1)
    places = differing(
        (first.rounding, first.multiplier(rows)),
        (second.rounding, second.multiplier(rows)),
        steps,
        low,
        high,
    )
    least = places.min(axis=1, initial=INT32_MAX + 1)
    return least <= INT32_MAX, least


def differing(
    first: tuple[str, Multiplier],
    second: tuple[str, Multiplier],
    steps: Int64Array,
    low: Int64Array,
    high: Int64Array,
) -> Int64Array:
    """Returns an accumulator that only one of two modes takes to at least some integer.

    Args:
        first: A mode with its multiplier.
        second: Another one.
        steps: The integers, before the zero point.
        low: The least accumulator that counts.
        high: The greatest one.

    Returns:
        The accumulators, of the arguments' common shape; 2^31 where there is none.
    """
    # The thresholds of one are computed, and the other is evaluated there and just below.
    first, second = sorted((first, second), key=lambda mode: rounding_mode(mode[0]).bisects)
    # Held to the accumulators: the least one where all reach the step, high + 1 where none does.
    thresholds = np.clip(rounding_mode(first[0]).thresholds(first[1], steps), low, high + 1)
    rounded = rounding_mode(second[0]).rounded
    at, before = np.minimum(thresholds, high), np.maximum(thresholds - 1, low)
    late = (rounded(at, second[1]) < steps) & (thresholds <= high)
    early = (rounded(before, second[1]) >= steps) & (thresholds > low)
    return np.where(early, before, np.where(late, at, INT32_MAX + 1))
