"""cancel-casts: casts that undo others go away, the others stand where they move integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qir.analysis.properties import QUANTIZED
from qir.errors import QirError
from qir.ir import Builder, Graph, Value
from qir.ir.names import Inheritance
from qir.ops import Broadcast, Clip, Dequantize, Gather, Quantize, Requantize, Reshape, Transpose
from qir.ops.op import infer
from qir.ops.rules import SameCode
from qir.passes.shared.target_rules import within
from qir.passes.shared.weights import WeightPlan, emit_as, emit_for
from qir.pipeline import Context, Effect, Pass, register
from qir.pipeline.rewrite import Skip, rewrite, rule
from qir.types import Affine, Code, Dim, DType, Size, TensorType, on_one_grid


@register
class CancelCasts(Pass):
    """Drops casts that undo others.

    Quantize of dequantize vanishes where the codes are equal, becomes a requantize where that gives
    the same integers, and casts move so that numbers are moved as integers.

    Attributes:
        requantize: Whether any quantize of a dequantize becomes a requantize, which rounds ties
            another way: within 1 LSB.
    """

    requantize: bool = False

    name = "cancel-casts"
    requires = (QUANTIZED,)

    @property
    def effect(self) -> Effect:
        """Exact, unless casts with different codes are joined."""
        return "within_1lsb" if self.requantize else "exact"

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        nearly = (requantize_nearly,) if self.requantize else ()
        rewrite(
            graph, within((*CAST_RULES, *nearly), context.target), allow=context.allow, nested=False
        )
        names.settle()


class StoredForm(NamedTuple):
    """A float value that is the real number of a code everywhere.

    Attributes:
        type: The type of its stored numbers.
        plan: Emits them.
    """

    type: TensorType
    plan: WeightPlan


def _stored(value: Value, distance: int = 0) -> StoredForm | Skip:
    """Finds stored numbers whose decoded and encoded form a value is, as far as its code goes."""
    op = value.op
    if isinstance(op, Dequantize):
        source = value.inputs[0]
        return StoredForm(source.type, lambda _: source)
    if op is None or not isinstance(op.quant, SameCode) or len(value.inputs) > 16 or distance > 64:
        return Skip("is not a mere move of dequantized numbers", value)
    if value.node is not None and len(value.node.outputs) != 1:
        return Skip("is one of several results", value)
    if distance and len(value.uses) != 1:
        return Skip("is read elsewhere too", value)
    plans: list[WeightPlan] = []
    types: list[TensorType] = []
    for x in value.inputs:
        if not x.type.is_float:
            plans.append(_same(x))
            types.append(x.type)
            continue
        found = _stored(x, distance + 1)
        if isinstance(found, Skip):
            return found
        plans.append(found.plan)
        types.append(found.type)
    if isinstance(op, Clip) and types[0].quant is not None and not types[0].quant.per_tensor:
        return Skip("clip needs one code for the tensor", value)
    try:
        (result,) = infer(op, types)
    except QirError as error:
        return Skip(error.message, value)
    return StoredForm(result, lambda b: emit_as(b, value, op, *[plan(b) for plan in plans]))


def _same(x: Value) -> WeightPlan:
    return lambda _: x


def _encodes_back(code: Code) -> bool:
    """Whether encoding decoded numbers gives them back.

    Three float32 roundings of at most 16 bits stay below half a step, unless the real numbers
    overflow or are rounded to a narrower type.
    """
    if not isinstance(code, Affine) or code.multipliers is not None:
        return False
    low, high = code.range
    points = code.zero_points.astype(np.int64)
    reach = np.maximum(np.abs(low - points), np.abs(high - points)).max()
    return code.expressed in (DType.F32, DType.F64) and bool(
        reach * code.scale.array.astype(np.float64).max() < np.finfo(np.float32).max
    )


@rule(Quantize)
def drop_round_trip(y: Value, b: Builder) -> Value | Skip | None:
    """quantize(move(dequantize(x))) -> move(x) where the code is the same."""
    match y:
        case Value(Quantize(to=code), [x]):
            found = _stored(x)
            if isinstance(found, Skip):
                return found if isinstance(x.op, Dequantize) else None
            if found.type.quant != code:
                return None
            if not _encodes_back(code):
                return Skip("encoding what was decoded may not give it back", x)
            return emit_for(y, found.plan, b)
        case _:
            return None


@rule(Quantize)
def requantize_exactly(y: Value, b: Builder) -> Value | Skip | None:
    """quantize(dequantize(x)) -> requantize(x) where each step of x is a whole number of steps."""
    match y:
        case Value(Quantize(to=code), [Value(Dequantize(), [x])]):
            own = x.type.quant
            if own is None or own == code:
                return None
            if own.multipliers is not None or own.step_bounds is None:
                return Skip("its steps are no whole numbers of one size", x)
            scale, other = on_one_grid(own.scale.array.astype(np.float64), code.scale.array)
            ratio = scale / other
            if not np.all((ratio == np.rint(ratio)) & (ratio < 2**24)) or not _encodes_back(code):
                return Skip("requantize would round ties another way", x)
            return _requantized(x, code, b)
        case _:
            return None


@rule(Quantize, exactness="within_1lsb")
def requantize_nearly(y: Value, b: Builder) -> Value | Skip | None:
    """quantize(dequantize(x)) -> requantize(x), whose ties are rounded up rather than to even."""
    match y:
        case Value(Quantize(to=code), [Value(Dequantize(), [x])]) if x.type.quant != code:
            return _requantized(x, code, b)
        case _:
            return None


def _requantized(x: Value, code: Code, b: Builder) -> Value | Skip:
    if not isinstance(code, Affine):
        return Skip(f"a requantize gives no code of kind {code.kind}", x)
    try:
        return b.emit(Requantize(code), x)
    except QirError as error:
        return Skip(error.message, x)


@rule()
def sink_dequantize(y: Value, b: Builder) -> Value | Sequence[Value] | Skip | None:
    """move(dequantize(x)) -> dequantize(move(x)), so that integers are moved."""
    node = y.node
    if node is None or not isinstance(node.op.quant, SameCode) or node.op.elementwise:
        return None
    reals = [x for x in node.inputs if x.type.is_float]
    if not reals or not all(isinstance(x.op, Dequantize) for x in reals):
        return None
    if other := next((x for x in reals if len(x.uses) != 1), None):
        return Skip("the dequantized numbers are read elsewhere too", other)
    # All of a constant table would be dequantized in each run.
    looks_up = isinstance(node.op, Gather) and reals[0].inputs[0].is_constant
    if not looks_up and not all(_at_most(result.type.size, reals) for result in node.outputs):
        return Skip(f"{node.op.name} makes more numbers, all of which would be dequantized", y)
    operands = [x.inputs[0] if x.type.is_float else x for x in node.inputs]
    try:
        moved = b.emit_node(node.op, operands).outputs
    except QirError as error:
        return Skip(error.message, y)
    pairs = zip(node.outputs, moved, strict=True)
    return [new if new.type == old.type else b.emit(Dequantize(), new) for old, new in pairs]


def _at_most(size: Size, reals: Sequence[Value]) -> bool:
    """Whether a result has no more numbers than its operands together."""
    names = size.names if isinstance(size, Dim) else ()
    total = 0
    for part in (x.type.size for x in reals):
        if (part.names if isinstance(part, Dim) else ()) != names:
            return False
        total += part.factor if isinstance(part, Dim) else part
    return (size.factor if isinstance(size, Dim) else size) <= total


@rule(Quantize)
def hoist_quantize(y: Value, b: Builder) -> Value | Skip | None:
    """quantize(reshape(x)) -> reshape(quantize(x)), and so for transpose and broadcast.

    Integers are moved. A constant is broadcast where the size is known at run time alone, as the
    state is that a recurrent model starts with: of it each reader gets its own.
    """
    match y:
        case Value(
            Quantize(to=code) as op,
            [Value(Broadcast() | Reshape() | Transpose() as move, [x]) as moved],
        ):
            if x.is_constant and not isinstance(move, Broadcast):
                return None
            if len(moved.uses) != 1 and not x.is_constant:
                return Skip("the moved numbers are read elsewhere too", moved)
            if not code.per_tensor:
                return Skip("the code varies along an axis", y)
            return b.emit(move, b.emit(op, x, name=x.name))
        case _:
            return None


CAST_RULES = (drop_round_trip, requantize_exactly, sink_dequantize, hoist_quantize)
