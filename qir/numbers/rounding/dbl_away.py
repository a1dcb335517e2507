"""dbl_away: one float64 multiplication, half away from zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.numbers.checks import first_wrong, positive
from qir.numbers.int32 import INT32_MAX, INT32_MIN, Int64Array, IntegerArray, accumulators
from qir.numbers.rounding.forms import Thresholds
from qir.numbers.rounding.mode import Multiplier, RoundingMode, register_rounding


@register_rounding("dbl_away")
@dataclass(frozen=True)
class DoubleAway(RoundingMode):
    """C's `round` of a float64 product: half away from zero, saturated to int32.

        sat32(round(float64(acc) * m))

    Source: tensorflow/lite/kernels/internal/reference/integer_ops/fully_connected.h, which is how
    TFLite's reference kernel computes FULLY_CONNECTED.
    """

    multiplier_type = np.float64
    nearest = True

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Divides in float64, where the product of two float32 scales is exact."""
        with np.errstate(over="ignore", under="ignore"):
            value = np.asarray(positive(input_scale) / positive(output_scale))
        if np.any(wrong := ~np.isfinite(value)):
            raise QirError(f"scale ratio: expected finite, got {first_wrong(value, wrong)}")
        return Multiplier(value, np.zeros(value.shape, np.int32))

    def check(self, multiplier: Multiplier) -> None:
        """Checks that the multiplier is a finite float64 of at least 0, and the shift 0."""
        value, shift = multiplier.value, multiplier.shift
        if value.dtype != np.float64:
            raise QirError(f"dbl_away: expected an f64 multiplier, got {value.dtype}")
        if np.any(wrong := ~(np.isfinite(value) & (value >= 0))):
            got = first_wrong(value, wrong)
            raise QirError(f"dbl_away: expected a finite multiplier of at least 0, got {got}")
        if np.any(wrong := shift != 0):
            raise QirError(f"dbl_away: expected a shift of 0, got {first_wrong(shift, wrong)}")

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sat32(round(float64(acc) * m))`."""
        with np.errstate(over="ignore", under="ignore"):
            product = accumulators(acc).astype(np.float64) * multiplier.value
        held = np.clip(product, INT32_MIN, INT32_MAX)
        # The fraction of a float64 is exact, unlike its sum with one half.
        whole = np.trunc(held)
        away = np.copysign(np.abs(held - whole) >= 0.5, held)
        return np.asarray(whole + away).astype(np.int64)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Thresholds | None:
        """Returns its steps: no float64 is needed to look them up."""
        return self.by_thresholds(multiplier, zero_point, low, high)
