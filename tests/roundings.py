"""Rounding modes of one's own, registered for a while, and multipliers that any mode accepts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from numpy.typing import ArrayLike

from qir.numbers.int32 import Int64Array, IntegerArray
from qir.numbers.rounding import (
    ROUNDINGS,
    Fixed31,
    Multiplier,
    RoundingMode,
    register_rounding,
    rounding_mode,
)

COMPUTED = tuple(name for name, mode in ROUNDINGS.items() if mode.has_machine_form)
"""The modes that every backend computes or leaves to one that does."""
ANY_RATIO = tuple(name for name in COMPUTED if name not in ("half_away", "pow2", "q8"))
"""Those that take any ratio of scales up to 2^30."""


def near_multipliers(name: str, ratio: ArrayLike) -> Multiplier:
    """Forms the multiplier of the nearest ratio that a mode accepts.

    Args:
        name: The mode.
        ratio: Finite and positive, at most 2^29.
    """
    mode, real = rounding_mode(name), np.asarray(ratio, np.float64)
    match name:
        case "half_away":
            return mode.multipliers(1.0, np.clip(np.rint(1 / real), 1, 2.0**31 - 1))
        case "pow2":
            return mode.multipliers(np.exp2(np.rint(np.log2(real))), 1.0)
        case "q8":
            return mode.multipliers(np.minimum(real, 127.0), 1.0)
        case _:
            return mode.multipliers(real, 1.0)


class _OfFixed31(RoundingMode):
    """A mode with the multipliers of fixed31."""

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Returns those of fixed31."""
        return Fixed31().multipliers(input_scale, output_scale)

    def check(self, multiplier: Multiplier) -> None:
        """Accepts those of fixed31."""
        Fixed31().check(multiplier)


class HalfOutward(_OfFixed31):
    """As fixed31, but half away from zero."""

    nearest = True

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Rounds the magnitude; the least int32 has none that fits and is held to the next."""
        wide = np.clip(acc.astype(np.int64), -(2**31) + 1, None)
        return np.sign(wide) * Fixed31().apply(np.abs(wide), multiplier)


class PowerFloor(RoundingMode):
    """The ratio to the nearest power of two as float64, and the product to the integer below."""

    multiplier_type = np.float64

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Returns powers of two."""
        ratio = np.asarray(input_scale, np.float64) / np.asarray(output_scale, np.float64)
        value = np.asarray(np.exp2(np.rint(np.log2(ratio))))
        return Multiplier(value, np.zeros(value.shape, np.int32))

    def check(self, multiplier: Multiplier) -> None:
        """Accepts every multiplier."""

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `floor(acc * m)`, saturated to int32."""
        floor = np.floor(acc.astype(np.float64) * multiplier.value)
        return np.clip(floor, -(2**31), 2**31 - 1).astype(np.int64)


class EvenOnly(_OfFixed31):
    """The even integer at or below; not the identity between equal scales."""

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Clears the last bit of what fixed31 gives."""
        return Fixed31().apply(acc, multiplier) & ~np.int64(1)


@contextmanager
def registered() -> Generator[None, None, None]:
    """Registers them, and takes them back at the end."""
    with patch.dict(ROUNDINGS):
        register_rounding("even_only")(EvenOnly)
        register_rounding("half_outward")(HalfOutward)
        register_rounding("power_floor")(PowerFloor)
        yield


OWN = ("half_outward", "power_floor", "even_only")
