"""Ops that take, repeat, surround or count places of a tensor; codes are moved as stored."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.lowering import lowering
from qir.ir import Node
from qir.ops import Gather, Iota, Pad, Reverse, Slice, Split, Tile
from qir.types import expand


@lowering(Slice)
def slices(op: Slice, node: Node) -> Computation:
    """One slice for each axis that is cut."""

    def run(x: jax.Array) -> jax.Array:
        for axis, start, limit, stride in op.cuts:
            x = lax.slice_in_dim(x, start, limit, stride, axis)
        return x

    return Computation(run, node.inputs)


@lowering(Split)
def split(op: Split, node: Node) -> Computation:
    """One slice for each part."""

    def run(x: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(lax.slice_in_dim(x, *cut, axis=op.axis) for cut in op.cuts)

    return Computation(run, node.inputs)


@lowering(Gather)
def gather(op: Gather, node: Node) -> Computation:
    """A gather of whole slices with clamped indices."""
    return Computation(lambda x, indices: taken(x, indices, op.axis), node.inputs)


def taken(x: jax.Array, indices: jax.Array, axis: int) -> jax.Array:
    """Takes whole slices along an axis; an index outside of it means the nearest place."""
    if indices.dtype == jnp.uint32:
        indices = jnp.minimum(indices, np.uint32(2**31 - 1))
    return jnp.take(x, indices.astype(jnp.int32), axis=axis, mode="clip")


@lowering(Pad)
def pad(op: Pad, node: Node) -> Computation:
    """One pad; where a code per channel holds the value differently, an update of those values."""
    code = node.output.type.quant
    with np.errstate(over="ignore"):
        real = np.asarray(op.value, np.float32 if node.output.type.is_float else None)
    value = real if code is None else op.stored_value(code)
    value = value.astype(node.output.type.dtype.numpy)

    def run(x: jax.Array) -> jax.Array:
        if value.ndim == 0:
            return lax.pad(x, value, [(*sides, 0) for sides in zip(op.low, op.high, strict=True)])
        sizes = tuple(sum(sizes) for sizes in zip(op.low, x.shape, op.high, strict=True))
        around = jnp.broadcast_to(expand(value, sizes), sizes)
        return lax.dynamic_update_slice(around, x, op.low)

    return Computation(run, node.inputs)


@lowering(Reverse)
def reverse(op: Reverse, node: Node) -> Computation:
    """The axes turned round."""
    return Computation(lambda x: lax.rev(x, op.axes), node.inputs)


@lowering(Tile)
def tile(op: Tile, node: Node) -> Computation:
    """A broadcast along new axes, merged by a reshape."""
    return Computation(lambda x: jnp.tile(x, op.repeats), node.inputs)


@lowering(Iota)
def iota(op: Iota, node: Node) -> Computation:
    """Counted in int32 and converted, so that 16-bit floats are rounded from exact numbers."""

    def run(shape: tuple[int, ...]) -> jax.Array:
        return lax.broadcasted_iota(jnp.int32, shape, op.axis).astype(op.element.numpy)

    return Computation(run, (op.shape,))
