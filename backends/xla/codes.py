"""Stored numbers as XLA computes on them: signed bytes, steps from the zero point, tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.types import Affine, Array, Code, DType, TensorType, expand


def code_of(type: TensorType) -> Affine:
    """Returns the affine code of a type; raises QirError for plain numbers and other kinds."""
    return type.affine


def zero_points(code: Affine, shape: tuple[Any, ...]) -> Array:
    """Returns zero points in int32 that broadcast against a tensor of this shape."""
    return expand(code.zero_points, shape)


def steps(x: jax.Array, code: Code) -> jax.Array:
    """Returns the integers that the scale multiplies, `Code.steps`, in int32."""
    wide = x.astype(jnp.int32)
    if isinstance(code, Affine):
        points = zero_points(code, x.shape)
        wide = wide - points if np.any(points) else wide
    else:
        wide = table_entry(jnp.asarray(step_table(code)), wide - code.range[0])
    return _multiplied(wide, code)


def multiples(x: jax.Array, code: Code) -> jax.Array:
    """Returns what the scale multiplies, `Code.multiples`, in float32."""
    if isinstance(code, Affine):
        return steps(x, code).astype(jnp.float32)
    low, high = code.range
    table = replace(code, multipliers=None).multiples(np.arange(low, high + 1))
    return _multiplied(table_entry(jnp.asarray(table), x.astype(jnp.int32) - low), code)


def step_table(code: Code) -> Array:
    """Returns the step of each stored number in order, without its multiplier, as int32."""
    low, high = code.range
    return replace(code, multipliers=None).steps(np.arange(low, high + 1)).astype(np.int32)


def _multiplied(numbers: jax.Array, code: Code) -> jax.Array:
    if code.multipliers is None:
        return numbers
    return numbers * expand(code.multipliers.array, numbers.shape).astype(numbers.dtype)


def signed(x: Any, storage: DType) -> Any:
    """Returns stored numbers of at most 8 bits as signed bytes; those of u8 are 128 less.

    Args:
        x: A numpy or jax array.
        storage: The storage type.
    """
    if storage is not DType.U8:
        return x.astype(np.int8)
    flipped = x ^ np.uint8(0x80)
    return (
        flipped.view(np.int8)
        if isinstance(flipped, np.ndarray)
        else lax.bitcast_convert_type(flipped, jnp.int8)
    )


def signed_zero_points(type: TensorType) -> Array:
    """Returns the zero points that go with `signed`, int32: [1], or one for each channel.

    The zero point of plain integers is 0.
    """
    offset = 128 if type.dtype is DType.U8 else 0
    points = type.quant.zero_points if isinstance(type.quant, Affine) else np.int32(0)
    return np.asarray(points - np.int32(offset)).reshape(-1)


def table_entry(table: jax.Array, index: jax.Array) -> jax.Array:
    """Returns table[index] for int32 indices inside a table of one dimension.

    A gather of single entries is slow on TPU, where a product with one-hot rows is fast.
    """
    if table.dtype == jnp.bool_:
        return table_entry(table.astype(jnp.uint8), index) != 0
    if table.shape[0] > 256:
        return _gathered_entry(table, index)
    found: jax.Array = lax.platform_dependent(
        table, index, tpu=one_hot_entry, default=_gathered_entry
    )
    return found


def _gathered_entry(table: jax.Array, index: jax.Array) -> jax.Array:
    found: jax.Array = table.at[index].get(mode="promise_in_bounds")
    return found


def one_hot_entry(table: jax.Array, index: jax.Array) -> jax.Array:
    """Returns table[index] by an s8 dot of one-hot rows with the bytes of the table; exact."""
    size = table.dtype.itemsize
    octets = lax.bitcast_convert_type(table, jnp.uint8).reshape(table.shape[0], size)
    rows = (index[..., None] == np.arange(table.shape[0], dtype=np.int32)).astype(jnp.int8)
    contracted = (((index.ndim,), (0,)), ((), ()))
    found = lax.dot_general(
        rows, signed(octets, DType.U8), contracted, preferred_element_type=jnp.int32
    )
    chosen = (found + 128).astype(jnp.uint8)
    return lax.bitcast_convert_type(chosen if size > 1 else chosen[..., 0], table.dtype)
