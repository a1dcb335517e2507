"""half_away: division by a whole number, half away from zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.numbers.checks import first_wrong, positive
from qir.numbers.int32 import INT32_MAX, Int64Array, IntegerArray, accumulators
from qir.numbers.rounding.forms import Thresholds
from qir.numbers.rounding.mode import Multiplier, RoundingMode, register_rounding


@register_rounding("half_away")
@dataclass(frozen=True)
class HalfAway(RoundingMode):
    """The quotient by a whole divisor, half away from zero: `(acc ± n/2) / n` in C.

    The multiplier is the divisor n itself, an int32 of at least 1 without a shift.

    Source: tensorflow/lite/kernels/internal/reference/integer_ops/pooling.h, by which TFLite
    computes AVERAGE_POOL_2D in all its kernels, on sums of what is stored: the zero point is not
    subtracted before, as it is the same on both sides.
    """

    nearest = True

    @property
    def has_shift(self) -> bool:
        """Whether a multiplier comes with a shift: a divisor does not."""
        return False

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Takes the divisor of a ratio of scales that is 1/n for a whole n below 2^31."""
        scale_in, scale_out = positive(input_scale), positive(output_scale)
        with np.errstate(over="ignore", under="ignore"):
            divisor = np.rint(scale_out / scale_in)
            wrong = (divisor < 1) | (divisor > INT32_MAX) | (divisor * scale_in != scale_out)
        if np.any(wrong):
            got = first_wrong(np.asarray(scale_in / scale_out), wrong)
            raise QirError(f"half_away: expected a scale ratio of 1/n for a whole n, got {got}")
        return Multiplier(divisor.astype(np.int32), np.zeros(divisor.shape, np.int32))

    def check(self, multiplier: Multiplier) -> None:
        """Checks that the divisor is an int32 of at least 1, and the shift 0."""
        value, shift = multiplier.value, multiplier.shift
        if value.dtype != np.int32:
            raise QirError(f"half_away: expected an i32 divisor, got {value.dtype}")
        if np.any(wrong := value < 1):
            got = first_wrong(value, wrong)
            raise QirError(f"half_away: expected a divisor of at least 1, got {got}")
        if np.any(wrong := shift != 0):
            raise QirError(f"half_away: expected a shift of 0, got {first_wrong(shift, wrong)}")

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sign(acc) * floor((|acc| + floor(n/2)) / n)`."""
        wide, divisor = accumulators(acc), multiplier.value.astype(np.int64)
        return np.asarray(np.sign(wide) * ((np.abs(wide) + divisor // 2) // divisor))

    def thresholds(self, multiplier: Multiplier, steps: ArrayLike) -> Int64Array:
        """Returns `step * n - floor(n/2)` for steps above 0, or the first above the last tie.

        A step of 0 or less is reached by all that -step + 1 is not the magnitude of.
        """
        wanted, divisor = np.asarray(steps, np.int64), multiplier.value.astype(np.int64)
        half = divisor // 2
        up = wanted * divisor - half
        # The greatest magnitude that rounds to -step.
        down = -((1 - wanted) * divisor - half - 1)
        return np.clip(np.where(wanted > 0, up, down), -(2**31), INT32_MAX + 1)

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Thresholds | None:
        """Returns its steps."""
        return self.by_thresholds(multiplier, zero_point, low, high)
