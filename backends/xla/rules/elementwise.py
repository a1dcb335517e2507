"""Elementwise arithmetic and clipping."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation, Parameter
from qir.backends.xla.arithmetic import scaled_sum
from qir.backends.xla.codes import code_of, steps, zero_points
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.backends.xla.requantize import Factor, no_form, rescaling
from qir.backends.xla.words import Words
from qir.ir import Node, Value
from qir.numbers.dynamic_scale import LARGEST_FLOAT
from qir.numbers.rounding import rounding_mode
from qir.ops import Add, Clip, Dequantize, Maximum, Minimum, Mul, Neg, Pow, Relu, Sub
from qir.ops.cast import is_long
from qir.ops.elementwise import Sum
from qir.ops.rules import SameCode
from qir.types import DType


@lowering(Add, legal=plain)
def add(op: Add, node: Node) -> Computation:
    """The sum x + y, of sums times scales that are found at run time the rounded products."""
    return _of_products(node, jnp.add)


@lowering(Sub, legal=plain)
def subtract(op: Sub, node: Node) -> Computation:
    """The difference x - y, of sums times scales of run time likewise."""
    return _of_products(node, jnp.subtract)


def _of_products(node: Node, combine: Callable[[jax.Array, jax.Array], jax.Array]) -> Computation:
    scaled = [_is_scaled_sum(value) for value in node.inputs]
    if not any(scaled):
        return floating(node, combine)

    def run(*operands: jax.Array) -> jax.Array:
        # XLA on CPU contracts a product and a sum into one rounding unless a maximum is between.
        return combine(
            *(
                jnp.maximum(x, -LARGEST_FLOAT) if is_product else x
                for x, is_product in zip(operands, scaled, strict=True)
            )
        )

    return floating(node, run)


def _is_scaled_sum(value: Value) -> bool:
    """Whether a value has products of sums of integers and scales that are found at run time.

    What moves numbers, chooses among them or negates them stands between in the program, and not in
    the loop that XLA makes of it.
    """
    seen, stack = {value}, [value]
    while stack:
        product = stack.pop()
        op = product.op
        if op is None or product.type.dtype is not DType.F32:
            continue
        if isinstance(op, Mul) and any(isinstance(x.op, Dequantize) for x in product.inputs):
            return True
        if isinstance(op, Mul | Neg) or isinstance(op.quant, SameCode):
            stack += (x for x in product.inputs if x not in seen)
            seen |= set(product.inputs)
    return False


def _is_long(op: Sum, node: Node) -> bool:
    return coded(op, node) and op.is_long(*(value.type for value in node.inputs))


@lowering(Add, Sub, legal=_is_long)
def long_sum(op: Sum, node: Node) -> Computation:
    """One multiply-add in 48 bits and one rounding."""
    x_type, y_type = (value.type for value in node.inputs)
    x_code, y_code, code = code_of(x_type), code_of(y_type), code_of(node.output.type)
    factors, shift = op.factors(x_type, y_type)
    point, (low, high) = int(code.zero_points), code.range

    def run(x: jax.Array, y: jax.Array) -> jax.Array:
        rounded = scaled_sum(steps(x, x_code), steps(y, y_code), factors, shift)
        result: jax.Array = jnp.clip(rounded, low - point, high - point) + point
        return result.astype(code.storage.numpy)

    return Computation(run, node.inputs)


def _rounds_half_up(op: Sum, node: Node) -> bool:
    short = coded(op, node) and not _is_long(op, node)
    return short and op.rounds_half_up and not op.is_exact


@lowering(Add, Sub, legal=_rounds_half_up)
def common_shift(op: Sum, node: Node) -> Computation:
    """One multiply-add in int32 and one rounding; the multipliers keep the sum inside int32."""
    x_type, y_type = (value.type for value in node.inputs)
    x_code, y_code, code = code_of(x_type), code_of(y_type), code_of(node.output.type)
    (mx, my), shift = op.factors(x_type, y_type)
    point, (low, high) = int(code.zero_points), code.range
    offset = 2 ** (shift - 1) - int(x_code.zero_points) * mx - int(y_code.zero_points) * my
    # Arguments rather than literals, so that XLA compiles one loop for all sums of a shape. The
    # offset may wrap; the sum does not.
    numbers = np.array([mx, my, offset, shift, low - point, high - point, point], np.int64)
    parameter = Parameter(f"{node.output.name}.numbers", numbers.astype(np.int32))

    def run(x: jax.Array, y: jax.Array, numbers: jax.Array) -> jax.Array:
        x_factor, y_factor, offset, places, least, most, point = numbers
        total = x.astype(jnp.int32) * x_factor + y.astype(jnp.int32) * y_factor + offset
        result: jax.Array = jnp.clip(total >> places, least, most) + point
        return result.astype(code.storage.numpy)

    return Computation(run, (*node.inputs, parameter))


def _is_exact(op: Sum, node: Node) -> bool:
    return op.is_exact


@lowering(Add, Sub, legal=_is_exact)
def exact_sum(op: Sum, node: Node) -> Computation:
    """The sum of i32 numbers of one scale, clamped; the bounds of the operands keep it in i32."""
    low, high = code_of(node.output.type).range
    combine = jnp.add if op.sign > 0 else jnp.subtract
    return Computation(lambda x, y: jnp.clip(combine(x, y), low, high), node.inputs)


def _rounds_otherwise(op: Sum, node: Node) -> bool:
    return coded(op, node) and not op.rounds_half_up and rounding_mode(op.rounding).has_machine_form


def _no_form(op: Sum, node: Node) -> str:
    return no_form(f"{op.name} %{node.output.name}", op.rounding, code_of(node.output.type).range)


@lowering(Add, Sub, legal=_rounds_otherwise, why_not=_no_form)
def rounded_sum(op: Sum, node: Node) -> Computation:
    """One multiply-add in int32, and the machine form of the op's rounding."""
    x_code, y_code = (code_of(value.type) for value in node.inputs)
    (mx, my), shift = op.factors(*(value.type for value in node.inputs))
    multiplier = op.shift_multiplier(shift)
    assert multiplier is not None
    factors = Parameter(f"{node.output.name}.factors", np.array([mx, my], np.int32))
    rescale, terms = rescaling(
        node.output.name, multiplier, code_of(node.output.type), rounding=op.rounding
    )

    def run(x: jax.Array, y: jax.Array, factors: jax.Array, *terms: Factor) -> jax.Array:
        total = steps(x, x_code) * factors[0] + steps(y, y_code) * factors[1]
        return rescale(total, *terms)

    return Computation(run, (*node.inputs, factors, *terms))


