"""Affine maps taken into the weights of convolutions and dots."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from qir.ir import Builder, Value
from qir.numbers.affine_map import AffineMap
from qir.ops.op import Op
from qir.ops.products import Products
from qir.passes.shared.constants import derived, rounded, rounded_product
from qir.pipeline.rewrite import Skip
from qir.types import Array, known

WeightPlan: TypeAlias = Callable[[Builder], Value]
"""Emits what was found to be possible."""


def emit_as(builder: Builder, value: Value, op: Op, *operands: Value) -> Value:
    """Emits an op in place of the one that computes a value: with its location and its name."""
    builder.loc = value.loc
    return builder.emit(op, *operands, name=value.name if value.named else None)


def emit_for(root: Value, plan: WeightPlan, builder: Builder) -> Value:
    """Emits what replaces a root and leaves the name to the root's, if that has one."""
    new = plan(builder)
    if root.named and builder.emitted and new.node is builder.emitted[-1]:
        new.named = False
    return new


def into_outputs(value: Value, affine: AffineMap) -> WeightPlan | Skip:
    """Plans affine(value) for a sum of products: its weights and its bias change.

    Args:
        value: The sums, read by nothing else.
        affine: What is to be applied to it.
    """
    kernel, bias = _weights(value)
    if affine.varies and affine.axis != value.type.rank - 1:
        return Skip("it varies along another axis than the outputs", value)
    if affine.scales and not kernel.is_constant:
        return Skip("the weights are computed", kernel)
    if bias is not None and not bias.is_constant:
        return Skip("the bias is computed", bias)
    size = kernel.type.shape[-1]
    if not isinstance(size, int):
        return Skip(f"there are {size} outputs, which is no known number", kernel)
    sums = None
    if bias is not None or affine.shifts:
        before = np.zeros(1) if bias is None else _real(bias)
        sums = np.broadcast_to(before * affine.factor + affine.offset, size)
    factors = affine.factor if affine.scales else None
    return _rebuilt(value, lambda _: value.inputs[0], factors, sums)


def into_inputs(value: Value, affine: AffineMap, source: WeightPlan) -> WeightPlan | Skip:
    """Plans value, whose operand is an affine map of something else, straight from that.

    Args:
        value: The sums of products.
        affine: The map that operand 0 is the result of.
        source: Emits what the map is applied to.
    """
    if skip := cannot_enter(value, affine):
        return skip
    kernel, bias = _weights(value)
    rows, outputs = (known(size, "weights") for size in kernel.type.shape[-2:])
    assert isinstance(value.op, Products)
    groups = value.op.channel_groups

    def spread(numbers: Array) -> Array:
        channels = np.broadcast_to(numbers, groups * rows).reshape(groups, rows)
        return np.repeat(channels, outputs // groups, axis=0).T

    sums = None
    if affine.shifts:
        products = _real(kernel) * spread(affine.offset)
        sums = products.sum(axis=tuple(range(products.ndim - 1)))
        sums = sums if bias is None else sums + _real(bias)
    return _rebuilt(value, source, spread(affine.factor), sums)


def cannot_enter(value: Value, affine: AffineMap) -> Skip | None:
    """Says why the weights of a sum of products can't take in an affine map of operand 0, if so."""
    x = value.inputs[0]
    kernel, bias = _weights(value)
    if not kernel.is_constant or not kernel.type.is_float:
        return Skip("the weights are computed", kernel)
    if affine.varies and affine.axis != x.type.rank - 1:
        return Skip("it varies along another axis than the channels", value)
    if not affine.shifts:
        return None
    if bias is not None and not bias.is_constant:
        return Skip("the bias is computed", bias)
    assert isinstance(value.op, Products)
    reason = value.op.cannot_shift([operand.type for operand in value.inputs])
    return None if reason is None else Skip(reason, value)


def _weights(value: Value) -> tuple[Value, Value | None]:
    return value.inputs[1], value.inputs[2] if len(value.inputs) > 2 else None


def _real(constant: Value) -> Array:
    return constant.array.astype(np.float64)


def _rebuilt(
    value: Value, source: WeightPlan, factors: Array | None, sums: Array | None
) -> WeightPlan | Skip:
    """Plans a sum of products with weights times factors, and other sums in place of the bias."""
    kernel, bias = _weights(value)
    dtype = kernel.type.dtype
    if not kernel.type.is_float:
        return Skip("the weights have a code already", kernel)
    folded = None if factors is None else rounded_product(kernel.array, factors, dtype)
    total = None if sums is None else rounded(sums, dtype)
    if (factors is not None and folded is None) or (sums is not None and total is None):
        return Skip("the folded weights would not be finite", value)

    def build(builder: Builder) -> Value:
        assert value.op is not None
        x = source(builder)
        builder.loc = kernel.loc
        operands = [x, kernel if folded is None else derived(builder, folded, kernel)]
        if total is not None and bias is None:
            layer = kernel.name.rpartition(".")[0] or value.name
            operands.append(builder.const(total, f"{layer}.bias", dtype))
        elif bias is not None:
            operands.append(bias if total is None else derived(builder, total, bias))
        return emit_as(builder, value, value.op, *operands)

    return build
