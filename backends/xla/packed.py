"""Constants in codes of few bits: packed bytes as parameters, unpacked where they are read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.types import Array, DType


def per_byte(storage: DType) -> int:
    """Returns how many stored numbers a byte holds."""
    return max(1, 8 // storage.bits)


def packed(stored: Array, storage: DType, axis: int) -> Array:
    """Packs numbers along an axis: a byte holds one of each half (or quarter), the first lowest.

    Halves, and not neighbours, so that unpacking puts whole vectors side by side.

    Args:
        stored: Stored numbers.
        storage: Their storage type; those of 8 bits and more stay as they are.
        axis: The axis, which is filled up by zeros to whole bytes.

    Returns:
        u8 of the same rank.
    """
    count = per_byte(storage)
    if count == 1:
        return stored
    bits = stored.astype(np.uint8) & (2**storage.bits - 1)
    fill = [(0, 0)] * bits.ndim
    fill[axis] = (0, -bits.shape[axis] % count)
    result, *others = np.split(np.pad(bits, fill), count, axis)
    for place, part in enumerate(others, start=1):
        result = result | (part << (place * storage.bits))
    return np.ascontiguousarray(result)


def unpacked(packed: jax.Array, storage: DType, axis: int, size: int) -> jax.Array:
    """Reverses `packed`.

    Args:
        packed: What it returned.
        storage: The storage type of the numbers.
        axis: The axis.
        size: How many numbers there are along it.

    Returns:
        Stored numbers in the numpy type of the storage.
    """
    parts = unpacked_parts(packed, storage, axis, size)
    return jnp.concatenate(parts, axis) if parts[1:] else parts[0]


def unpacked_parts(packed: jax.Array, storage: DType, axis: int, size: int) -> list[jax.Array]:
    """Returns what `unpacked` does, cut along the axis into the halves that share bytes.

    XLA on CPU takes ten times as long for numbers that it puts side by side first. It does not see
    through the bytes at compile time, where they are constants of a program.
    """
    fenced: jax.Array = lax.optimization_barrier(packed)  # type: ignore[no-untyped-call]
    count = per_byte(storage)
    if count == 1:
        return [fenced]
    signed, bits = storage.bounds[0] < 0, storage.bits
    octets = lax.bitcast_convert_type(fenced, jnp.int8) if signed else fenced
    shift = lax.shift_right_arithmetic if signed else lax.shift_right_logical
    length = packed.shape[axis]
    parts: list[jax.Array] = []
    for place in range(count):
        left = octets.dtype.type(8 - bits * (place + 1))
        part = shift(lax.shift_left(octets, left), octets.dtype.type(8 - bits))
        rest = min(length, size - place * length)
        if rest > 0 or not parts:
            parts.append(lax.slice_in_dim(part, 0, rest, axis=axis))
    return parts
