"""Reductions over whole axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.codes import code_of, steps
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.backends.xla.materialize import stored
from qir.ir import Node
from qir.ops import ArgMax, Mean, ReduceMax, ReduceMin, ReduceProd, ReduceSum
from qir.ops.reduce import Reduction


@lowering(Mean, legal=plain)
def mean(op: Mean, node: Node) -> Computation:
    """The sum over the count."""
    return floating(node, lambda x: jnp.mean(x, axis=op.axes, keepdims=op.keep_axes))


@lowering(ReduceSum, legal=plain)
def total(op: ReduceSum, node: Node) -> Computation:
    """Sums in float32; integers wrap in their own type."""
    return floating(node, lambda x: jnp.sum(x, axis=op.axes, keepdims=op.keep_axes, dtype=x.dtype))


@lowering(ReduceProd)
def product(op: ReduceProd, node: Node) -> Computation:
    """Products in float32; integers wrap in their own type."""
    return floating(node, lambda x: jnp.prod(x, axis=op.axes, keepdims=op.keep_axes, dtype=x.dtype))


@lowering(ReduceMax)
def greatest(op: ReduceMax, node: Node) -> Computation:
    """The greatest number, on codes of the stored ones."""
    return Computation(lambda x: jnp.max(x, axis=op.axes, keepdims=op.keep_axes), node.inputs)


@lowering(ReduceMin)
def least(op: ReduceMin, node: Node) -> Computation:
    """The least number, on codes of the stored ones."""
    return Computation(lambda x: jnp.min(x, axis=op.axes, keepdims=op.keep_axes), node.inputs)


@lowering(ArgMax)
def argmax(op: ArgMax, node: Node) -> Computation:
    """The first place of the greatest number, on codes of the stored ones."""

    def run(x: jax.Array) -> jax.Array:
        ordered = x.astype(jnp.int8) if x.dtype == jnp.bool_ else x
        index = lax.argmax(ordered, op.axis, np.dtype(np.int32))
        return jnp.expand_dims(index, op.axis) if op.keep_axes else index

    return Computation(run, node.inputs)


@lowering(Mean, ReduceSum, legal=coded)
def exact_sum(op: Reduction, node: Node) -> Computation:
    """An exact sum in int32."""
    code = code_of(node.inputs[0].type)

    def run(x: jax.Array) -> jax.Array:
        differences = steps(stored(x), code)
        return jnp.sum(differences, axis=op.axes, keepdims=op.keep_axes, dtype=jnp.int32)

    return Computation(run, node.inputs)
