"""Quotients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.computation import Computation, Parameter
from qir.backends.xla.arithmetic import requantize_scaled
from qir.backends.xla.codes import code_of, steps, table_entry, zero_points
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.backends.xla.reciprocal import multiplier
from qir.ir import Node
from qir.numbers import reciprocal
from qir.ops import Div
from qir.types import expand


@lowering(Div, legal=plain)
def divide(op: Div, node: Node) -> Computation:
    """The quotient x / y."""
    return floating(node, jnp.divide)


def _by_table(op: Div, node: Node) -> bool:
    x, y = (value.type.quant for value in node.inputs)
    return x is not None and y is not None and y.storage.bits <= 8 and x.per_tensor


@lowering(Div, legal=_by_table)
def divide_by_small(op: Div, node: Node) -> Computation:
    """A product with the multiplier of each divisor, looked up: a code has at most 256 of them."""
    x_type, y_type = (value.type for value in node.inputs)
    x_code, y_code, code = code_of(x_type), code_of(y_type), code_of(node.output.type)
    low, high = y_code.range
    divisors = np.arange(low, high + 1) - int(y_code.zero_points)
    divisors[divisors == 0] = op.never_zero(y_type)
    value, places = reciprocal.multiplier(divisors, *op.scales(x_type, y_type))
    table = Parameter(f"{node.output.name}.inverses", value.astype(np.int32))
    shifts = Parameter(f"{node.output.name}.shifts", places.astype(np.int32))
    turned = bool(np.any(divisors < 0))
    # Where no step counts as -1, it turns the sign too.
    first_positive = 0 if op.never_zero(y_type) > 0 else 1
    shift_range = int(places.min()), int(places.max())

    def run(x: jax.Array, y: jax.Array, table: jax.Array, shifts: jax.Array) -> jax.Array:
        index = y.astype(jnp.int32) - low
        dividend = steps(x, x_code)
        if turned:
            dividend = jnp.where(steps(y, y_code) < first_positive, -dividend, dividend)
        found = table_entry(table, index)
        shape = jnp.broadcast_shapes(x.shape, y.shape)
        return requantize_scaled(
            jnp.broadcast_to(dividend, shape),
            found,
            table_entry(shifts, index),
            zero_points(code, shape),
            *code.range,
            code.storage.numpy,
            shift_range=shift_range,
        )

    return Computation(run, (*node.inputs, table, shifts))


def _by_loop(op: Div, node: Node) -> bool:
    return coded(op, node) and not _by_table(op, node)


@lowering(Div, legal=_by_loop)
def divide_by_sum(op: Div, node: Node) -> Computation:
    """A product with the reciprocal of each divisor, which is computed bit by bit."""
    x_type, y_type = (value.type for value in node.inputs)
    x_code, y_code, code = code_of(x_type), code_of(y_type), code_of(node.output.type)
    value, places = reciprocal.ratio_significand(*op.scales(x_type, y_type))
    low, _ = op.divisor_steps(y_type)
    never_zero = np.int32(op.never_zero(y_type))

    def run(x: jax.Array, y: jax.Array) -> jax.Array:
        shape = jnp.broadcast_shapes(x.shape, y.shape)
        divisor, dividend = steps(y, y_code), jnp.broadcast_to(steps(x, x_code), shape)
        divisor = jnp.where(divisor == 0, never_zero, divisor)
        if low < 0:
            dividend = jnp.where(divisor < 0, -dividend, dividend)
        stretched = (1,) * (len(shape) - x.ndim) + x.shape
        factors = (expand(part, stretched) if part.ndim else part for part in (value, places))
        inverse, shift = multiplier(divisor, *factors)
        return requantize_scaled(
            dividend,
            inverse,
            shift,
            zero_points(code, shape),
            *code.range,
            code.storage.numpy,
        )

    return Computation(run, node.inputs)
