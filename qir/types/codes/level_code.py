"""Codes that are a table: each stored number means one of a few levels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.types.arrays import expand
from qir.types.codes.code import Code
from qir.types.codes.parts import SMALLEST_SCALE
from qir.types.dtype import Array

MOST_BITS = 8
"""See constraint C8 of LevelCode."""

MOST_COUNTED = 16
"""How many borders each number is compared with at most, which takes an eighth of the time of a
search in so few."""

MOST_STEP = 2**15 - 1
"""The greatest magnitude of a level that counts as an integer step."""


@dataclass(frozen=True)
class LevelCode(Code):
    """A code whose stored numbers are those of a table: real = levels[stored] * scale.

    A kind gives `levels`. Its own constraint, beside those of all codes:

    - C7, of all codes, holds for the magnitudes of finite levels too: those that are not 0 lie
      between 2^-125 and 2^127 times the scale.
    - C8: storage has at most 8 bits, and the levels are 2 at least and no more than it has codes;
      those that mean something are distinct numbers that float32 holds, infinities and -0.0 among
      them.
    """

    @property
    @abstractmethod
    def levels(self) -> Array:
        """The real multiple of the scale for each stored number, float64.

        In order of storage, from the least number of the storage type on. NaN stands for a stored
        number that means nothing.
        """

    @property
    def borders(self) -> Array:
        """The multiples of the scale between which lies what has one level, float64.

        One for each pair of increasing levels: the middle of the two unless a kind says otherwise.
        """
        levels = self.levels[self.order]
        middles: Array = (levels[1:] + levels[:-1]) / 2
        return middles

    @property
    def ties_up(self) -> Array:
        """Whether the border between two levels has the greater one, for each pair, bool.

        The lower one has it everywhere unless a kind says otherwise.
        """
        return np.zeros(len(self.order) - 1, np.bool_)

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 2**self.storage.bits
        levels = self.levels
        meant = levels[~np.isnan(levels)]
        with np.errstate(over="ignore"):
            exact = meant.astype(np.float32) == meant
        if (
            self.storage.bits > MOST_BITS
            or not 2 <= len(meant) <= len(levels) <= most
            or len(np.unique(meant.view(np.int64))) < len(meant)
            or not np.all(exact)
        ):
            raise QirError(
                f"code: C8: expected 2 to {min(most, 2**MOST_BITS)} distinct levels of float32 in "
                f"storage of at most {MOST_BITS} bits, got {len(levels)} in {self.storage.value}"
            )
        (low, high), sizes = self.scale_bounds, self.step_sizes
        outside = (sizes < low) | (sizes > high)
        if np.any(outside):
            raise QirError(
                f"code: C7: expected scales between {np.float32(low)!s} and {np.float32(high)!s} "
                f"for levels of these magnitudes, got {sizes[outside].astype(np.float32).flat[0]!s}"
            )

    @property
    def scale_bounds(self) -> tuple[float, float]:
        """The least and the greatest scale that keep levels normal numbers of float32."""
        sizes = np.abs(self.levels[self.order])
        sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
        low, high = SMALLEST_SCALE / min(1.0, sizes.min()), 1 / SMALLEST_SCALE
        return float(low), float(min(high, 2.0**127 / sizes.max()))

    @property
    def range(self) -> tuple[int, int]:
        """The first and the last stored number that mean something."""
        (meant,) = np.nonzero(~np.isnan(self.levels))
        low = self.storage.bounds[0]
        return low + int(meant[0]), low + int(meant[-1])

    @cached_property
    def order(self) -> Array:
        """The places in `levels` of those that mean something, from the least to the greatest."""
        # -0.0 is before 0.0.
        order: Array = np.lexsort((~np.signbit(self.levels), self.levels))
        return order[: int(np.sum(~np.isnan(self.levels)))]

    @property
    def real_bounds(self) -> tuple[float, float]:
        """The least and the greatest level."""
        return float(np.nanmin(self.levels)), float(np.nanmax(self.levels))

    @property
    def is_ordered(self) -> bool:
        """Whether a greater stored number means a greater real one."""
        return bool(np.all(np.diff(self.order) == 1))

    @property
    def holds_zero(self) -> bool:
        """Whether a level is 0."""
        return bool(np.any(self.levels == 0))

    def encode(self, real: ArrayLike) -> Array:
        """Returns the stored number of the level that is nearest to real / step size, in float64.

        The border between two has the one that `ties_up` says; -0.0 has the level -0.0 where there
        is one. NaN counts as 0.

        Args:
            real: An array of the tensor's shape.

        Returns:
            An array of the same shape and of the storage's numpy type.
        """
        real = np.asarray(real)
        with np.errstate(invalid="ignore", over="ignore"):
            multiples = real.astype(np.float64) / expand(self.step_sizes, real.shape)
        multiples = np.where(np.isnan(multiples), 0.0, multiples)
        levels, borders = self.levels[self.order], self.borders
        place = _count_below(borders, multiples)
        at = np.asarray(np.minimum(place, len(borders) - 1))
        tied = np.asarray(borders[at] == multiples)
        if np.any(tied):
            at = at[tied]
            is_zero = (levels[at] == 0) & (levels[at + 1] == 0)
            place[tied] += np.where(is_zero, ~np.signbit(multiples[tied]), self.ties_up[at])
        stored: Array = self.order[place] + self.storage.bounds[0]
        return stored.astype(self.storage.numpy)

    def multiples(self, stored: Array) -> Array:
        """Returns level times multiplier, as float32; the product is rounded once."""
        return self.multiplied(self._of(self.levels, stored)).astype(np.float32)

    @cached_property
    def step_table(self) -> Array | None:
        """The levels as int32, 0 for those that mean nothing; None where one is no integer."""
        levels = np.where(np.isnan(self.levels), 0, self.levels)
        if np.any(levels != np.rint(levels)) or np.any(np.abs(levels) > MOST_STEP):
            return None
        return levels.astype(np.int32)

    def steps_between(self, low: int, high: int) -> tuple[int, int] | None:
        """Returns the least and the greatest step of stored numbers from low to high."""
        if self.step_table is None:
            return None
        first = self.storage.bounds[0]
        some = self.step_table[low - first : high + 1 - first]
        return self.multiplied_bounds(int(some.min()), int(some.max()))

    def steps(self, stored: Array) -> Array:
        """Returns level times multiplier, as int64; raises QirError unless levels are integers."""
        if self.step_table is None:
            raise QirError(self.without_steps)
        return self.multiplied(self._of(self.step_table.astype(np.int64), stored))

    def _of(self, table: Array, stored: Array) -> Array:
        found: Array = table[stored.astype(np.int64) - self.storage.bounds[0]]
        return found


def _count_below(borders: Array, numbers: Array) -> Array:
    """Returns how many of the increasing borders are less than each number, as integers."""
    if len(borders) > MOST_COUNTED:
        return np.asarray(np.searchsorted(borders, numbers, side="left"))
    below = np.zeros(numbers.shape, np.uint8)
    for border in borders:
        below += numbers > border
    return below
