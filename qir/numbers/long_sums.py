"""Accumulators in i64: sums of products of more than 8 bits, below 2^47.

Sums of up to 2^16 products of two 16-bit integers stay below 2^47. A rounding mode sees such a sum
as an accumulator of 32 bits with 16 binary places behind it: its multiplier is formed of 2^16 times
the ratio of the scales, and has the same form and the same limits.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.numbers.checks import first_wrong
from qir.numbers.int32 import INT32_MAX, INT32_MIN, Int64Array, IntegerArray, rounding_shift

Numbers: TypeAlias = IntegerArray | NDArray[np.floating]

LONG_PLACES = 16
"""The binary places of an accumulator in i64 that go behind those of 32 bits."""

LONG_MIN = INT32_MIN << LONG_PLACES
LONG_MAX = ((INT32_MAX + 1) << LONG_PLACES) - 1


def long_accumulators(acc: IntegerArray) -> Int64Array:
    """Widens accumulators to int64, all of them below 2^47 in magnitude, or -2^47."""
    if acc.size and (acc.max() > LONG_MAX or acc.min() < LONG_MIN):
        wrong = (acc > LONG_MAX) | (acc < LONG_MIN)
        raise QirError(f"accumulator: expected at most 48 bits, got {first_wrong(acc, wrong)}")
    return acc.astype(np.int64, copy=False)


def long_scaled(acc: IntegerArray, value: Numbers, shift: IntegerArray) -> Int64Array:
    """Returns `floor((acc * value + 2^(shift + 15)) / 2^(shift + 16))`, saturated to int32.

    The product has up to 78 bits. Its last 16 have no say, since the half that rounds lies above.

    Args:
        acc: Accumulators of at most 48 bits.
        value: In [0, 2^31), of a shape that broadcasts.
        shift: In [1, 62], likewise.
    """
    wide, factor = long_accumulators(acc), value.astype(np.int64)
    low = wide & (2**LONG_PLACES - 1)
    product = (wide >> LONG_PLACES) * factor + ((low * factor) >> LONG_PLACES)
    return np.clip(rounding_shift(product, shift), INT32_MIN, INT32_MAX)
