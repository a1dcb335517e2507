"""Arrays of a source as operands whose numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from qir.errors import QirError, UnsupportedError
from qir.frontends.shared.known import Known
from qir.types import DType


def constant(array: Any, name: str | None = None) -> Known:
    """Wraps an array of a source, which is held by reference and must not change afterwards.

    Integers of 64 bits, in which many formats write shapes and indices, become i32.

    Args:
        array: The numbers.
        name: The name that the source has for them.

    Raises:
        UnsupportedError: QIR has no such type, or an integer does not fit 32 bits.
    """
    numbers = np.asarray(array)
    subject = f"constant '{name}'" if name is not None else "constant"
    if numbers.dtype.kind in "iu" and numbers.dtype.itemsize == 8:
        low, high = DType.I32.bounds
        if numbers.size and not (low <= numbers.min() and numbers.max() <= high):
            outside = numbers[(numbers < low) | (numbers > high)].flat[0]
            raise UnsupportedError(f"{subject}: expected integers of 32 bits, got {outside}")
        numbers = numbers.astype(np.int32)
    try:
        DType.of(numbers.dtype)
    except QirError as error:
        raise UnsupportedError(f"{subject}: {error.message}") from None
    return Known.of(numbers, name=name)
