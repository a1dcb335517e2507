"""fuse-requantize: fewer roundings and clamps, the same integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qir.ir import Builder, Graph, Value
from qir.ops import Clip, MaxPool, Relu, Requantize, Reshape, Transpose
from qir.pipeline import Context, Effect, Pass, register
from qir.properties import QUANTIZED
from qir.rewrite import Skip, rewrite, rule
from qir.types import Quant


@register
class FuseRequantize(Pass):
    """Turns relu and clip behind a requantize into its clamp; drops idle casts and clamps.

    Attributes:
        merge: Whether to make one requantize of two; results move by at most one step, and values
            that the first one saturates may come out larger.
    """

    merge: bool = False

    name = "fuse-requantize"
    requires = (QUANTIZED,)

    @property
    def effect(self) -> Effect:
        """Exact, unless two roundings are merged."""
        return "within_1lsb" if self.merge else "exact"

    def run(self, graph: Graph, context: Context) -> None:
        rewrite(graph, [*EXACT, *([merge_requantizes] if self.merge else [])], allow=context.allow)


def _clamped(source: Value, op: Requantize, low: int, high: int, b: Builder) -> Value:
    """Emits the requantize of `source` again, with a clamp that lies inside its bounds."""
    least, greatest = op.bounds
    low, high = (int(np.clip(bound, least, greatest)) for bound in (low, high))
    return b.emit(replace(op, clamp=(low, high)), source.inputs[0])


def _clip_bounds(y: Value) -> tuple[int, int] | None:
    """Returns the stored bounds of a relu or clip of a code per tensor; None for any other op."""
    code = y.type.quant
    if code is None or not code.per_tensor or code.storage.bits > 16 or code.levels is not None:
        return None
    match y.op:
        case Relu():
            return max(int(code.zero_points), code.range[0]), code.range[1]
        case Clip() as clip:
            return clip.coded_bounds(code)
        case _:
            return None


def _reached(value: Value) -> tuple[int, int] | None:
    """Returns bounds that a value's stored numbers can't leave, as far as its own node tells."""
    code = value.type.quant
    if code is None:
        return None
    return value.op.bounds if isinstance(value.op, Requantize) else code.range


@rule(Relu, Clip)
def drop_idle_clip(y: Value, b: Builder) -> Value | Skip | None:
    """relu(x) -> x where x can't be stored below its zero point; clip likewise."""
    bounds, reached = _clip_bounds(y), _reached(y.inputs[0])
    if bounds is None or reached is None:
        return None
    if bounds[0] <= reached[0] and reached[1] <= bounds[1]:
        return y.inputs[0]
    return None


@rule(Relu, Clip)
def clip_into_clamp(y: Value, b: Builder) -> Value | Skip | None:
    """relu(requantize(x)) -> requantize(x) {clamp}; clip likewise."""
    bounds = _clip_bounds(y)
    match y:
        case Value(Relu() | Clip(), [Value(Requantize() as op, _) as source]) if bounds is not None:
            if len(source.uses) > 1:
                return Skip("the requantize has another user", source)
            return _clamped(source, op, *bounds, b)
        case _:
            return None


@rule(Relu, Clip)
def hoist_clip(y: Value, b: Builder) -> Value | Skip | None:
    """relu(max_pool(x)) -> max_pool(relu(x)), to meet the requantize; also reshape, transpose."""
    if _clip_bounds(y) is None or y.op is None:
        return None
    match y.inputs[0]:
        case Value(MaxPool() | Reshape() | Transpose() as mover, [x]) as moved:
            if len(moved.uses) > 1 or len(x.uses) > 1:
                return Skip("the value between has another user", moved)
            return b.emit(mover, b.emit(y.op, x))
        case _:
            return None


@rule(Requantize)
def drop_identity(y: Value, b: Builder) -> Value | Skip | None:
    """requantize(x) -> x where the code is x's own and nothing is clamped."""
    match y:
        case Value(Requantize() as op, [x]) if x.type.quant == op.to and op.multiplier is None:
            reached = _reached(x)
            if reached is not None and op.bounds[0] <= reached[0] and reached[1] <= op.bounds[1]:
                return x
            return Skip("its clamp is narrower than the operand", x)
        case _:
            return None


@rule(Requantize)
def shift_zero_point(y: Value, b: Builder) -> Value | Skip | None:
    """requantize(requantize(x)) -> requantize(x) where the second one only moves the zero point.

    Nothing is lost: the second one stores every number that the first one may store.
    """
    match y:
        case Value(Requantize() as second, [Value(Requantize() as first, [x]) as between]):
            if not _same_scale(first.to, second.to) or second.multiplier is not None:
                return None
            if len(between.uses) > 1:
                return Skip("the first requantize has another user", between)
            move = second.to.zero_points.astype(int) - first.to.zero_points
            if move.ndim:
                return Skip("the zero points vary", between)
            low, high = first.bounds[0] + int(move), first.bounds[1] + int(move)
            if low < second.bounds[0] or high > second.bounds[1]:
                return Skip("the second one saturates", between)
            return b.emit(replace(first, to=second.to, clamp=(low, high)), x)
        case _:
            return None


@rule(Requantize, exactness="within_1lsb")
def merge_requantizes(y: Value, b: Builder) -> Value | Skip | None:
    """requantize(requantize(x)) -> requantize(x) to the last code: one rounding instead of two."""
    match y:
        case Value(Requantize() as second, [Value(Requantize() as first, [x]) as between]):
            if first.multiplier is not None or second.multiplier is not None:
                return Skip("the multipliers are written out", between)
            if first.clamp is not None:
                return Skip("the first one clamps", between)
            return b.emit(second, x)
        case _:
            return None


def _same_scale(a: Quant, b: Quant) -> bool:
    return np.array_equal(a.scale.array, b.scale.array) and a.storage.bits == b.storage.bits


EXACT = (drop_idle_clip, clip_into_clamp, hoist_clip, drop_identity, shift_zero_point)
