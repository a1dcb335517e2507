"""Floating-point numbers of few bits: what their patterns mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def minifloat(exponent_bits: int, mantissa_bits: int) -> NDArray[np.float64]:
    """Returns the number of each pattern: a sign, an exponent, a mantissa, the highest bit first.

    The exponent's bias is 2^(bits - 1) - 1; exponent 0 is for numbers without a leading 1. The
    patterns that a format takes for infinities and NaN are numbers here.

    Args:
        exponent_bits: Bits of the exponent.
        mantissa_bits: Bits of the mantissa.

    Returns:
        Numbers in order of their patterns, -0.0 among them.
    """
    pattern = np.arange(2 ** (exponent_bits + mantissa_bits))
    exponent, mantissa = pattern >> mantissa_bits, pattern & (2**mantissa_bits - 1)
    significand = np.where(exponent > 0, mantissa + 2**mantissa_bits, mantissa)
    bias = 2 ** (exponent_bits - 1) - 1
    positive = np.ldexp(significand.astype(float), np.maximum(exponent, 1) - bias - mantissa_bits)
    return np.concatenate([positive, -positive])


E2M1 = minifloat(2, 1)
"""0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives: section 5.3.3 of the OCP Microscaling Formats
(MX) specification, version 1.0."""

E4M3 = np.where(np.arange(256) & 127 == 127, np.nan, minifloat(4, 3))
"""Numbers up to 448, no infinities: table 1 of the OCP 8-bit Floating Point specification (OFP8),
revision 1.0."""

E5M2 = minifloat(5, 2)
E5M2[np.abs(E5M2) > 2.0**16] = np.nan
E5M2[np.abs(E5M2) == 2.0**16] *= np.inf
"""Numbers up to 57344, infinities and NaN: the same table."""


def even_above(order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns where the upper one of two neighbours has an even pattern; 0 is above -0.

    Args:
        order: The patterns from that of the least number to that of the greatest.
    """
    even: NDArray[np.bool_] = order[1:] % 2 == 0
    return even
