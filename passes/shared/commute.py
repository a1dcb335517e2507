"""How far an affine map can travel: back to the weights that compute a value, or on to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from qir.ir import Builder, Value
from qir.ir.held import are_transposed
from qir.ops import (
    Add,
    AvgPool,
    Clip,
    Concat,
    Dot,
    Embedding,
    LeakyRelu,
    MaxPool,
    Mean,
    Mul,
    Pad,
    Relu,
    Reshape,
    ResizeLinear,
    ResizeNearest,
    Reverse,
    Slice,
    Sub,
    Transpose,
)
from qir.ops.op import Op
from qir.passes.shared.affine import AffineMap, affine_chain
from qir.passes.shared.constants import rounded
from qir.passes.shared.weights import WEIGHTED_OPS, WeightPlan, emit_as, into_outputs
from qir.pipeline.rewrite import Skip
from qir.types import Dim, TensorType, known, product

FARTHEST = 64
"""Ops that a map may travel through: more than lie between two layers, and safe to recurse."""


def backward(value: Value, affine: AffineMap, distance: int = 0) -> WeightPlan | Skip:
    """Plans affine(value) by other weights and constants in what computes the value.

    Args:
        value: A value that only the map reads.
        affine: The map.
        distance: How many ops it has travelled through.

    Returns:
        What emits the result, or what stands in the way.
    """
    if distance > FARTHEST:
        return Skip(f"weights are more than {FARTHEST} ops away", value)
    match value.op:
        case None:
            return Skip("it is an input of the program", value)
        case Dot() if not value.inputs[1].is_constant and not (affine.varies or affine.shifts):
            return _into_one_factor(value, affine, distance)
        case Dot() if not (affine.varies or affine.shifts) and _is_tied(value.inputs[1]):
            plan = _operand(value, 0, affine, distance)
            if isinstance(plan, Skip):
                return into_outputs(value, affine)
            return _with_factor(value, 0, plan, affine)
        case op if isinstance(op, WEIGHTED_OPS):
            return into_outputs(value, affine)
        case Embedding() as op:
            return _into_rows(value, op, affine)
        case Concat(axis=axis) as op:
            sizes = [x.type.shape[axis] for x in value.inputs]
            along = affine.varies and affine.axis == axis
            parts = affine.split(sizes) if along else [affine] * len(sizes)
            return _through(value, op, parts, distance)
        case Add() | Sub() as op:
            return _through(value, op, [affine, affine.without_offset()], distance)
        case Mul() if affine.shifts:
            return Skip("an offset does not commute with mul", value)
        case Mul():
            return _into_one_factor(value, affine, distance)
        case op:
            inner = _inside(value, op, affine)
            return inner if isinstance(inner, Skip) else _through(value, *inner, distance)


def _through(value: Value, op: Op, parts: Sequence[AffineMap], distance: int) -> WeightPlan | Skip:
    """Plans op(affine(operand), …), with a map for each operand."""
    plans: list[WeightPlan] = []
    for index, part in enumerate(parts):
        plan = _operand(value, index, part, distance)
        if isinstance(plan, Skip):
            return plan
        plans.append(plan)

    def build(builder: Builder) -> Value:
        return emit_as(builder, value, op, *[plan(builder) for plan in plans])

    return build


def _into_one_factor(value: Value, affine: AffineMap, distance: int) -> WeightPlan | Skip:
    """Plans a scaled product by scaling one of its factors, a constant one where there is one."""
    first = 1 if value.inputs[1].is_constant else 0
    plan: WeightPlan | Skip | None = None
    for index in (first, 1 - first):
        plan = _operand(value, index, affine, distance)
        if not isinstance(plan, Skip):
            return _with_factor(value, index, plan, affine)
    assert plan is not None
    return plan


def _is_tied(kernel: Value) -> bool:
    """Whether weights are the transposed table of an embedding, whose numbers they share."""
    if not kernel.is_constant or kernel.type.rank != 2:
        return False
    return any(
        isinstance(node.op, Embedding)
        and node.inputs[0].is_constant
        and node.inputs[0].type == TensorType(kernel.type.shape[::-1], kernel.type.element)
        and are_transposed(node.inputs[0].array, kernel.array)
        for node in kernel.owner.nodes
    )


def _into_rows(value: Value, op: Embedding, affine: AffineMap) -> WeightPlan | Skip:
    """Plans a multiple of rows, whose table stays the same: an output layer may be tied to it."""
    if affine.varies or affine.shifts:
        return Skip("rows of a table take one factor", value)
    factor = op.factor * affine.factor.item()
    if not 0 < factor < np.inf:
        return Skip("the factor of an embedding is positive", value)
    return lambda builder: emit_as(builder, value, replace(op, factor=factor), *value.inputs)


def _with_factor(
    value: Value, index: int, scaled: WeightPlan, affine: AffineMap
) -> WeightPlan | Skip:
    bias = value.inputs[2] if len(value.inputs) > 2 else None
    total = None if bias is None else _constant(bias, value, affine)
    if isinstance(total, Skip):
        return total

    def build(builder: Builder) -> Value:
        assert value.op is not None
        operands = list(value.inputs[:2])
        operands[index] = scaled(builder)
        if total is not None:
            operands.append(total(builder))
        return emit_as(builder, value, value.op, *operands)

    return build


def _operand(value: Value, index: int, affine: AffineMap, distance: int) -> WeightPlan | Skip:
    x = value.inputs[index]
    if x.is_constant:
        return _constant(x, value, affine)
    if affine.varies and value.op is not None and value.op.elementwise:
        shape, axis = value.type.shape, affine.axis
        if x.type.rank != value.type.rank or x.type.shape[axis] != shape[axis]:
            return Skip("an operand is broadcast along the axis", x)
    if len(x.uses) != 1:
        return Skip("is read elsewhere too", x)
    return backward(x, affine, distance + 1)


def _constant(x: Value, value: Value, affine: AffineMap) -> WeightPlan | Skip:
    """Plans affine(x) for a constant operand that broadcasts against the value."""
    if not x.is_constant or not x.type.is_float:
        return Skip("it is computed", x)
    array = rounded(affine(x.array.astype(np.float64), value.type.rank), x.type.dtype)
    if array is None:
        return Skip("the folded constant would not be finite", x)
    return lambda builder: builder.const(array, x.name, x.type.element)


class Extracted(NamedTuple):
    """A value as an affine map of another one.

    Attributes:
        plan: Emits the other one.
        affine: The map.
    """

    plan: WeightPlan
    affine: AffineMap


def extracted(value: Value, distance: int = 0) -> Extracted | Skip | None:
    """Finds the affine map that can be taken out of what computes a value, and left for its reader.

    Args:
        value: A value with one reader.
        distance: How many ops lie between it and where the search began.

    Returns:
        The map and what it is applied to; None where there is no map; a Skip where one can't leave.
    """
    if (chain := affine_chain(value)) is not None:
        return Extracted(lambda _: chain.source, chain.affine)
    if distance > FARTHEST or value.op is None:
        return None
    match value.op:
        case Concat(axis=axis) as op:
            return _joined(value, op, axis, distance)
        case Add() as op:
            return _added(value, op, distance)
        case op if len(value.inputs) == 1 and _commutes(op):
            found = _extracted_operand(value.inputs[0], distance)
            if not isinstance(found, Extracted):
                return found
            plan, affine = found
            outer = outside(value, op, affine)
            if isinstance(outer, Skip):
                return outer
            outer_op, outer_affine = outer
            return Extracted(lambda b: emit_as(b, value, outer_op, plan(b)), outer_affine)
        case _:
            return None


def _extracted_operand(x: Value, distance: int) -> Extracted | Skip | None:
    return extracted(x, distance + 1) if len(x.uses) == 1 else None


def _joined(value: Value, op: Concat, axis: int, distance: int) -> Extracted | Skip | None:
    found = [_extracted_operand(x, distance) for x in value.inputs]
    if not any(isinstance(part, Extracted) for part in found):
        return next((part for part in found if isinstance(part, Skip)), None)
    parts = [
        part if isinstance(part, Extracted) else Extracted(_itself(x), _identity())
        for part, x in zip(found, value.inputs, strict=True)
    ]
    affines = [part.affine for part in parts]
    if any(affine.varies and affine.axis != axis for affine in affines):
        return Skip("it varies along another axis than the one that is joined", value)
    if any(isinstance(x.type.shape[axis], Dim) for x in value.inputs):
        return Skip("the sizes of the branches are not known", value)
    sizes = [known(x.type.shape[axis], "concat") for x in value.inputs]
    factors = [np.broadcast_to(a.factor, n) for a, n in zip(affines, sizes, strict=True)]
    offsets = [np.broadcast_to(a.offset, n) for a, n in zip(affines, sizes, strict=True)]
    joined = AffineMap(np.concatenate(factors), np.concatenate(offsets), axis)
    return Extracted(lambda b: emit_as(b, value, op, *[part.plan(b) for part in parts]), joined)


def _added(value: Value, op: Add, distance: int) -> Extracted | Skip | None:
    found = [_extracted_operand(x, distance) for x in value.inputs]
    if any(part is None for part in found):
        return None
    if skip := next((part for part in found if isinstance(part, Skip)), None):
        return skip
    left, right = (part for part in found if isinstance(part, Extracted))
    a, b = left.affine, right.affine
    if value.inputs[0].type != value.inputs[1].type:
        return Skip("an operand is broadcast", value)
    if a.varies and b.varies and a.axis != b.axis:
        return Skip("the branches vary along different axes", value)
    factors = np.broadcast_arrays(a.factor, b.factor)
    if not np.array_equal(factors[0], factors[1]):
        return Skip("the branches have different factors", value)
    total = AffineMap(a.factor, a.offset + b.offset, a.axis if a.varies else b.axis)
    return Extracted(lambda b: emit_as(b, value, op, left.plan(b), right.plan(b)), total)


def _itself(x: Value) -> WeightPlan:
    return lambda _: x


def _identity() -> AffineMap:
    return AffineMap(np.ones(1), np.zeros(1), 0)


def _commutes(op: Op) -> bool:
    return isinstance(op, _MOVERS)


_MOVERS = (
    Relu,
    LeakyRelu,
    Clip,
    MaxPool,
    AvgPool,
    Mean,
    Pad,
    Reshape,
    Transpose,
    Slice,
    Reverse,
    ResizeNearest,
    ResizeLinear,
)


def _inside(value: Value, op: Op, affine: AffineMap) -> tuple[Op, list[AffineMap]] | Skip:
    """Returns op' and affine' such that affine(op(x)) = op'(affine'(x))."""
    if reason := _hindrance(value, op, affine):
        return Skip(reason, value)
    if (inner := _moved(value, op, affine, backwards=True)) is None:
        return Skip(f"{op.name} joins or drops the axis along which it varies", value)
    factor, offset = float(affine.factor[0]), float(affine.offset[0])
    match op:
        case Clip(low=low, high=high):
            return Clip(low * factor + offset, high * factor + offset), [inner]
        case Pad() if not affine.varies:
            return replace(op, value=op.value * factor + offset), [inner]
        case _:
            return op, [inner]


def outside(value: Value, op: Op, affine: AffineMap) -> tuple[Op, AffineMap] | Skip:
    """Returns op' and affine' such that op(affine(x)) = affine'(op'(x)).

    Args:
        value: The result of the op.
        op: An op of one operand.
        affine: A map of that operand.
    """
    if reason := _hindrance(value, op, affine):
        return Skip(reason, value)
    if (outer := _moved(value, op, affine, backwards=False)) is None:
        return Skip(f"{op.name} joins or drops the axis along which it varies", value)
    factor, offset = float(affine.factor[0]), float(affine.offset[0])
    match op:
        case Clip(low=low, high=high):
            return Clip((low - offset) / factor, (high - offset) / factor), outer
        case Pad() if not affine.varies:
            return replace(op, value=(op.value - offset) / factor), outer
        case _:
            return op, outer


def _hindrance(value: Value, op: Op, affine: AffineMap) -> str | None:
    """Says why an op of one operand does not commute with a map, if so."""
    if not affine.factor.size or not affine.offset.size:
        return "the map is of no numbers"
    match op:
        case Relu() | LeakyRelu() if affine.shifts:
            return f"an offset does not commute with {op.name}"
        case Relu() | LeakyRelu() | Clip() | MaxPool() if not affine.is_positive:
            return f"a factor that is not positive does not commute with {op.name}"
        case Clip() if affine.varies:
            return "the bounds of clip would vary"
        case Pad() if affine.varies and (affine.shifts or op.value != 0):
            return "the value of pad would vary"
        case Pad() if not np.all(affine.factor):
            return "a factor is 0"
        case AvgPool() if affine.shifts and op.count_padding:
            padded = any(map(any, op.geometry(value.inputs[0].type.shape[1:-1])[1]))
            return "the padding counts as zeros" if padded else None
        case _:
            return None if _commutes(op) else f"it does not commute with {op.name}"


def _moved(value: Value, op: Op, affine: AffineMap, *, backwards: bool) -> AffineMap | None:
    """Returns the map along the axis of the operand (or of the result) that has the same places."""
    if not affine.varies:
        return affine
    x, y = value.inputs[0].type, value.type
    for operand, result in _same_places(value, op):
        here, there = (result, operand) if backwards else (operand, result)
        if here == affine.axis:
            return affine.along(there)
    here_type, there_type = (y, x) if backwards else (x, y)
    if isinstance(op, Reshape) and affine.axis == here_type.rank - 1 and there_type.rank:
        # In row-major order the place along the last axis is the index modulo its size.
        size, wanted = here_type.shape[-1], there_type.shape[-1]
        if isinstance(size, int) and isinstance(wanted, int) and wanted % size == 0:
            return affine.along(there_type.rank - 1, wanted // size)
    return None


def _same_places(value: Value, op: Op) -> list[tuple[int, int]]:
    """Lists axes of operand and result along which the places are the same."""
    x, y = value.inputs[0].type, value.type
    axes = range(x.rank)
    match op:
        case Reshape():
            return [
                (a, b)
                for a in axes
                for b in range(y.rank)
                if x.shape[a] == y.shape[b] and product(x.shape[:a]) == product(y.shape[:b])
            ]
        case Transpose(permutation=permutation):
            return [(a, b) for b, a in enumerate(permutation)]
        case Mean():
            kept = [a for a in axes if a not in op.axes]
            return [(a, a if op.keep_axes else b) for b, a in enumerate(kept)]
        case Slice() | Reverse():
            return [(a, a) for a in axes if a not in op.axes]
        case Pad():
            return [(a, a) for a in axes if not (op.low[a] or op.high[a])]
        case Relu() | LeakyRelu() | Clip():
            return [(a, a) for a in axes]
        case _:
            return [(0, 0), (x.rank - 1, x.rank - 1)]
