"""fuse-requantize: fewer roundings and clamps, the same integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qir.analysis.properties import QUANTIZED
from qir.errors import QirError
from qir.ir import Builder, Graph, Value
from qir.numbers.rounding import Multiplier, rounding_mode
from qir.ops import Clip, MaxPool, Requantize
from qir.ops.cast import is_long
from qir.ops.op import Op
from qir.ops.traits import Moves
from qir.pipeline import Context, Effect, Pass, register
from qir.pipeline.rewrite import Skip, rewrite, rule
from qir.types import Affine, TensorType

LARGEST_RATIO = 1.9
"""Greatest ratio of two steps at which merging their roundings moves a result by at most one step.

The first rounding moves a number by half of its step at most, which is ratio / 2 steps of the
second one: less than 1, with room for the error of the multipliers."""


@register
class FuseRequantize(Pass):
    """Turns relu and clip behind a requantize into its clamp; drops idle casts and clamps.

    Attributes:
        merge: Whether to make one requantize of two where that moves results by at most one step:
            where the first one saturates nothing that the second one does not saturate as well, and
            its steps are not much larger than those of the second one.
    """

    merge: bool = False

    name = "fuse-requantize"
    requires = (QUANTIZED,)

    @property
    def effect(self) -> Effect:
        """Exact, unless two roundings are merged."""
        return "within_1lsb" if self.merge else "exact"

    def run(self, graph: Graph, context: Context) -> None:
        rules = [*EXACT, *([merge_requantizes] if self.merge else [])]
        # hoist_clip looks past several ops, and is not tried again when the farther ones change.
        while rewrite(graph, rules, allow=context.allow, nested=False).applied:
            pass


def _clamped(source: Value, op: Requantize, low: int, high: int, b: Builder) -> Value:
    """Emits the requantize of `source` again, with what a clamp of its result leaves of it."""
    least, greatest = (int(np.clip(bound, low, high)) for bound in op.bounds)
    return b.emit(replace(op, clamp=(least, greatest)), source.inputs[0])


def _clip_bounds(y: Value) -> tuple[int, int] | None:
    """Returns the stored bounds of a relu or clip of a code per tensor; None for any other op."""
    code = y.type.quant
    if not isinstance(code, Affine) or not code.per_tensor or code.storage.bits > 16:
        return None
    bounds = None if y.op is None else y.op.clip_bounds()
    return None if bounds is None else Clip(*bounds).coded_bounds(code)


def _reached(value: Value) -> tuple[int, int] | None:
    """Returns bounds that a value's stored numbers can't leave, as far as its own node tells."""
    code = value.type.quant
    if code is None:
        return None
    return value.op.bounds if isinstance(value.op, Requantize) else code.range


@rule()
def drop_idle_clip(y: Value, b: Builder) -> Value | Skip | None:
    """relu(x) -> x where x can't be stored below its zero point; clip likewise."""
    bounds = _clip_bounds(y)
    reached = None if bounds is None else _reached(y.inputs[0])
    if bounds is None or reached is None:
        return None
    if bounds[0] <= reached[0] and reached[1] <= bounds[1]:
        return y.inputs[0]
    return None


@rule()
def clip_into_clamp(y: Value, b: Builder) -> Value | Skip | None:
    """relu(requantize(x)) -> requantize(x) {clamp}; clip likewise."""
    bounds = _clip_bounds(y)
    match y:
        case Value(_, [Value(Requantize() as op, _) as source]) if bounds is not None:
            if len(source.uses) > 1:
                return Skip("the requantize has another user", source)
            return _clamped(source, op, *bounds, b)
        case _:
            return None


@rule()
def hoist_clip(y: Value, b: Builder) -> Value | Skip | None:
    """relu(max_pool(x)) -> max_pool(relu(x)), to meet the requantize; also reshape, transpose."""
    if _clip_bounds(y) is None or y.op is None:
        return None
    match y.inputs[0]:
        case Value(Op() as mover, [x]) as moved if _lets_clips_pass(mover):
            if any(len(value.uses) > 1 for value in _moved(moved)):
                return Skip("the value between has another user", moved)
            if not isinstance(_moved(moved)[-1].op, Requantize):
                return Skip("there is no requantize to meet", _moved(moved)[-1])
            return b.emit(mover, b.emit(y.op, x))
        case _:
            return None


