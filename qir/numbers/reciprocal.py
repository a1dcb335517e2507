"""Reciprocals of integers as significands of 31 bits, for quotients that are rounded once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.numbers.checks import first_wrong, positive
from qir.numbers.int32 import INT32_MAX, INT32_MIN, Int64Array, IntegerArray, rounding_shift

MAX_PLACES = 62
"""The greatest shift of a product of 31 by 31 bits: what more of them are shifted out rounds to 0
or to 1, so that such multipliers become 0."""


def reciprocal(divisor: IntegerArray) -> tuple[Int64Array, Int64Array]:
    """Returns 1 / y to 31 significant bits, rounded down.

    With b the number of bits of y - 1, 2^(b-1) < y <= 2^b and

        1 / y = significand / 2^(30+b),    significand = floor(2^(30+b) / y) in [2^30, 2^31)

    exact for powers of two, else less than 2^-30 too small, relatively.

    Args:
        divisor: Integers in [1, 2^31).

    Returns:
        The significands and 30 + b, of the divisor's shape.

    Raises:
        QirError: A divisor is out of range.
    """
    wide = np.asarray(divisor, np.int64)
    if np.any(wrong := (wide < 1) | (wide > INT32_MAX)):
        raise QirError(
            f"reciprocal: expected an integer in [1, 2^31), got {first_wrong(wide, wrong)}"
        )
    # Exact: frexp of an integer below 2^53 counts its bits.
    bits = np.frexp((wide - 1).astype(np.float64))[1].astype(np.int64)
    return np.left_shift(np.int64(1), 30 + bits) // wide, 30 + bits


def ratio_significand(
    numerator: ArrayLike, denominator: ArrayLike
) -> tuple[Int64Array, Int64Array]:
    """Returns the float64 ratio of two scales as significand / 2^places.

    Args:
        numerator: Scales, finite and positive.
        denominator: Scales, likewise; they broadcast.

    Returns:
        The significands, in [2^30, 2^31), rounded to nearest even, and the places, of any sign.

    Raises:
        QirError: A scale is not finite and positive, or float64 does not hold the ratio.
    """
    with np.errstate(over="ignore", under="ignore"):
        ratio = positive(positive(numerator) / positive(denominator))
    fraction, exponent = np.frexp(ratio)
    value = np.rint(np.ldexp(fraction, 31)).astype(np.int64)
    carried = value == 2**31
    return np.where(carried, 2**30, value), np.where(carried, 30, 31) - exponent.astype(np.int64)


def quotient(
    dividend: IntegerArray,
    divisor: IntegerArray,
    numerator: ArrayLike,
    denominator: ArrayLike,
) -> Int64Array:
    """Returns round(dividend / divisor * numerator / denominator), half toward +infinity.

    The multiplier of a divisor is the high 31 bits of the product of its reciprocal and of the
    ratio's significand, so that there is one product of 32 by 31 bits and one rounding:

        M = (reciprocal * significand) >> 31 in [2^29, 2^31),    s = (30 + b) + places - 31
        floor((x * M + 2^(s-1)) / 2^s)

    M is less than 2^-28 too small, relatively: 256 steps are formed to 2^-20 of one.
    A shift above 62 makes M = 0; one below 1, where every quotient but 0 is beyond 2^28, becomes 1.
    A negative divisor turns the signs of both.

    Args:
        dividend: Integers of magnitude below 2^31.
        divisor: Integers, likewise, none of them 0; they broadcast.
        numerator: The scale of the quotient of steps, finite and positive.
        denominator: The scale of the result, likewise.

    Returns:
        The rounded quotients, saturated to int32.
    """
    value, places = multiplier(divisor, numerator, denominator)
    signed = np.where(divisor < 0, -dividend.astype(np.int64), dividend.astype(np.int64))
    return np.clip(rounding_shift(signed * value, places), INT32_MIN, INT32_MAX)


def multiplier(
    divisor: IntegerArray, numerator: ArrayLike, denominator: ArrayLike
) -> tuple[Int64Array, Int64Array]:
    """Returns M in [0, 2^31) and s in [1, 62] of `quotient`."""
    inverse, exponent = reciprocal(np.abs(divisor.astype(np.int64)))
    value, places = ratio_significand(numerator, denominator)
    # Below 2^62, which int64 holds.
    product, shift = (inverse * value) >> 31, exponent + places - 31
    product = np.where(shift > MAX_PLACES, 0, product)
    return product, np.clip(shift, 1, MAX_PLACES)
