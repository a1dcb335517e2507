"""Ops that move numbers without changing them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from qir.backends.native.steps import Step
from qir.backends.xla.lowering import lowering
from qir.ir import Node
from qir.ops import Broadcast, Concat, Reshape, Transpose


@lowering(Reshape)
def reshape(op: Reshape, node: Node) -> Step:
    """To the shape that the result type tells, in actual sizes."""
    return Step(jnp.reshape, (*node.inputs, op.shape))


@lowering(Transpose)
def transpose(op: Transpose, node: Node) -> Step:
    """The axes in another order."""
    return Step(lambda x: jnp.transpose(x, op.permutation), node.inputs)


@lowering(Broadcast)
def broadcast(op: Broadcast, node: Node) -> Step:
    """To the shape that the result type tells, in actual sizes."""
    axes = op.placed(node.inputs[0].type.rank)

    def run(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return lax.broadcast_in_dim(x, shape, axes)

    return Step(run, (*node.inputs, op.shape))


@lowering(Concat)
def concatenate(op: Concat, node: Node) -> Step:
    """One after the other."""

    def run(*xs: jax.Array) -> jax.Array:
        return jnp.concatenate(xs, axis=op.axis)

    return Step(run, node.inputs)
