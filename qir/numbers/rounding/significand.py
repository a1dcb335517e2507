"""Ratios of scales as an integer of 31 bits and a shift, which several modes share."""

from __future__ import annotations

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
from qir.numbers.rounding.forms import Scaled, Ties
from qir.numbers.rounding.mode import Multiplier

MAX_SHIFT = 62


def significand31(
    input_scale: ArrayLike, output_scale: ArrayLike, *, half_away: bool = False
) -> Multiplier:
    """Rounds the float64 ratio of two scales to 31 significant bits.

    A ratio below 2^-32 takes every int32 below one half and gets M = 0 and, by convention, s = 31.

    Args:
        input_scale: Scale of the accumulator.
        output_scale: Scale of the result.
        half_away: Whether a half is rounded up, as C's `round` does, and not to even.

    Returns:
        M, which is 0 or in [2^30, 2^31), and s in [1, 62], so that the ratio is M * 2^-s.

    Raises:
        QirError: A scale is not finite and positive, or the ratio rounds to 2^30 or more, which has
            no shift.
    """
    scale_in, scale_out = positive(input_scale), positive(output_scale)
    with np.errstate(over="ignore", under="ignore"):
        ratio = np.asarray(scale_in / scale_out)
    fraction, exponent = np.frexp(ratio)
    real = np.ldexp(fraction, 31)
    value = np.floor(real + 0.5) if half_away else np.rint(real)
    carried = value == 2**31
    value = np.where(carried, 2**30, value)
    shift = np.where(carried, 30, 31) - exponent
    wrong = (shift < 1) | np.isinf(ratio)
    if np.any(wrong):
        raise QirError(f"scale ratio: expected below 2^30, got {first_wrong(ratio, wrong)}")
    vanishes = shift > MAX_SHIFT
    return Multiplier(
        np.where(vanishes, 0, value).astype(np.int32),
        np.where(vanishes, 31, shift).astype(np.int32),
    )


def check_shifted(name: str, multiplier: Multiplier, least: int) -> None:
    """Checks an integer multiplier that comes with a shift.

    Args:
        name: The mode, for the error.
        multiplier: The multiplier.
        least: The least value beside 0, a power of two.

    Raises:
        QirError: It is no int32, negative or below the least value, or the shift is not in [1, 62].
    """
    value, shift = multiplier.value, multiplier.shift
    if value.dtype != np.int32:
        raise QirError(f"{name}: expected an i32 multiplier, got {value.dtype}")
    if np.any(wrong := (value != 0) & (value < least)):
        got, bits = first_wrong(value, wrong), least.bit_length() - 1
        within = f"of 0 or in [2^{bits}, 2^31)" if bits else "of at least 0"
        raise QirError(f"{name}: expected a multiplier {within}, got {got}")
    if np.any(wrong := (shift < 1) | (shift > MAX_SHIFT)):
        got = first_wrong(shift, wrong)
        raise QirError(f"{name}: expected a shift in [1, {MAX_SHIFT}], got {got}")


def scaled(multiplier: Multiplier) -> Scaled:
    """Returns the machine form of one rounding, half toward +infinity."""
    return Scaled(multiplier.value.astype(np.int32), multiplier.shift)


def scaled_twice(multiplier: Multiplier, ties: Ties) -> Scaled:
    """Returns the machine form that rounds at 2^31 and again in what is left of the shift."""
    first = np.minimum(multiplier.shift, 31)
    return Scaled(multiplier.value.astype(np.int32), first, multiplier.shift - first, ties)


def doubling_high_mul(acc: IntegerArray, multiplier: Multiplier) -> tuple[Int64Array, Int64Array]:
    """Rounds the product at 2^31, half toward +infinity, or at 2^s where s is less.

    This is gemmlowp's SaturatingRoundingDoublingHighMul of `acc * 2^max(0, 31 - s)` and M. Where
    that left shift overflows int32, which in C++ is undefined, the result is that of the product
    as it would be without bounds, saturated.

    Args:
        acc: Values of the int32 range.
        multiplier: An integer multiplier with a shift.

    Returns:
        The rounded product, saturated to int32, and the shift that is left, at least 0.
    """
    shift = multiplier.shift.astype(np.int64)
    first = np.minimum(shift, 31)
    product = accumulators(acc) * multiplier.value.astype(np.int64)
    return np.clip(rounding_shift(product, first), INT32_MIN, INT32_MAX), shift - first
