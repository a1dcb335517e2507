"""srdhm_up: two roundings, both half up, of ruy's kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.numbers.int32 import Int64Array, IntegerArray
from qir.numbers.rounding.forms import Scaled
from qir.numbers.rounding.mode import Multiplier, RoundingMode, register_rounding
from qir.numbers.rounding.significand import (
    check_shifted,
    doubling_high_mul,
    scaled_twice,
    significand31,
)


@register_rounding("srdhm_up")
@dataclass(frozen=True)
class SrdhmUp(RoundingMode):
    """Rounds at 2^31 and again in the remaining right shift, both half toward +infinity.

        h = sat32(floor((acc * M + 2^30) / 2^31)),  floor((h + 2^(s-32)) / 2^(s-31))

    With s <= 31, that is m >= 1/2, there is one rounding, that of `fixed31`.

    Source: ruy's kernels for x86, ruy/kernel_avx2_fma.cc and ruy/kernel_avx512.cc, which add one
    half before the arithmetic shift where gemmlowp looks at the sign. TFLite computes CONV_2D and
    FULLY_CONNECTED by them where no delegate does, and rounds so in its own vectors for x86: MEAN
    and QUANTIZE between codes, but for the last few numbers that fill no vector of 16, which are
    rounded by `tflite_double`.
    """

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Rounds the float64 ratio to 31 bits as TFLite's `QuantizeMultiplier` does."""
        return significand31(input_scale, output_scale, half_away=True)

    def check(self, multiplier: Multiplier) -> None:
        """Checks that M is at least 0, and that 1 <= s <= 62."""
        check_shifted(self.name, multiplier, 1)

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns the product after both roundings, saturated to int32."""
        high, places = doubling_high_mul(acc, multiplier)
        return np.asarray((high + ((np.int64(1) << places) >> 1)) >> places)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Scaled:
        """Returns the product with two roundings."""
        return scaled_twice(multiplier, "up")
