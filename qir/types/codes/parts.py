"""The parts of a tensor that have a scale of their own, and what their numbers ask of it."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError
from qir.types.arrays import FrozenArray, expand
from qir.types.dtype import Array, DType

SMALLEST_SCALE = 2.0**-125
"""See constraint C7 of Code."""


def magnitudes(array: ArrayLike, parts: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Returns the greatest magnitude in each part of an array.

    Args:
        array: Real numbers.
        parts: The number of parts along each axis, each dividing the array's; () for one in all.

    Returns:
        Numbers of shape `parts`.

    Raises:
        QirError: The parts do not divide the array, or a number is not finite.
    """
    found = np.abs(np.asarray(array)).astype(np.float64, copy=False)
    shape = found.shape
    divided = all(part > 0 and size % part == 0 for part, size in zip(parts, shape, strict=False))
    if parts and not (len(parts) == len(shape) and divided):
        raise QirError(
            f"code: expected parts that divide an array of shape {list(shape)}, got {list(parts)}"
        )
    if not np.all(np.isfinite(found)):
        raise QirError("code: expected finite numbers to fit a code to, got inf or NaN")
    if not parts:
        return np.asarray(found.max(initial=0.0))
    blocked = found.reshape(
        [each for part, size in zip(parts, shape, strict=True) for each in (part, size // part)]
    )
    greatest: NDArray[np.float64] = blocked.max(axis=tuple(range(1, 2 * len(parts), 2)), initial=0)
    return greatest


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


def scales_of(wanted: ArrayLike) -> FrozenArray:
    """Returns scales as codes hold them: float32, inside of what a code may have, 1 for 0."""
    some = np.asarray(wanted, np.float64)
    inside = np.clip(some, SMALLEST_SCALE, 1 / SMALLEST_SCALE)
    return FrozenArray(np.where(some > 0, inside, 1.0), np.float32)


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
    if not least <= bits <= most:
        raise QirError(f"code: expected a width of {least} to {most} bits, got {bits}")
    types = (DType.I2, DType.I4, DType.I8, DType.I16) if signed else (DType.U4, DType.U8, DType.U16)
    return next(dtype for dtype in types if dtype.bits >= bits)
