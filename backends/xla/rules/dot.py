"""Matrix products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.accumulate import accumulation, dot_rows, sums_bytes, sums_numbers
from qir.backends.xla.lowering import lowering
from qir.ir import Node
from qir.ops import Dot
from qir.types import Array


@lowering(Dot, legal=sums_numbers)
def dot(op: Dot, node: Node) -> Computation:
    """One dot with float32 sums; integers wrap."""
    element = node.output.type.dtype

    def run(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        shared = tuple(range(op.batch))
        dimensions = (((x.ndim - 1,), (kernel.ndim - 2,)), (shared, shared))
        sums = jnp.float32 if element.is_float else element.numpy
        result = lax.dot_general(x, kernel, dimensions, preferred_element_type=sums)
        return (result if bias is None else result + bias).astype(element.numpy)

    return Computation(run, node.inputs)


@lowering(Dot, legal=sums_bytes)
def signed_dot(op: Dot, node: Node) -> Computation:
    """One dot of signed bytes for each pair of limbs."""
    summed = (node.inputs[1].type.rank - 2,)

    def product(x: jax.Array, weights: jax.Array, points: Array | None, zero: int) -> jax.Array:
        return dot_rows(x, weights, points, op.batch)

    return accumulation(node, summed, product)
