"""Normalizations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qir.backends.native.computation import Computation
from qir.backends.xla.lowering import floating, lowering
from qir.ir import Node
from qir.ops import BatchNorm


@lowering(BatchNorm)
def batch_norm(op: BatchNorm, node: Node) -> Computation:
    """The affine map that the statistics make."""

    def run(
        x: jax.Array, gamma: jax.Array, beta: jax.Array, mean: jax.Array, variance: jax.Array
    ) -> jax.Array:
        factor = gamma / jnp.sqrt(variance + op.epsilon)
        return x * factor + (beta - mean * factor)

    return floating(node, run)
