"""Normalizations whose statistics are computed of the data."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.computation import Computation
from qir.backends.xla.arithmetic import product_high_word, requantize_scaled
from qir.backends.xla.codes import code_of
from qir.backends.xla.lowering import argument, coded, floating, lowering, plain
from qir.backends.xla.materialize import stored
from qir.backends.xla.words import Words, inverse_root, normalized_root, product_of
from qir.ir import Node
from qir.numbers.affine_terms import affine_terms
from qir.numbers.int32 import INT32_MAX, INT32_MIN
from qir.ops import GroupNorm, L2Norm, LayerNorm, RmsNorm
from qir.ops.normalization import Normalization, Standard
from qir.types import expand


@lowering(LayerNorm, GroupNorm, RmsNorm, L2Norm, legal=plain)
def normalize(op: Normalization, node: Node) -> Computation:
    """The mean is taken off before the squares are summed."""
    axes = op.view_axes(node.inputs[0].type.rank)

    def run(x: jax.Array, *parameters: jax.Array) -> jax.Array:
        viewed = x.reshape(op.view(x.shape))
        if op.centred:
            viewed = viewed - jnp.mean(viewed, axis=axes, keepdims=True)
        combine = jnp.mean if op.is_mean else jnp.sum
        squares = combine(viewed * viewed, axis=axes, keepdims=True)
        if op.guard == "add":
            root = jnp.sqrt(squares + op.epsilon)
        else:
            join = jnp.add if op.guard == "root" else jnp.maximum
            root = join(jnp.sqrt(squares), np.sqrt(op.epsilon))
        result = (viewed / root).reshape(x.shape)
        for operand, apply in zip(parameters, (jnp.multiply, jnp.add), strict=False):
            result = apply(result, operand)
        return result

    return floating(node, run)


def _why_not(op: Normalization, node: Node) -> str:
    return (
        f"{op.name} %{node.output.name} on codes: expected gamma and beta to be constants; "
        "multiply and add behind it instead"
    )


def _on_constants(op: Normalization, node: Node) -> bool:
    return coded(op, node) and all(value.is_constant for value in node.inputs[1:])


@lowering(LayerNorm, GroupNorm, RmsNorm, L2Norm, legal=_on_constants, why_not=_why_not)
def exact_norm(op: Normalization, node: Node) -> Computation:
    """Exact sums, the root digit by digit, and two products of 64 bits for each number."""
    x_value, *constants = node.inputs
    form, code = op.standard(x_value.type), code_of(node.output.type)
    rank, name = x_value.type.rank, node.output.name
    axes = op.view_axes(rank)
    terms = affine_terms([value.array for value in constants], code, form.result_fraction)
    multiplier, offset, places = terms
    offset_high, offset_low = Words.constant(offset)
    epsilon_high, epsilon_low = Words.constant(form.epsilon)
    arguments = (
        argument(f"{name}.multiplier", multiplier.astype(np.int32)),
        argument(f"{name}.offset_high", offset_high.view(np.int32)),
        argument(f"{name}.offset_low", offset_low),
        argument(f"{name}.places", places.astype(np.uint32)),
        argument(f"{name}.epsilon_high", epsilon_high),
        argument(f"{name}.epsilon_low", epsilon_low),
        argument(f"{name}.root", form.root.astype(np.uint32)),
    )
    point, (low, high) = int(code.zero_points), code.range
    count = op.count(x_value.type)

    def run(x: jax.Array, *numbers: jax.Array) -> jax.Array:
        factors, add_high, add_low, shifts, *epsilon, root = map(jnp.asarray, numbers)
        offsets = expand(form.offset, x.shape).astype(np.int32)
        steps = (stored(x).astype(jnp.int32) - offsets).reshape(op.view(x.shape))
        normalized = _normalized(steps, axes, form, count, Words(*epsilon), root).reshape(x.shape)
        steps_of_result = _scaled(normalized, factors, Words(add_high, add_low), shifts)
        # The distance of a bound from the zero point may leave int32, the sum of the two doesn't.
        least, most = (max(INT32_MIN, min(INT32_MAX, bound - point)) for bound in (low, high))
        result: jax.Array = jnp.clip(steps_of_result, least, most) + point
        return result.astype(code.storage.numpy)

    return Computation(run, (x_value, *arguments))


def _normalized(
    steps: jax.Array,
    axes: Sequence[int],
    form: Standard,
    count: int,
    epsilon: Words,
    root: jax.Array,
) -> jax.Array:
    """Returns t of `Standard`, int32."""
    squares = _sum_of_squares(steps, axes, form.largest, count).times(form.factor)
    centred = steps * form.factor
    if form.centred:
        total = jnp.sum(steps, axis=axes, keepdims=True, dtype=jnp.int32)
        centred = centred - total
        magnitude = jnp.abs(total).astype(jnp.uint32)
        squares = squares.minus(product_of(magnitude, magnitude))
    wide = squares.moved(form.fraction)
    joined = wide.greater(epsilon) if form.guard == "max" else wide.plus(epsilon)
    least = Words.of(jnp.ones_like(joined.low))
    if form.guard == "root":
        other, half = normalized_root(wide.greater(least))
        crossed = product_of(other, jnp.broadcast_to(root, other.shape))
        joined = joined.plus(crossed.plus(crossed).down(half + np.uint32(form.root_fraction)))
    significand, exponent = inverse_root(joined.greater(least))
    shift = jnp.clip(form.first_shift - exponent, 1, 62)
    return requantize_scaled(centred, significand, shift, 0, INT32_MIN, INT32_MAX, jnp.int32)


def _sum_of_squares(steps: jax.Array, axes: Sequence[int], largest: int, count: int) -> Words:
    """Sums squares exactly, by limbs whose sums fit a word."""
    magnitude = jnp.abs(steps).astype(jnp.uint32)

    def total(limbs: jax.Array) -> jax.Array:
        return jnp.sum(limbs, axis=axes, keepdims=True, dtype=jnp.uint32)

    if count * largest**2 < 2**32:
        return Words.of(total(magnitude * magnitude))
    wide = largest >= 2**16
    squares = product_of(magnitude, magnitude) if wide else Words.of(magnitude * magnitude)
    width = 16 if count <= 2**16 else 8
    result = Words.of(jnp.zeros_like(total(squares.low)))
    for start in range(0, (largest**2).bit_length(), width):
        word = squares.low if start < 32 else squares.high
        limbs = (word >> np.uint32(start % 32)) & np.uint32(2**width - 1)
        result = result.plus(Words.of(total(limbs)).moved(start))
    return result


def _scaled(
    normalized: jax.Array, multiplier: jax.Array, offset: Words, places: jax.Array
) -> jax.Array:
    """Returns (t * m + b) >> g, saturated to int32, by the two words of the sum."""
    signed = jnp.where(multiplier < 0, -normalized, normalized)
    size = jnp.abs(multiplier)
    upper = product_high_word(signed, size >> 16, size & 0xFFFF)
    lower = (normalized * multiplier).astype(jnp.uint32)
    low = lower + offset.low
    high = upper + offset.high + (low < lower).astype(jnp.int32)
    # Shifts by all bits of a word are split in two.
    beyond = places >= 32
    narrow = jnp.where(beyond, jnp.uint32(1), places).astype(jnp.int32)
    joined = (high << (32 - narrow)) | (low >> narrow.astype(jnp.uint32)).astype(jnp.int32)
    sign = high >> 31
    saturated = jnp.where((high >> (narrow - 1)) == sign, joined, sign ^ INT32_MAX)
    far = high >> jnp.where(beyond, places - 32, jnp.uint32(0)).astype(jnp.int32)
    return jnp.where(beyond, far, saturated)
