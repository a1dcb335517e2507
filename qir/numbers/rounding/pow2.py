"""pow2: a shift with one rounding, for ratios that are powers of two."""

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
from qir.numbers.long_sums import long_scaled
from qir.numbers.rounding.forms import Scaled
from qir.numbers.rounding.mode import Multiplier, RoundingMode, register_rounding
from qir.numbers.rounding.significand import check_shifted, scaled, significand31


@register_rounding("pow2")
@dataclass(frozen=True)
class Pow2(RoundingMode):
    """A rounding right shift, half toward +infinity: `sat32(floor(acc * 2^-k + 1/2))`.

    The multiplier is spelled like that of `fixed31`, M = 2^30 and s = k + 30, whose integers it
    gives: the mode says that the ratio is a power of two, which is what hardware with a shifter
    and no multiplier behind its sums asks of scales. k is in [-29, 32].

    Source: Jain et al., "Trained Quantization Thresholds for Accurate and Efficient Fixed-Point
    Inference of Deep Neural Networks", arXiv:1903.08066, section 3.1. CMSIS-NN's q7 kernels.
    """

    nearest = True
    takes_long = True

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Takes the exponent of a ratio of scales that is a power of two, at least 2^-32.

        A lesser one takes every int32 to 0, and gets M = 0 and, by convention, s = 31.
        """
        ratio = np.asarray(positive(input_scale) / positive(output_scale))
        fraction, _ = np.frexp(ratio)
        if np.any(wrong := fraction != 0.5):
            got = first_wrong(ratio, wrong)
            raise QirError(f"pow2: expected a scale ratio that is a power of two, got {got}")
        return significand31(ratio, 1.0)

    def check(self, multiplier: Multiplier) -> None:
        """Checks that M is 0 or 2^30, and that 1 <= s <= 62."""
        check_shifted(self.name, multiplier, 2**30)
        value = multiplier.value
        if np.any(wrong := (value != 0) & (value != 2**30)):
            raise QirError(
                f"pow2: expected a multiplier of 0 or 2^30, got {first_wrong(value, wrong)}"
            )

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sat32(floor(acc * 2^(30-s) + 1/2))`, or 0 for M = 0."""
        wide = np.where(multiplier.value == 0, 0, accumulators(acc))
        places = multiplier.shift.astype(np.int64) - 30
        left, right = np.maximum(-places, 0), np.maximum(places, 1)
        shifted = np.where(places > 0, rounding_shift(wide, right), wide << left)
        return np.clip(shifted, INT32_MIN, INT32_MAX)

    def apply_long(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sat32(floor(acc * 2^(14-s) + 1/2))`, or 0 for M = 0."""
        return long_scaled(acc, multiplier.value, multiplier.shift)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Scaled:
        """Returns the product with 2^30."""
        return scaled(multiplier)
