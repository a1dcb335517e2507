"""tflite_double: gemmlowp's two roundings, of TFLite's reference kernels."""

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


@register_rounding("tflite_double")
@dataclass(frozen=True)
class TfliteDouble(RoundingMode):
    """Rounds at 2^31, half up, and again in the remaining right shift, half away from zero.

        h = sat32(floor((acc * M + 2^30) / 2^31)),  h / 2^(s-31) to nearest, half away

    A fraction just below one half is carried to the half by the first rounding and over it by the
    second. With s <= 31, that is m >= 1/2, there is one rounding, that of `fixed31`.

    Source: `MultiplyByQuantizedMultiplier` of tensorflow/lite/kernels/internal/common.cc where
    TFLITE_SINGLE_ROUNDING is 0, that is SaturatingRoundingDoublingHighMul and RoundingDivideByPOT
    of gemmlowp/fixedpoint/fixedpoint.h. TFLite computes CONV_2D, MUL, MEAN and QUANTIZE between
    codes so in its reference kernels, and MUL in its optimized ones too.
    """

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Rounds the float64 ratio to 31 bits as `QuantizeMultiplier` does: half away from zero.

        It rounds a ratio whose exponent is below -31 to 0. TFLite forms some ratios in float32,
        such as those of MUL; with an `output_scale` of 1 the ratio itself can be given.
        """
        return significand31(input_scale, output_scale, half_away=True)

    def check(self, multiplier: Multiplier) -> None:
        """Checks that M is at least 0 and 1 <= s <= 62; that of a MEAN may be below 2^30."""
        check_shifted(self.name, multiplier, 1)

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns the product after both roundings, saturated to int32."""
        high, places = doubling_high_mul(acc, multiplier)
        mask = (np.int64(1) << places) - 1
        half = (mask >> 1) + (high < 0)
        return np.asarray((high >> places) + ((high & mask) > half))

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Scaled:
        """Returns the product with two roundings."""
        return scaled_twice(multiplier, "away")
