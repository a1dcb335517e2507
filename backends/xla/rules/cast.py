"""The casts between real numbers and codes, and the lookup."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.xla import arithmetic
from qir.backends.xla.codes import code_of, steps, table_entry, zero_points
from qir.backends.xla.lowering import Step, argument, lowering, spread
from qir.backends.xla.requantize import Factor, rescaling
from qir.ir import Node
from qir.ops import Dequantize, Lookup, Quantize, Requantize
from qir.types import DType


def _affine_result(op: Quantize, node: Node) -> bool:
    return op.to.levels is None


@lowering(Quantize, legal=_affine_result)
def quantize(op: Quantize, node: Node) -> Step:
    """One float32 multiplication, ties to even."""
    code, (low, high) = op.to, op.to.range
    inverse = argument(f"{node.output.name}.inverse_scale", code.inverse_scale)

    def run(x: jax.Array, inverse: Factor) -> jax.Array:
        points = zero_points(code, x.shape)
        factors = spread(inverse, x.shape)
        return arithmetic.quantize(
            x.astype(jnp.float32), factors, points, low, high, code.storage.numpy
        )

    return Step(run, (*node.inputs, inverse))


def _fits_int32(op: Dequantize, node: Node) -> bool:
    return node.inputs[0].type.dtype is not DType.U32


@lowering(Dequantize, legal=_fits_int32)
def dequantize(op: Dequantize, node: Node) -> Step:
    """One float32 multiplication."""
    code = code_of(node.inputs[0].type)
    scale = argument(f"{node.inputs[0].name}.scale", code.scale.array.astype(np.float32))

    def run(x: jax.Array, scale: Factor) -> jax.Array:
        real = arithmetic.dequantize(steps(x, code), 0, spread(scale, x.shape))
        return real.astype(code.expressed.numpy)

    return Step(run, (*node.inputs, scale))


@lowering(Requantize)
def requantize(op: Requantize, node: Node) -> Step:
    """One rounding, by the op's mode."""
    (x,) = node.inputs
    code = code_of(x.type)
    rescale, factors = rescaling(
        node.output.name, op.factors(x.type), op.to, op.bounds, op.rounding
    )

    def run(stored: jax.Array, factor: Factor, shift: Factor) -> jax.Array:
        return rescale(steps(stored, code), factor, shift)

    return Step(run, (x, *factors))


@lowering(Lookup)
def lookup(op: Lookup, node: Node) -> Step:
    """The table's entry for the bits of each stored number."""

    def run(x: jax.Array, table: jax.Array) -> jax.Array:
        return table_entry(table, x.astype(jnp.int32) & (table.shape[0] - 1))

    return Step(run, node.inputs)
