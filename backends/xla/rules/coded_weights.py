"""Weights in codes under ops of floating point: decoded where they are read, a tile at a time."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Argument, Computation, Parameter
from qir.backends.xla.codes import multiples
from qir.backends.xla.lowering import lowering, spread
from qir.backends.xla.packed import packed, unpacked, unpacked_parts
from qir.ir import Node, Value
from qir.ops import Dequantize, Dot, Embedding
from qir.types import Affine, Array, Code

TILE_BYTES = 2**20
"""Floats of weights that are decoded at once. A loop over tiles takes about as long as decoding all
of them does, which writes the floats to memory and reads them back; one tile stays in the cache."""


def coded_constant(value: Value) -> Value | None:
    """Returns the constant whose numbers a value decodes; None for any other value."""
    if not isinstance(value.op, Dequantize) or value.node is None:
        return None
    (stored,) = value.node.inputs
    return stored if stored.is_constant and _varies_by_scale(stored.type.code) else None


def _varies_by_scale(code: Code) -> bool:
    """Whether scale and multipliers are all that varies by place, in few bits."""
    points = code.zero_points if isinstance(code, Affine) else np.zeros(())
    return code.storage.bits <= 8 and not points.ndim


def _decoded(stored: jax.Array, code: Code, scale: jax.Array, factors: jax.Array) -> jax.Array:
    """Returns `Code.decode` of stored numbers, scale and multipliers given beside them."""
    real = multiples(stored, code if code.multipliers is None else replace(code, multipliers=None))
    if code.multipliers is not None:
        real = real * spread(factors.astype(jnp.float32), real.shape)
    return (real * spread(scale, real.shape)).astype(code.expressed.numpy)


def _factors(code: Code) -> Array:
    """Returns the multipliers of a code, or a single 1."""
    return np.ones((), np.uint8) if code.multipliers is None else code.multipliers.array


def _rows(array: jax.Array, start: int, stop: int, rows: int) -> jax.Array:
    """Returns the scales of some of the rows that blocks of rows share, as few as there can be."""
    if array.shape[0] == 1:
        return array
    block = rows // array.shape[0]
    if start % block or stop % block:
        return jnp.repeat(array, block, axis=0)[start:stop]
    return array[start // block : stop // block]


def _decodes_constant(op: Dequantize, node: Node) -> bool:
    return coded_constant(node.output) is not None


@lowering(Dequantize, legal=_decodes_constant)
def decoded_constant(op: Dequantize, node: Node) -> Computation:
    """Bytes of several numbers each, taken apart; one float32 multiplication."""
    (value,) = node.inputs
    code, name = value.type.code, value.name
    size = prod(value.array.shape)
    octets = packed(value.array.reshape(-1), code.storage, 0)
    arguments: list[Argument] = [
        Parameter(f"{name}.packed", octets) if octets.dtype != value.array.dtype else value,
        Parameter(f"{name}.scale", code.decoding_scale),
        Parameter(f"{name}.multipliers", _factors(code)),
    ]

    def run(octets: jax.Array, scale: jax.Array, factors: jax.Array) -> jax.Array:
        stored = unpacked(octets.reshape(-1), code.storage, 0, size)
        return _decoded(stored.reshape(value.type.known_shape), code, scale, factors)

    return Computation(run, tuple(arguments))


def _reads_coded_weights(op: Dot, node: Node) -> bool:
    kernel = node.inputs[1]
    stored = coded_constant(kernel)
    return stored is not None and kernel.type.rank == 2 and bool(stored.array.size)


@lowering(Dot, legal=_reads_coded_weights)
def dot_of_coded_weights(op: Dot, node: Node) -> Computation:
    """Weights decoded a tile of columns at a time, from bytes of several numbers each."""
    x, kernel, *bias = node.inputs
    stored = coded_constant(kernel)
    assert stored is not None
    code, name = stored.type.code, stored.name
    rows, columns = kernel.type.known_shape
    count = -(-4 * rows * columns // TILE_BYTES)
    width = -(-columns // count)
    count = -(-columns // width)

    def tiles(array: Array) -> Array:
        """Cuts an array of the weights' rank into tiles of columns [tiles, rows, width]."""
        if array.ndim == 0 or array.shape[1] == 1:
            return np.broadcast_to(array.reshape(1, -1, 1), (count, array.size, 1))
        wide = np.repeat(array, columns // array.shape[1], axis=1)
        wide = np.pad(wide, ((0, 0), (0, count * width - columns)), constant_values=1)
        return np.ascontiguousarray(wide.reshape(-1, count, width).swapaxes(0, 1))

    arguments: tuple[Argument, ...] = (
        Parameter(f"{name}.packed", packed(tiles(stored.array), code.storage, 1)),
        Parameter(f"{name}.scale", tiles(code.decoding_scale)),
        Parameter(f"{name}.multipliers", tiles(_factors(code))),
    )

    def run(
        x: jax.Array,
        octets: jax.Array,
        scale: jax.Array,
        factors: jax.Array,
        bias: jax.Array | None = None,
    ) -> jax.Array:
        contracted = (((x.ndim - 1,), (0,)), ((), ()))

        def product(tile: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            octets, scale, factors = tile
            start, total = 0, jnp.zeros((), jnp.float32)
            for part in unpacked_parts(octets, code.storage, 0, rows):
                stop = start + part.shape[0]
                arrays = (_rows(array, start, stop, rows) for array in (scale, factors))
                weights = _decoded(part, code, *arrays)
                total = total + lax.dot_general(
                    x[..., start:stop], weights, contracted, preferred_element_type=jnp.float32
                )
                start = stop
            return total

        if count == 1:
            result = product((octets[0], scale[0], factors[0]))
        else:
            found = jnp.moveaxis(lax.map(product, (octets, scale, factors)), 0, -2)
            result = found.reshape(*x.shape[:-1], count * width)[..., :columns]
        return (result if bias is None else result + bias).astype(node.output.type.dtype.numpy)

    return Computation(run, (x, *arguments, *bias))


def _reads_coded_table(op: Embedding, node: Node) -> bool:
    table = node.inputs[0]
    stored = coded_constant(table)
    if stored is None or table.type.rank != 2:
        return False
    arrays = (stored.type.code.decoding_scale, _factors(stored.type.code))
    return all(array.ndim == 0 or array.shape[0] in (1, table.type.shape[0]) for array in arrays)


@lowering(Embedding, legal=_reads_coded_table)
def rows_of_coded_table(op: Embedding, node: Node) -> Computation:
    """A gather of rows of bytes, which are decoded after."""
    table, ids = node.inputs
    stored = coded_constant(table)
    assert stored is not None
    code, name = stored.type.code, stored.name
    columns = stored.array.shape[1]
    arguments: tuple[Argument, ...] = (
        Parameter(f"{name}.packed", packed(stored.array, code.storage, 1)),
        Parameter(f"{name}.scale", code.decoding_scale),
        Parameter(f"{name}.multipliers", _factors(code)),
    )

    def taken(array: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.take(array, ids, axis=0, mode="clip")

    def factor_of(array: jax.Array, ids: jax.Array) -> jax.Array:
        return array if array.ndim == 0 or array.shape[0] == 1 else taken(array, ids)

    def run(octets: jax.Array, scale: jax.Array, factors: jax.Array, ids: jax.Array) -> jax.Array:
        if ids.dtype == jnp.uint32:
            ids = jnp.minimum(ids, np.uint32(2**31 - 1))
        flat = ids.astype(jnp.int32).reshape(-1)
        numbers = unpacked(taken(octets, flat), code.storage, 1, columns)
        rows = _decoded(numbers, code, factor_of(scale, flat), factor_of(factors, flat))
        rows = rows.astype(jnp.float32) * np.float32(op.factor) if op.factor != 1 else rows
        shape = (*ids.shape, columns)
        return rows.reshape(shape).astype(node.output.type.dtype.numpy)

    return Computation(run, (*arguments, ids))
