"""The range of int32, in which accumulators live, and its rounding shift."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError
from qir.numbers.checks import first_wrong

IntegerArray: TypeAlias = NDArray[np.integer]
Int64Array: TypeAlias = NDArray[np.int64]

INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1


def accumulators(acc: IntegerArray) -> Int64Array:
    """Widens accumulators to int64, all of them in the int32 range."""
    if acc.size and (acc.max() > INT32_MAX or acc.min() < INT32_MIN):
        wrong = (acc > INT32_MAX) | (acc < INT32_MIN)
        raise QirError(f"accumulator: expected the int32 range, got {first_wrong(acc, wrong)}")
    return acc.astype(np.int64, copy=False)


def rounding_shift(acc: IntegerArray, shift: ArrayLike) -> Int64Array:
    """Divides by `2**shift`, rounding half toward +infinity: `(acc + 2^(shift-1)) >> shift`.

    Args:
        acc: Integers of magnitude at most 2^62.
        shift: Integer scalar in [1, 62], or an array of such that broadcasts against `acc`.
    """
    wide_shift = np.asarray(shift, np.int64)
    half = np.left_shift(np.int64(1), wide_shift - 1)
    total = np.asarray(np.add(acc, half, dtype=np.int64))
    return np.asarray(np.right_shift(total, wide_shift, out=total))
