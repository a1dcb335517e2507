"""Ops that move numbers without changing them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.lowering import lowering
from qir.ir import Node
from qir.ops import Broadcast, Concat, Reshape, Transpose


@lowering(Reshape)
def reshape(op: Reshape, node: Node) -> Computation:
    """To the shape that the result type tells, in actual sizes."""
    return Computation(jnp.reshape, (*node.inputs, op.shape))


@lowering(Transpose)
def transpose(op: Transpose, node: Node) -> Computation:
    """The axes in another order."""
    return Computation(lambda x: jnp.transpose(x, op.permutation), node.inputs)


@lowering(Broadcast)
def broadcast(op: Broadcast, node: Node) -> Computation:
    """To the shape that the result type tells, in actual sizes."""
    axes = op.placed(node.inputs[0].type.rank)

    def run(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return lax.broadcast_in_dim(x, shape, axes)

    return Computation(run, (*node.inputs, op.shape))


@lowering(Concat)
def concatenate(op: Concat, node: Node) -> Computation:
    """One after the other."""

    def run(*xs: jax.Array) -> jax.Array:
        return jnp.concatenate(xs, axis=op.axis)

    return Computation(run, node.inputs)
