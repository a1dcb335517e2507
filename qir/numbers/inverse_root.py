"""The inverse square root of an integer: an exact integer root and one integer division."""

from __future__ import annotations

import numpy as np

from qir.numbers.int32 import Int64Array, IntegerArray


def integer_root(number: IntegerArray) -> Int64Array:
    """Returns floor(sqrt(n)) of integers in [0, 2^62), exactly."""
    wide = number.astype(np.int64)
    # The root of float64 is off by less than one where n has up to 62 bits.
    root = np.sqrt(wide.astype(np.float64)).astype(np.int64)
    root = root - (root * root > wide)
    return np.asarray(root + ((root + 1) * (root + 1) <= wide), np.int64)


def normalized_root(number: IntegerArray) -> tuple[Int64Array, Int64Array]:
    """Returns the square root of integers as a significand and an exponent.

    n is shifted left by an even e until N = n * 2^e lies in [2^60, 2^62).

    Args:
        number: Integers in [1, 2^62).

    Returns:
        floor(sqrt N) in [2^30, 2^31), and e/2 in [0, 30], both int64 of the shape of `number`.
    """
    wide = np.asarray(number, np.int64)
    high, low = wide >> 31, wide & (2**31 - 1)
    # Both halves are exact in float64, whose exponent counts the bits.
    bits = np.where(
        high > 0,
        np.frexp(high.astype(np.float64))[1].astype(np.int64) + 31,
        np.frexp(low.astype(np.float64))[1],
    )
    half = (62 - bits) >> 1
    return integer_root(wide << (2 * half)), half


def inverse_root(number: IntegerArray) -> tuple[Int64Array, Int64Array]:
    """Returns the inverse square root of integers as a significand and an exponent.

    With the root r and the exponent e/2 of `normalized_root`, R = floor((2^61 - 1) / r) is the
    significand:

        1 / sqrt(n) = R * 2^(e/2 - 61) * (1 + d), |d| < 2^-29

    Root and quotient are each rounded down by less than one unit of at least 2^30.

    Args:
        number: Integers in [1, 2^62).

    Returns:
        R in [2^30, 2^31), and e/2 in [0, 30], both int64 of the shape of `number`.
    """
    root, half = normalized_root(number)
    return (2**61 - 1) // root, half
