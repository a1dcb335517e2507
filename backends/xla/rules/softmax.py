"""Softmax, and the exponentials that it is made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.arithmetic import requantize_scaled
from qir.backends.xla.codes import code_of, table_entry, zero_points
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.backends.xla.reciprocal import multiplier
from qir.ir import Node
from qir.numbers.reciprocal import ratio_significand
from qir.ops import ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow, Softmax
from qir.ops.softmax import Exponentials


def _kept(
    op: Exponentials, x: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Returns what `Exponentials.kept` does."""
    if mask is None:
        return x, None
    whole = jnp.broadcast_to(mask, x.shape)
    if op.masked_rows == "nan" and jnp.issubdtype(x.dtype, jnp.inexact):
        return x, whole
    some = jnp.any(whole, axis=op.axes, keepdims=True)
    if op.masked_rows != "unmasked":
        x = jnp.where(some, x, jnp.zeros((), x.dtype))
    return x, whole | ~some


@lowering(Softmax, ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow, legal=plain)
def exponentials(op: Exponentials, node: Node) -> Computation:
    """With the greatest number that is kept subtracted first."""

    def run(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x, mask = _kept(op, x, mask)
        shown = x if mask is None else jnp.where(mask, x, -jnp.inf)
        greatest = jnp.max(shown, axis=op.axes, keepdims=True, initial=-jnp.inf)
        powers = jnp.exp(shown - greatest)
        if isinstance(op, Softmax):
            powers = powers / jnp.sum(powers, axis=op.axes, keepdims=True)
        elif isinstance(op, ExpBelowMaxHigh):
            powers = jnp.round(255 * powers) / 255
        elif isinstance(op, ExpBelowMaxLow):
            powers = powers - jnp.round(255 * powers) / 255
        return powers

    return floating(node, run)


def _looked_up(op: Exponentials, *operands: jax.Array) -> jax.Array:
    """Returns the table's entries below the greatest number of each row, 0 where masked."""
    x, *masks, table = operands
    stored, mask = _kept(op, x.astype(jnp.int32), masks[0] if masks else None)
    shown = stored if mask is None else jnp.where(mask, stored, np.int32(-(2**31)))
    greatest = jnp.max(shown, axis=op.axes, keepdims=True)
    # What is dropped may lie above the greatest that is kept.
    powers = table_entry(table, jnp.maximum(greatest - stored, 0))
    return powers if mask is None else jnp.where(mask, powers, jnp.zeros((), powers.dtype))


def _in_256ths(op: Softmax, node: Node) -> bool:
    return coded(op, node) and op.has_default_code


@lowering(Softmax, legal=_in_256ths)
def softmax_by_table(op: Softmax, node: Node) -> Computation:
    """Exponentials from the table and one int32 division; the table keeps all of it below 2^31."""

    def run(*operands: jax.Array) -> jax.Array:
        powers = _looked_up(op, *operands)
        total = jnp.sum(powers, axis=op.axes, keepdims=True, dtype=jnp.int32)
        # Both are positive, so that truncation is the floor.
        shares = lax.div(powers * 256 + (total >> 1), jnp.broadcast_to(total, powers.shape))
        return jnp.minimum(shares - 128, 127).astype(jnp.int8)

    return Computation(run, node.inputs)


def _in_other_steps(op: Softmax, node: Node) -> bool:
    return coded(op, node) and not op.has_default_code


@lowering(Softmax, legal=_in_other_steps)
def softmax_by_reciprocal(op: Softmax, node: Node) -> Computation:
    """Exponentials from the table, times the reciprocal of their sum, which each row has once."""
    code = code_of(node.output.type)
    ratio = ratio_significand(1.0, float(code.scale.array))

    def run(*operands: jax.Array) -> jax.Array:
        powers = _looked_up(op, *operands)
        total = jnp.sum(powers, axis=op.axes, keepdims=True, dtype=jnp.int32)
        value, shift = multiplier(total, *ratio)
        points, (low, high) = zero_points(code, powers.shape), code.range
        return requantize_scaled(powers, value, shift, points, low, high, code.storage.numpy)

    return Computation(run, node.inputs)


@lowering(ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow, legal=coded)
def exponentials_by_table(op: ExpBelowMax, node: Node) -> Computation:
    """One lookup of each number's distance from the greatest of its row."""
    return Computation(lambda *operands: _looked_up(op, *operands), node.inputs)
