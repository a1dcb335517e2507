"""f32_rne: one float32 multiply, half to even."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError
from qir.numbers.checks import first_wrong, positive
from qir.numbers.int32 import INT32_MAX, INT32_MIN, Int64Array, IntegerArray, accumulators
from qir.numbers.long_sums import LONG_PLACES, long_accumulators
from qir.numbers.rounding.forms import Float32
from qir.numbers.rounding.mode import Multiplier, RoundingMode, register_rounding


@register_rounding("f32_rne")
@dataclass(frozen=True)
class Float32NearestEven(RoundingMode):
    """The mode of ONNX Runtime, XNNPACK and QNNPACK: one float32 multiply, half to even.

        clamp(rne(float32(acc) * m), low - zero_point, high - zero_point) + zero_point

    `float32(acc)` rounds to nearest even where |acc| > 2^24. Those runtimes clamp in float, so that
    the conversion to an integer is defined. Here `apply` clamps to int32 in float and `requantize`
    clamps again after adding the zero point: the same integers, if the float bounds are exact.
    """

    multiplier_type = np.float32
    nearest = True
    takes_long = True

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Divides in float32, as the runtimes do: `float32(input_scale) / float32(output_scale)`.

        `float32(input_scale)` is the float32 product of the two scales behind a dot. About a
        quarter of these quotients differ from the rounded float64 ratio.
        """
        scale_in, scale_out = positive(input_scale), positive(output_scale)
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            value = np.asarray(scale_in.astype(np.float32) / scale_out.astype(np.float32))
        if np.any(wrong := ~np.isfinite(value)):
            raise QirError(
                f"scale ratio: expected finite in float32, got {first_wrong(value, wrong)}"
            )
        return Multiplier(value.astype(np.float32), np.zeros(value.shape, np.int32))

    def check(self, multiplier: Multiplier) -> None:
        """Checks that the multiplier is a finite float32 of at least 0, and the shift 0."""
        value, shift = multiplier.value, multiplier.shift
        if value.dtype != np.float32:
            raise QirError(f"f32_rne: expected an f32 multiplier, got {value.dtype}")
        if np.any(wrong := ~(np.isfinite(value) & (value >= 0))):
            got = first_wrong(value, wrong)
            raise QirError(f"f32_rne: expected a finite multiplier of at least 0, got {got}")
        if np.any(wrong := shift != 0):
            raise QirError(f"f32_rne: expected a shift of 0, got {first_wrong(shift, wrong)}")

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `rne(float32(acc) * m)`, saturated to int32."""
        return _rounded(accumulators(acc).astype(np.float32), multiplier)

    def apply_long(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `rne(float32(acc) * 2^-16 * m)`, saturated to int32; one rounding to float32."""
        wide = long_accumulators(acc).astype(np.float32)
        return _rounded(wide * np.float32(2.0**-LONG_PLACES), multiplier)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Float32 | None:
        """Returns the float32 multiplication; bounds far from the zero point have none."""
        try:
            check_float32_bounds(zero_point, low, high)
        except QirError:
            return None
        return Float32(multiplier.value.astype(np.float32))

    def requantize(
        self,
        acc: IntegerArray,
        multiplier: Multiplier,
        zero_point: ArrayLike,
        low: int,
        high: int,
    ) -> Int64Array:
        """Requantizes as the base class says; the bounds are those of `check_float32_bounds`."""
        check_float32_bounds(zero_point, low, high)
        return super().requantize(acc, multiplier, zero_point, low, high)


def _rounded(acc: NDArray[np.float32], multiplier: Multiplier) -> Int64Array:
    with np.errstate(over="ignore", under="ignore"):
        product = acc * multiplier.value.astype(np.float32)
    # float64 holds 2^31 - 1, which float32 does not.
    rounded = np.rint(product).astype(np.float64)
    return np.clip(rounded, INT32_MIN, INT32_MAX).astype(np.int64)


def check_float32_bounds(zero_point: ArrayLike, low: int, high: int) -> None:
    """Checks that float32 holds `low - zero_point` and `high - zero_point` exactly.

    Raises:
        QirError: One of them exceeds 2^24 in magnitude.
    """
    wide_zero_point = np.asarray(zero_point, np.int64)
    reach = max(int(np.max(np.abs(bound - wide_zero_point), initial=0)) for bound in (low, high))
    if reach > 2**24:
        raise QirError(f"f32_rne: expected bounds within 2^24 of the zero point, got {reach}")
