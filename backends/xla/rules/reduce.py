"""Reductions over whole axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.xla.codes import code_of, steps
from qir.backends.xla.lowering import Step, coded, floating, lowering, plain
from qir.backends.xla.requantize import Factor, rescaling
from qir.fixed_point import ROUNDINGS
from qir.ir import Node
from qir.ops import Mean


@lowering(Mean, legal=plain)
def mean(op: Mean, node: Node) -> Step:
    """The sum over the count."""
    return floating(node, lambda x: jnp.mean(x, axis=op.axes, keepdims=op.keep_axes))


@lowering(Mean, legal=coded)
def rescaled_sum(op: Mean, node: Node) -> Step:
    """An exact sum in int32, rescaled by a multiplier that holds the count."""
    x_code, code = code_of(node.inputs[0].type), code_of(node.output.type)
    scale = code.scale.array.astype(np.float64) * op.count(node.inputs[0].type)
    multiplier = ROUNDINGS["fixed31"].multipliers(x_code.scale.array, scale)
    rescale, factors = rescaling(node.output.name, multiplier, code)

    def run(x: jax.Array, factor: Factor, shift: Factor) -> jax.Array:
        differences = steps(x, x_code)
        total = jnp.sum(differences, axis=op.axes, keepdims=op.keep_axes, dtype=jnp.int32)
        return rescale(total, factor, shift)

    return Step(run, (*node.inputs, *factors))
