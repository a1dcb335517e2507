"""raise-layout: transposes move down and out, so that a channels-first model is read as others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qir.ir import Builder, Value
from qir.ops import (
    Concat,
    Mean,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Transpose,
)
from qir.passes.shared.identities import (
    compose_reshapes,
    compose_transposes,
    transpose_to_reshape,
)
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


@rule()
def sink_through_elementwise(y: Value, b: Builder) -> Value | None:
    """Makes the transposed op of an elementwise op of transposed operands."""
    if y.node is None or not y.node.op.elementwise or len(y.node.outputs) != 1:
        return None
    orders = [x.op.permutation for x in y.inputs if isinstance(x.op, Transpose)]
    if not orders or len(orders[0]) != y.type.rank:
        return None
    operands = []
    for x in y.inputs:
        operand = _untransposed(x, orders[0], b)
        if operand is None:
            return None
        operands.append(operand)
    return _put_back(b.emit(y.node.op, *operands), orders[0], y, b)


def _put_back(moved: Value, order: Sequence[int], y: Value, b: Builder) -> Value:
    """Transposes what is computed with its axes in another order to stand as what it replaces."""
    if y.named:
        moved.owner.name_after(moved, y.name)
    moved.stand_for(y, sorted(range(len(order)), key=order.__getitem__))
    return b.emit(Transpose(tuple(order)), moved)


def _untransposed(value: Value, order: Sequence[int], b: Builder) -> Value | None:
    """Returns the operand whose transpose a value is; a constant is turned."""
    match value:
        case Value(Transpose(permutation=found), (x,)) if found == order:
            return x
        case _ if value.is_constant and value.type.quant is None:
            array = value.array
            array = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
            array = array.transpose([order.index(axis) for axis in range(len(order))])
            while array.ndim and array.shape[0] == 1:
                array = array.reshape(array.shape[1:])
            return b.const(array, value.name if value.named else None)
        case _:
            return None


@rule(Concat)
def sink_through_concat(y: Value, b: Builder) -> Value | None:
    """Makes the transposed concat of a concat of transposed operands."""
    match y:
        case Value(Concat(axis=axis), (Value(Transpose(permutation=order)), *_)):
            operands = [x.inputs[0] for x in y.inputs if x.op == Transpose(order)]
            if len(operands) != len(y.inputs):
                return None
            return _put_back(b.emit(Concat(order[axis]), *operands), order, y, b)
        case _:
            return None


@rule(Mean, ReduceSum, ReduceMax, ReduceMin, ReduceProd)
def sink_through_reduction(y: Value, b: Builder) -> Value | None:
    """Makes a reduction of a transposed operand one over the axes where they were."""
    match y:
        case Value(
            Mean() | ReduceSum() | ReduceMax() | ReduceMin() | ReduceProd() as op,
            (Value(Transpose(permutation=order), (x,)),),
        ):
            found = b.emit(replace(op, axes=tuple(sorted(order[axis] for axis in op.axes))), x)
            if op.keep_axes:
                return _put_back(found, order, y, b)
            left = [place for axis, place in enumerate(order) if axis not in op.axes]
            moved = tuple(sorted(left).index(axis) for axis in left)
            return found if list(moved) == sorted(moved) else _put_back(found, moved, y, b)
        case _:
            return None


@register
class RaiseLayout(Raising):
    """Moves transposes down and out, so that forms are found whatever order their axes stand in.

    What a transpose keeps apart is so found to be one: a bias behind a layer, a norm. Where
    transposes are to stand in the end is for `move-transposes` to decide.
    """

    name = "raise-layout"
    rules = (
        compose_transposes,
        transpose_to_reshape,
        compose_reshapes,
        sink_through_concat,
        sink_through_reduction,
        sink_through_elementwise,
    )
