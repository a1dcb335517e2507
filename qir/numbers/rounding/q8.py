"""q8: a multiplier in 256ths, of XNNPACK's conversions between 8-bit codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.numbers.checks import first_wrong, positive
from qir.numbers.int32 import (
    INT32_MAX,
    INT32_MIN,
    Int64Array,
    IntegerArray,
    accumulators,
    rounding_shift,
)
from qir.numbers.rounding.forms import Scaled
from qir.numbers.rounding.mode import Multiplier, RoundingMode, register_rounding


@register_rounding("q8")
@dataclass(frozen=True)
class Q8(RoundingMode):
    """The ratio in whole 256ths and one rounding, half toward +infinity.

        sat32(floor((acc * M + 128) / 256)),  M = rint(256 * m),  0 <= M < 2^15

    The coarse multiplier moves one result in ten by one step.

    Source: XNNPACK's `xnn_init_qs8_cvt_scalar_params`, by which its delegate computes TFLite's
    QUANTIZE from one 8-bit code to another for ratios in [2^-8, 2^7].
    """

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Rounds 256 times the ratio, formed in float32 like the runtime's, to even.

        A ratio that rounds to 128 or more is an error.
        """
        scale_in, scale_out = positive(input_scale), positive(output_scale)
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            ratio = np.asarray(scale_in.astype(np.float32) / scale_out.astype(np.float32))
        value = np.rint(256 * ratio.astype(np.float64))
        if np.any(wrong := ~(value < 2**15)):
            raise QirError(f"scale ratio: expected below 128, got {first_wrong(ratio, wrong)}")
        return Multiplier(value.astype(np.int32), np.full(value.shape, 8, np.int32))

    def check(self, multiplier: Multiplier) -> None:
        """Checks that 0 <= M < 2^15 and s = 8."""
        value, shift = multiplier.value, multiplier.shift
        if value.dtype != np.int32:
            raise QirError(f"q8: expected an i32 multiplier, got {value.dtype}")
        if np.any(wrong := (value < 0) | (value >= 2**15)):
            got = first_wrong(value, wrong)
            raise QirError(f"q8: expected a multiplier in [0, 2^15), got {got}")
        if np.any(wrong := shift != 8):
            raise QirError(f"q8: expected a shift of 8, got {first_wrong(shift, wrong)}")

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sat32(floor((acc * M + 128) / 256))`."""
        product = accumulators(acc) * multiplier.value.astype(np.int64)
        return np.clip(rounding_shift(product, 8), INT32_MIN, INT32_MAX)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Scaled:
        """Returns the product and the one rounding."""
        return Scaled(multiplier.value.astype(np.int32), multiplier.shift)
