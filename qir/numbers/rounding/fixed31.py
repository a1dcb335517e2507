"""fixed31: 31 significant bits, one rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.numbers.int32 import (
    INT32_MAX,
    INT32_MIN,
    Int64Array,
    IntegerArray,
    accumulators,
    rounding_shift,
)
from qir.numbers.long_sums import long_scaled
from qir.numbers.rounding.forms import Scaled
from qir.numbers.rounding.mode import Multiplier, RoundingMode, register_rounding
from qir.numbers.rounding.significand import check_shifted, scaled, significand31


@register_rounding("fixed31")
@dataclass(frozen=True)
class Fixed31(RoundingMode):
    """The canonical mode: 31 significant bits and one rounding, half toward +infinity.

        sat32(floor((acc * M + 2^(s-1)) / 2^s)),  M = 0 or 2^30 <= M < 2^31,  1 <= s <= 62

    `acc` is int32, so the product and the rounding term fit int64: 2^62 + 2^61 < 2^63.
    `sat32(v) = min(max(v, -2^31), 2^31 - 1)` acts on the rounded quotient, before the zero point is
    added. It can act only for m > 1 (m = 1 returns `acc` itself), and no result of at most 16 bits
    shows it, since the clamp gives the same bound with or without it.
    """

    nearest = True
    takes_long = True

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Rounds the float64 ratio to 31 significant bits, as TFLite's QuantizeMultiplier does.

        A ratio below 2^-32 takes every int32 below one half and gets M = 0 and, by convention,
        s = 31. A ratio that rounds to 2^30 or more has no shift and is an error.
        """
        return significand31(input_scale, output_scale)

    def check(self, multiplier: Multiplier) -> None:
        """Checks that M is 0 or of 31 significant bits, and that 1 <= s <= 62."""
        check_shifted(self.name, multiplier, 2**30)

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sat32(floor((acc * M + 2^(s-1)) / 2^s))`."""
        product = accumulators(acc) * multiplier.value.astype(np.int64)
        return np.clip(rounding_shift(product, multiplier.shift), INT32_MIN, INT32_MAX)

    def apply_long(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sat32(floor((acc * M + 2^(s+15)) / 2^(s+16)))`."""
        return long_scaled(acc, multiplier.value, multiplier.shift)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Scaled:
        """Returns the product and the one rounding."""
        return scaled(multiplier)

    def thresholds(self, multiplier: Multiplier, steps: ArrayLike) -> Int64Array:
        """Returns `ceil((2*step - 1) * 2^(s-1) / M)`, held to [-2^31, 2^31]; see the base class.

        A product beyond 2^62 is not formed: the quotient would leave int32, as M < 2^31. No more is
        one formed for M = 0, whose only result is 0.
        """
        odd = 2 * np.asarray(steps, np.int64) - 1
        shift = multiplier.shift.astype(np.int64) - 1
        small = (multiplier.value > 0) & (np.abs(odd) <= np.right_shift(np.int64(2**62), shift))
        divisor = np.maximum(multiplier.value.astype(np.int64), 1)
        quotient = -(-np.left_shift(np.where(small, odd, 0), shift) // divisor)
        outside = np.where(odd > 0, INT32_MAX + 1, INT32_MIN)
        return np.clip(np.where(small, quotient, outside), INT32_MIN, INT32_MAX + 1)
