"""move-requantize: requantizes stand where they run on the fewest numbers, next to their sums."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from qir.analysis.properties import QUANTIZED
from qir.analysis.reach import followed
from qir.errors import QirError
from qir.ir import Builder, Graph, Value
from qir.ops import Requantize
from qir.ops.traits import Moves
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Skip, rewrite, rule
from qir.types import Dim, FrozenArray, Size


@register
class MoveRequantize(Pass):
    """Moves requantizes past ops that move or compare numbers.

    A requantize never decreases, so it commutes with max_pool, slice, reshape and their like, bit
    for bit. It sinks below what leaves fewer numbers (max_pool, slice, reduce_max), so that it runs
    on those only; it rises above what leaves as many or more (reshape, transpose, tile), so that
    it meets the sum that it rounds and narrow numbers are moved.
    """

    name = "move-requantize"
    requires = (QUANTIZED,)

    def run(self, graph: Graph, context: Context) -> None:
        rewrite(graph, [sink_requantize, hoist_requantize], allow=context.allow, nested=False)


@rule()
def sink_requantize(y: Value, b: Builder) -> Value | Skip | None:
    """max_pool(requantize(x)) -> requantize(max_pool(x)) where that leaves fewer numbers."""
    match y:
        case Value(mover, [Value(Requantize() as op, [x]) as between, *rest]):
            if mover is None or not _moves_one(y):
                return None
            if _gain_above(between.type.size, y.type.size, x, between) >= 0:
                return Skip(f"nothing is gained below {mover.name}", between)
            if len(between.uses) > 1:
                return Skip("the requantize has another user", between)
            channels = op.factors(x.type).value.shape
            multiplier, shift = (_along(each, y, channels) for each in (op.multiplier, op.shift))
            if (multiplier is None) != (op.multiplier is None):
                return Skip("its multipliers don't go along", between)
            moved = replace(op, to=y.type.affine, multiplier=multiplier, shift=shift)
            try:
                return b.emit(moved, b.emit(mover, x, *rest))
            except QirError as error:
                return Skip(error.message, between)
        case _:
            return None


@rule(Requantize)
def hoist_requantize(y: Value, b: Builder) -> Value | Skip | None:
    """requantize(reshape(x)) -> reshape(requantize(x)): fewer or narrower numbers."""
    match y:
        case Value(Requantize() as op, [Value(mover, [x, *rest]) as between]):
            if mover is None or not _moves_one(between):
                return None
            if _gain_above(x.type.size, between.type.size, x, y) <= 0:
                return Skip(f"nothing is gained above {mover.name}", between)
            if len(between.uses) > 1:
                return Skip("the moved numbers have another user", between)
            if not op.to.per_tensor:
                return Skip("the result's code varies", y)
            channels = x.type.quant.scale.shape if x.type.quant is not None else ()
            if _along(op.multiplier, between, channels) != op.multiplier:
                return Skip("its multipliers don't go along", between)
            try:
                return b.emit(mover, b.emit(op, x), *rest)
            except QirError as error:
                return Skip(error.message, between)
        case _:
            return None


def _moves_one(y: Value) -> bool:
    """Whether an op moves or compares the numbers of its first operand and of no other."""
    return (
        y.node is not None
        and y.node.op.moves is not Moves.NONE
        and len(y.node.outputs) == 1
        and [x.type.quant is not None for x in y.inputs].count(True) == 1
        and y.inputs[0].type.quant is not None
    )


def _gain_above(before: Size, after: Size, source: Value, result: Value) -> int:
    """Tells whether a requantize stands better above an op (1), below it (-1) or either way (0).

    Args:
        before: How many numbers the op takes.
        after: How many it leaves; where the two can't be compared, nothing is gained.
        source: What the requantize reads: its storage is moved where it stands below.
        result: What it gives, whose storage is moved where it stands above.
    """
    taken, left = (size if isinstance(size, Dim) else Dim(size, ()) for size in (before, after))
    if taken.names != left.names:
        return 0
    narrower = source.type.dtype.bits - result.type.dtype.bits
    return int(np.sign(left.factor - taken.factor or narrower))


def _along(numbers: FrozenArray | None, y: Value, shape: tuple[int, ...]) -> FrozenArray | None:
    """Moves numbers that are written out for each channel along with the op that computes y.

    Args:
        numbers: One, or one for each channel; None gives None.
        y: The result of an op that moves the channels.
        shape: Shape of the channels, which broadcasts to the op's operand.

    Returns:
        The numbers in the order of the channels of y; None where the op mixes channels, or where
        there are other channels than those of the numbers.
    """
    if numbers is None or not numbers.array.ndim:
        return numbers
    if numbers.array.size != prod(shape):
        return None
    origins = followed(y, shape)
    return None if origins is None else FrozenArray(numbers.array[origins.reshape(-1)].squeeze())