@lowering(Mul, legal=plain)
def multiply(op: Mul, node: Node) -> Computation:
    """The product x * y, in the order of the program where a scale of run time is a factor."""
    if not _is_scaled_sum(node.output):
        return floating(node, jnp.multiply)

    def run(*operands: jax.Array) -> jax.Array:
        # XLA would multiply the scale by the constant one of the integers first.
        return jnp.multiply(*lax.optimization_barrier(operands))  # type: ignore[no-untyped-call]

    return floating(node, run)


@lowering(Mul, legal=coded)
def exact_product(op: Mul, node: Node) -> Computation:
    """The exact product of two differences, which int32 holds, or two words."""
    x_code, y_code = (code_of(value.type) for value in node.inputs)
    long = is_long(node.output.type)

    def run(x: jax.Array, y: jax.Array) -> jax.Array | Words:
        x, y = steps(x, x_code), steps(y, y_code)
        if not long:
            return x * y
        # Both have at most 18 bits: the parts of y leave the products in 32.
        high, low = Words.of_signed(x * (y >> 8)), Words.of_signed(x * (y & 0xFF))
        return high.moved(8).plus(low)

    return Computation(run, node.inputs)


@lowering(Pow)
def power(op: Pow, node: Node) -> Computation:
    """The power of float32 numbers."""
    return floating(node, jnp.power)


@lowering(Maximum)
def maximum(op: Maximum, node: Node) -> Computation:
    """The greater of two numbers, on codes of the stored ones."""
    return Computation(jnp.maximum, node.inputs)


@lowering(Minimum)
def minimum(op: Minimum, node: Node) -> Computation:
    """The lesser of two numbers, on codes of the stored ones."""
    return Computation(jnp.minimum, node.inputs)


@lowering(Relu)
def relu(op: Relu, node: Node) -> Computation:
    """The greater of x and 0, on codes of the stored number and the zero point."""
    code = None if node.output.type.quant is None else node.output.type.affine

    def run(x: jax.Array) -> jax.Array:
        zero = 0 if code is None else zero_points(code, x.shape).astype(x.dtype)
        return jnp.maximum(x, zero)

    return Computation(run, node.inputs)


@lowering(Clip, legal=plain)
def clip(op: Clip, node: Node) -> Computation:
    """The bounds in the precision of x."""
    low, high = (np.asarray(bound, node.output.type.dtype.numpy) for bound in (op.low, op.high))
    return Computation(lambda x: jnp.clip(x, low, high), node.inputs)


@lowering(Clip, legal=coded)
def clip_stored(op: Clip, node: Node) -> Computation:
    """The stored numbers between those of the two bounds."""
    low, high = op.coded_bounds(code_of(node.output.type))
    return Computation(lambda x: jnp.clip(x, low, high), node.inputs)
