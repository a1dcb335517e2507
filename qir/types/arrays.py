"""Arrays that types and ops hold: frozen, equal by content, spelled in the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from math import lcm, prod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import counted
from qir.types.dtype import Array

ALIGNMENT = 64
"""Bytes of which the place of an array is a multiple where XLA on CPU reads it without a copy."""


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns an array of any numbers that XLA on CPU computes with where it lies.

    It copies those of `numpy.empty`: constants as large as weights would be in memory twice while a
    program is calibrated.

    Args:
        shape: The shape.
        dtype: The numpy type.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    octets = np.empty(size + ALIGNMENT, np.uint8)
    start = -octets.ctypes.data % ALIGNMENT
    whole: Array = octets[start : start + size].view(dtype).reshape(shape)
    return whole


def format_number(value: Any) -> str:
    """Returns the shortest text that reads back to the same number of the value's own type."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return str(value)
    return str(np.float32(value))


def format_numbers(array: Array) -> str:
    """Spells an array as nested lists."""
    if array.ndim == 0:
        return format_number(array[()])
    return "[" + ", ".join(map(format_numbers, array)) + "]"


class FrozenArray:
    """An array that can't change, equal and hashed by its content; what types and ops hold.

    Content is compared by a digest, which is computed when it is first asked for: the hash looks at
    a few numbers only, so that a dict of large arrays reads those that may be equal.

    Args:
        array: Anything numpy makes an array of; it is copied.
        dtype: The numpy type to convert to.
    """

    __slots__ = ("__dict__", "array")

    def __init__(self, array: ArrayLike, dtype: Any = None) -> None:
        self.array: Array = np.array(array, dtype=dtype, order="C", copy=True)
        self.array.flags.writeable = False

    @classmethod
    def by_reference(cls, array: Array) -> Self:
        """Wraps an array without a copy where it is contiguous; its owner must not change it."""
        frozen = cls.__new__(cls)
        if array.flags.writeable or not array.flags.c_contiguous:
            array = np.ascontiguousarray(array).reshape(array.shape).view()
            array.flags.writeable = False
        frozen.array = array
        return frozen

    @classmethod
    def view(cls, array: Array) -> Self:
        """Wraps an array that can't be written to as it is: its order in memory may be any."""
        frozen = cls.__new__(cls)
        frozen.array = array
        return frozen

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, which of a product of factors is known without multiplying them."""
        return self.array.shape

    @property
    def factors(self) -> tuple[FrozenArray, ...]:
        """The arrays of which it is the product: itself, but for a `FactoredArray`."""
        return (self,)

    def map(self, change: Callable[[Array], Array]) -> FrozenArray:
        """Returns what a change of layout makes of it; a scalar stays."""
        return FrozenArray(change(self.array)) if self.array.ndim else self

    def astype(self, dtype: Any) -> FrozenArray:
        """Returns it in another numpy type."""
        return self if self.array.dtype == dtype else FrozenArray(self.array, dtype)

    @cached_property
    def digest(self) -> str:
        """A hexadecimal name of the content: dtype, shape and bytes."""
        return array_digest(self.array)

    @cached_property
    def _hash(self) -> int:
        some = self.array.flat[:: max(1, self.array.size // 16)]
        return hash((self.array.dtype.str, self.array.shape, some.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, FrozenArray):
            return NotImplemented
        one, two = self.array, other.array
        if one is two:
            return True
        if one.dtype != two.dtype or one.shape != two.shape:
            return False
        if one.nbytes <= _FEW_BYTES:
            return one.tobytes() == two.tobytes()
        return self._hash == other._hash and self.digest == other.digest

    def __repr__(self) -> str:
        if self.array.size <= 8:
            return format_numbers(self.array)
        return f"<{counted(self.array.size, 'value')}>"


_FEW_BYTES = 1024
"""Up to this many, comparing the bytes takes less time than a digest."""


def array_digest(array: Array) -> str:
    """Returns 16 hexadecimal digits that name an array by its dtype, shape and bytes (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def expand(factors: Array, shape: tuple[int, ...]) -> Array:
    """Stretches scales or zero points until they broadcast against a tensor.

    Args:
        factors: A scalar, or an array of the tensor's rank in which each dimension divides the
            tensor's.
        shape: The tensor's shape.

    Returns:
        An array that broadcasts against `shape`; dimensions of size 1 stay 1.
    """
    for axis, (count, size) in enumerate(zip(factors.shape, shape, strict=factors.ndim > 0)):
        if count not in (1, size):
            factors = np.repeat(factors, size // count, axis=axis)
    return factors


def on_one_grid(scale: Array, other: Array) -> tuple[Array, Array]:
    """Stretches scales of two codes of a tensor until they broadcast against each other.

    Args:
        scale: A scalar, or an array of the tensor's rank in which each dimension divides the
            tensor's.
        other: Likewise, whose blocks may have other sizes.
    """
    pairs = zip(scale.shape, other.shape, strict=bool(scale.ndim and other.ndim))
    if all(1 in pair or len({*pair}) == 1 for pair in pairs):
        return scale, other
    grid = tuple(map(lcm, scale.shape, other.shape))
    return expand(scale, grid), expand(other, grid)
