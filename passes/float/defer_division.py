"""defer-division: softmax before a matrix product divides once a row, after the product."""

from __future__ import annotations

from collections.abc import Sequence

from qir.analysis.properties import FLOAT_OPS
from qir.ir import Builder, Graph, Value
from qir.ops import (
    Add,
    Broadcast,
    Div,
    Dot,
    ExpBelowMax,
    ExpBelowMaxHigh,
    ExpBelowMaxLow,
    ReduceSum,
    Reshape,
    Softmax,
    Transpose,
)
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import rewrite, rule
from qir.types import Size, product

Span = tuple[int, int]
"""Axes of a tensor from the first up to the second, which it leaves out."""

LONG_ROW = 512
"""From so many numbers in a row on, exponentials have two parts."""


@register
class DeferDivision(Pass):
    """Turns dot(softmax(x), v) into dot(e, v) / sum of e for e = exp(x - max x).

    The same in real arithmetic. On codes the unnormalised exponentials keep their 8 bits in long
    flat rows and in peaked ones side by side, where one scale for all shares leaves flat rows no
    steps; what is divided are exact sums, once a number of the product. Softmax may be either
    operand, behind reshapes, transposes and broadcasts, where its axes are the ones that the
    product sums over. A softmax that others read too stays beside (the idea is that of the online
    softmax, arXiv:1805.02867).

    In rows of 512 numbers or more, what lies below half a step of u8 adds up: there e is the sum of
    a high and a low part, each with a product of its own, which have 16 bits together.

    For a target that computes no exponentials on codes softmax stays as it is.
    """

    name = "defer-division"
    requires = (FLOAT_OPS,)

    def run(self, graph: Graph, context: Context) -> None:
        target = context.target
        if target is not None and not (target.computes("exp_below_max") and target.computes("div")):
            return
        rewrite(graph, [divide_behind_dot], allow=context.allow, nested=False)


@rule(Dot)
def divide_behind_dot(y: Value, b: Builder) -> Value | None:
    """dot(softmax(x), v) -> dot(e, v) / reduce_sum(e), e = exp_below_max(x)."""
    assert isinstance(y.op, Dot)
    if len(y.inputs) != 2:
        return None
    for position, value in enumerate(y.inputs):
        axis = value.type.rank - (1 if position == 0 else 2)
        chain = moved_softmax(value, axis)
        if chain is None:
            continue
        softmax, moves = chain
        assert isinstance(softmax.op, Softmax)
        parts = [_moved(b.emit(part, *softmax.inputs), moves, b) for part in _parts(softmax)]
        products = [
            b.emit(y.op, *((part, y.inputs[1]) if position == 0 else (y.inputs[0], part)))
            for part in parts
        ]
        total = _sum([b.emit(ReduceSum((axis,), keep_axes=True), part) for part in parts], b)
        if position == 1:
            # [batch…, 1, columns] to the rank of the product, whose rows all have one sum.
            shape = total.type.shape
            rows = y.type.rank - y.op.batch - 1
            wanted = (*shape[: y.op.batch], *(1,) * rows, shape[-1])
            if wanted != shape:
                total = b.emit(Reshape(wanted), total)
        return b.emit(Div(), _sum(products, b), total)
    return None


def _parts(softmax: Value) -> list[ExpBelowMax]:
    """Returns the ops whose results make up the exponentials of a softmax."""
    assert isinstance(softmax.op, Softmax)
    count = product([softmax.type.shape[axis] for axis in softmax.op.axes])
    long = isinstance(count, int) and count >= LONG_ROW
    classes = (ExpBelowMaxHigh, ExpBelowMaxLow) if long else (ExpBelowMax,)
    return [cls(softmax.op.axis, softmax.op.masked_rows) for cls in classes]


def _moved(value: Value, moves: Sequence[Value], b: Builder) -> Value:
    for move in moves:
        assert move.op is not None
        value = b.emit(move.op, value)
    return value


def _sum(terms: Sequence[Value], b: Builder) -> Value:
    total, *others = terms
    for term in others:
        total = b.emit(Add(), total, term)
    return total


def moved_softmax(value: Value, axis: int) -> tuple[Value, Sequence[Value]] | None:
    """Finds the softmax that a value is the moved result of, if its axes have become one axis.

    Args:
        value: A value.
        axis: The axis of the value that must be those of softmax, and no others.

    Returns:
        The softmax, and the values from there to the value, in their order; None where there is
        none.
    """
    moves = [value]
    while isinstance(moves[-1].op, Reshape | Transpose | Broadcast):
        moves.append(moves[-1].inputs[0])
    softmax, *rest = reversed(moves)
    if not isinstance(softmax.op, Softmax):
        return None
    axes = softmax.op.axes
    span: Span | None = (axes[0], axes[-1] + 1) if _adjacent(axes) else None
    before = softmax
    for move in rest:
        if span is None:
            return None
        if isinstance(move.op, Transpose):
            places = tuple(move.op.permutation.index(place) for place in range(*span))
            span = (places[0], places[-1] + 1) if _adjacent(places) else None
        elif isinstance(move.op, Broadcast):
            more = move.type.rank - before.type.rank
            kept = before.type.shape[slice(*span)]
            span = (span[0] + more, span[1] + more)
            if move.type.shape[slice(*span)] != kept:
                span = None
        else:
            span = _reshaped(before.type.shape, move.type.shape, span)
        before = move
    return (softmax, rest) if span == (axis, axis + 1) else None


def _adjacent(axes: Sequence[int]) -> bool:
    return list(axes) == list(range(axes[0], axes[0] + len(axes)))


def _reshaped(old: Sequence[Size], new: Sequence[Size], span: Span) -> Span | None:
    """Returns the axes that hold after a reshape what a span of axes held before."""
    ahead, inside = product(old[: span[0]]), product(old[slice(*span)])
    starts = [i for i in range(len(new) + 1) if product(new[:i]) == ahead]
    # Axes of size 1 beside the span may belong to it or not; one axis is what is looked for.
    spans = [
        (start, stop)
        for start in starts
        for stop in range(start + 1, len(new) + 1)
        if product(new[start:stop]) == inside
    ]
    return min(spans, key=lambda found: (found[1] - found[0], -found[0]), default=None)