def _lets_clips_pass(op: Op) -> bool:
    return op.moves is Moves.ORDER or isinstance(op, MaxPool)


def _moved(value: Value) -> list[Value]:
    """Returns a value and those that it is moved from, up to the one that is not moved itself."""
    values = [value]
    while (op := values[-1].op) is not None and _lets_clips_pass(op):
        values.append(values[-1].inputs[0])
    return values


@rule(Requantize)
def drop_identity(y: Value, b: Builder) -> Value | Skip | None:
    """requantize(x) -> x where the code is x's own and nothing is clamped."""
    match y:
        case Value(Requantize() as op, [x]) if x.type.quant == op.to and op.multiplier is None:
            reached = _reached(x)
            if reached is None or op.bounds[0] > reached[0] or op.bounds[1] < reached[1]:
                return Skip("its clamp is narrower than the operand", x)
            return x if _keeps(op, x.type) else Skip(f"{op.rounding} does not keep integers", x)
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
            if not _keeps(second, between.type):
                return Skip(f"{second.rounding} does not keep integers", between)
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
            if is_long(x.type):
                return Skip("the first one rounds sums in i64", between)
            for name in (first.rounding, second.rounding):
                if not rounding_mode(name).nearest:
                    return Skip(f"rounding {name} is not to the nearest integer", between)
            grids = (x.type.code.grid, first.to.grid, second.to.grid)
            try:
                np.broadcast_shapes(*grids)
            except ValueError:
                return Skip("the codes vary by blocks of different sizes", between)
            ratio = first.to.scale.array.astype(float) / second.to.scale.array
            if np.max(ratio, initial=0.0) > LARGEST_RATIO:
                return Skip("the second one's steps are much smaller", between)
            if not _saturates_as_well(x, first, second):
                return Skip("the first one saturates numbers that the second one keeps", between)
            try:
                second.factors(x.type)
            except QirError as error:
                return Skip(error.message, between)
            return b.emit(second, x)
        case _:
            return None


def _saturates_as_well(x: Value, first: Requantize, second: Requantize) -> bool:
    """Whether numbers that the first requantize saturates are none, or saturate in the second."""
    between, reached = TensorType(x.type.shape, first.to), _reached(x)
    for side in (0, 1):
        end = first.to.range[side] - first.to.zero_points.astype(np.int64)
        last = rounding_mode(second.rounding).requantize(
            end, second.factors(between), second.to.zero_points, *second.bounds
        )
        if np.all(last == second.bounds[side]):
            continue
        if reached is None:
            return False
        furthest = reached[side] - x.type.affine.zero_points.astype(np.int64)
        steps = rounding_mode(first.rounding).rounded(furthest, first.factors(x.type))
        if np.any(steps < end if side == 0 else steps > end):
            return False
    return True


def _keeps(op: Requantize, x: TensorType) -> bool:
    """Whether a requantize from a scale to the same one gives every integer of the code back."""
    factors = op.factors(x)
    low, high = (bound - x.affine.zero_points.astype(np.int64) for bound in x.affine.range)
    steps = np.arange(low.min(), high.max() + 1)
    value, shift = factors.value.reshape(-1), factors.shift.reshape(-1)
    # Equal scales make few multipliers, mostly one.
    pairs = zip(value.tolist(), shift.tolist(), strict=True)
    distinct = {pair: at for at, pair in enumerate(pairs)}
    alone = (Multiplier(value[at : at + 1], shift[at : at + 1]) for at in distinct.values())
    return all(
        np.array_equal(rounding_mode(op.rounding).rounded(steps, each), steps) for each in alone
    )


def _same_scale(a: Affine, b: Affine) -> bool:
    return a.scale == b.scale and a.storage.bits == b.storage.bits


EXACT = (drop_idle_clip, clip_into_clamp, hoist_clip, drop_identity, shift_zero_point)
