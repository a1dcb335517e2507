"""The parts of a tensor that have a scale of their own, and what their numbers ask of it."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError
from qir.types.arrays import FrozenArray, expand
from qir.types.dims import Shape, format_shape
from qir.types.dtype import Array, DType

SMALLEST_SCALE = 2.0**-125
"""See constraint C7 of Code."""

SMALLEST_NORMAL = np.float32(2.0**-126)
"""The least float32 number that no machine flushes to 0."""


def magnitudes(array: ArrayLike, parts: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Returns the greatest magnitude in each part of an array.

    Args:
        array: Real numbers.
        parts: The number of parts along each axis, each dividing the array's; () for one in all.

    Returns:
        Numbers of shape `parts`.

    Raises:
        QirError: The parts do not divide the array, a number is not finite, or there are none.
    """
    numbers, axes = _by_part(real_numbers(array), parts)
    zero = numbers.dtype.type(0)
    top, bottom = numbers.max(axes, initial=zero), numbers.min(axes, initial=zero)
    found = np.maximum(top.astype(np.float64), np.abs(bottom.astype(np.float64)))
    if not np.all(np.isfinite(found)):
        raise QirError("code: expected finite numbers to fit a code to, got inf or NaN")
    return np.asarray(found)


def real_numbers(array: ArrayLike) -> Array:
    """Returns an array of real numbers; raises QirError for one of words, objects or whatever."""
    try:
        found = np.asarray(array)
    except ValueError:
        raise QirError("code: expected an array, got lists of different lengths") from None
    if found.dtype.kind not in "biuf" and found.dtype != DType.BF16.numpy:
        raise QirError(f"code: expected real numbers to fit a code to, got {found.dtype}")
    return found


def sums(array: Array, parts: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Returns the sum over each part of an array, of shape `parts`, in float64.

    Args:
        array: Real numbers.
        parts: The number of parts along each axis, each dividing the array's; () for one in all.

    Raises:
        QirError: The parts do not divide the array.
    """
    return np.asarray(np.sum(*_by_part(np.asarray(array), parts), dtype=np.float64))


def _by_part(array: Array, parts: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Returns an array with two axes for each, its parts and what is in them, and the latter."""
    if not parts:
        return array, tuple(range(array.ndim))
    shape = array.shape
    # There may be no channels, and so no parts.
    pairs = zip(parts, shape, strict=False)
    divided = all(part == size or (part > 0 and size % part == 0) for part, size in pairs)
    if len(parts) != len(shape) or not divided:
        raise QirError(
            f"code: expected parts that divide an array of shape {list(shape)}, got {list(parts)}"
        )
    pairs = zip(parts, shape, strict=True)
    split = [each for part, size in pairs for each in (part, size // part if part else 1)]
    return array.reshape(split), tuple(range(1, 2 * len(parts), 2))


def check_blocks(constraint: str, shape: Shape, parts: tuple[int, ...], block: int) -> None:
    """Raises QirError unless parts are blocks of one size along one axis, of 1 along all others.

    Args:
        constraint: Its number, for the message.
        shape: The tensor's shape.
        parts: The number of parts along each axis; () for one in all.
        block: The size of a block.
    """
    counts = parts or (1,) * len(shape)
    fits = len(counts) == len(shape) and sorted(
        size // count if isinstance(size, int) and count and size % count == 0 else 0
        for size, count in zip(shape, counts, strict=True)
    ) == [1] * (len(shape) - 1) + [block]
    if not fits:
        raise QirError(
            f"code: {constraint}: expected a scale for each {block} numbers along one axis of "
            f"{format_shape(shape)}, got {list(parts)} of them"
        )


def per_part(array: ArrayLike, factors: Array) -> NDArray[np.float64]:
    """Returns numbers divided by the factor of their part, in float64; 0 where that is 0.

    Args:
        array: Real numbers.
        factors: One for each part.
    """
    numbers = np.asarray(array, np.float64)
    if not prod(numbers.shape):
        return numbers
    spread = np.broadcast_to(expand(factors, numbers.shape), numbers.shape)
    quotient: NDArray[np.float64] = np.divide(
        numbers, spread, out=np.zeros_like(numbers), where=spread != 0
    )
    return quotient


def scales_of(
    wanted: ArrayLike, low: float = SMALLEST_SCALE, high: float = 1 / SMALLEST_SCALE
) -> FrozenArray:
    """Returns scales as codes hold them: float32, inside of what a code may have.

    Args:
        wanted: The scales, 0 where all numbers are 0, which leaves the scale free.
        low: The least scale.
        high: The greatest.
    """
    some = np.asarray(wanted, np.float64)
    margin = 1 + 2.0**-22  # what is rounded to float32 must not leave the bounds
    inside = np.clip(some, low * margin, high / margin)
    return FrozenArray(np.where(some > 0, inside, np.clip(1.0, low, high)), np.float32)


def only_width(kind: str, bits: int | None, only: int) -> None:
    """Raises QirError where a width is asked for that a kind does not have.

    Args:
        kind: The kind, for the message.
        bits: The width asked for; None for the kind's own.
        only: The kind's own.
    """
    if bits not in (None, only):
        raise QirError(f"code: expected {only} bits, which kind {kind} has, got {bits}")


def storage_of(bits: int, *, signed: bool, least: int = 2, most: int = 16) -> DType:
    """Returns the least storage type that holds numbers of so many bits.

    Args:
        bits: The width.
        signed: Whether the numbers are signed.
        least: The least width that the kind has.
        most: The greatest.

    Raises:
        QirError: The width is outside of those.
    """
    if bits not in range(least, most + 1):
        raise QirError(f"code: expected a width of {least} to {most} bits, got {bits}")
    types = (DType.I2, DType.I4, DType.I8, DType.I16) if signed else (DType.U4, DType.U8, DType.U16)
    return next(dtype for dtype in types if dtype.bits >= bits)
