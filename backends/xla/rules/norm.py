"""Normalizations and softmax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.codes import table_entry
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.ir import Node
from qir.ops import BatchNorm, Softmax


@lowering(BatchNorm)
def batch_norm(op: BatchNorm, node: Node) -> Computation:
    """The affine map that the statistics make."""

    def run(
        x: jax.Array, gamma: jax.Array, beta: jax.Array, mean: jax.Array, variance: jax.Array
    ) -> jax.Array:
        factor = gamma / jnp.sqrt(variance + op.epsilon)
        return x * factor + (beta - mean * factor)

    return floating(node, run)


@lowering(Softmax, legal=plain)
def softmax(op: Softmax, node: Node) -> Computation:
    """With the greatest number subtracted first."""
    return floating(node, lambda x: jax.nn.softmax(x, axis=op.axis))


@lowering(Softmax, legal=coded)
def softmax_by_table(op: Softmax, node: Node) -> Computation:
    """Exponentials from the table and one int32 division; the table keeps all of it below 2^31."""

    def run(x: jax.Array, table: jax.Array) -> jax.Array:
        wide = x.astype(jnp.int32)
        powers = table_entry(table, jnp.max(wide, axis=op.axis, keepdims=True) - wide)
        total = jnp.sum(powers, axis=op.axis, keepdims=True, dtype=jnp.int32)
        # Both are positive, so that truncation is the floor.
        shares = lax.div(powers * 256 + (total >> 1), jnp.broadcast_to(total, powers.shape))
        return jnp.minimum(shares - 128, 127).astype(jnp.int8)

    return Computation(run, node.inputs)
