"""The arrays that a program holds: each content once, a transposed one as the other's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qir.types import Array, DType, FrozenArray


class HeldArray(NamedTuple):
    """Where an array is found.

    Attributes:
        dtype: Its plain type.
        array: The array that is stored.
        is_transposed: Whether it is asked for with its two axes in the other order.
    """

    dtype: DType
    array: FrozenArray
    is_transposed: bool = False


class HeldArrays:
    """Finds for each array of a program the one that is stored for it.

    The table of an embedding and the kernel of the output layer tied to it are often the same
    numbers, [rows, columns] and [columns, rows]: the first one asked for is stored.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[DType, FrozenArray], HeldArray] = {}
        self._matrices: dict[tuple[DType, tuple[int, ...]], list[FrozenArray]] = {}

    def find(self, dtype: DType, array: FrozenArray) -> HeldArray:
        """Returns the stored array that has these numbers; the array itself if none has yet."""
        key = dtype, array
        if key not in self._found:
            self._found[key] = self._stored(dtype, array)
        return self._found[key]

    def _stored(self, dtype: DType, array: FrozenArray) -> HeldArray:
        shape = array.array.shape
        if len(shape) != 2 or min(shape) < 2:
            return HeldArray(dtype, array)
        for other in self._matrices.get((dtype, shape[::-1]), ()):
            if are_transposed(other.array, array.array):
                return HeldArray(dtype, other, is_transposed=True)
        self._matrices.setdefault((dtype, shape), []).append(array)
        return HeldArray(dtype, array)


def are_transposed(one: Array, two: Array) -> bool:
    """Whether two matrices with numbers are each other's transposes, bit for bit."""
    if not one.size or one.dtype != two.dtype or one.shape != two.shape[::-1]:
        return False
    bits = np.dtype(f"u{one.dtype.itemsize}")
    left, right = one.view(bits), two.view(bits).T
    # Most matrices of one shape differ in their first row already.
    return np.array_equal(left[0], right[0]) and np.array_equal(left, right)
