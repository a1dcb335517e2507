"""clip-scores: a mask that can't be told from scores takes no more of their range than counts."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import numpy as np

from qir.analysis.properties import FLOAT_OPS
from qir.ir import Graph, Node, Value
from qir.ops import (
    Add,
    Broadcast,
    Clip,
    ExpBelowMax,
    ExpBelowMaxHigh,
    ExpBelowMaxLow,
    Mul,
    Reshape,
    Select,
    Softmax,
    Sub,
    Transpose,
)
from qir.ops.op import Op
from qir.ops.softmax import Exponentials
from qir.passes.shared.calibration_data import read_batches
from qir.pipeline import Context, Pass, register

DEPTHS: dict[type[Op], float] = {
    Softmax: 16.0,
    ExpBelowMax: 10.0,
    ExpBelowMaxHigh: 16.0,
    ExpBelowMaxLow: 16.0,
}
"""How far below a row's greatest score another one counts: exp(-16) is 1e-7 of it. In u8, all that
is below ln(510) = 6.2 is 0; 10 leaves what stays float 5e-5."""

LEAST_DEPTH = 16.0
"""Constants above the negative of this are taken for a bias."""


@register
class ClipScores(Pass):
    """Clips scores 16 (10 where u8 follows) below the least row maximum on calibration data.

    Only where a constant below that is chosen or added on the way, as a mask of -100 is, which no
    rule can tell from scores: its number would leave them few steps. One of -1e4 or less has become
    softmax's mask before. No share of a row moves by more than exp(-10) of the greatest on that
    data. Without data, or with data that can be read only once, the program stays as it is.
    """

    name = "clip-scores"
    requires = (FLOAT_OPS,)
    keeps = "approximate"

    def run(self, graph: Graph, context: Context) -> None:
        data = context.data
        masked = [(node, number) for node in graph.nodes if (number := _least(node)) is not None]
        if not masked:
            return
        if data is None or context.executor is None or iter(data) is data:
            context.diagnostics.append(
                f"clip-scores: %{masked[0][0].output.name} keeps its mask's numbers in its range: "
                "expected data that can be read twice, such as a list of batches"
            )
            return
        # Rows of one softmax are reduced where they are computed.
        compute = [
            context.executor.probe(graph, [node.inputs[0]], _LeastRowMaximum(node))
            for node, _ in masked
        ]
        least = [inf] * len(masked)
        for arrays, _ in read_batches(graph, data):
            for index, probe in enumerate(compute):
                (found,) = probe(*arrays)
                least[index] = min(least[index], float(np.asarray(found)))
        bounds: dict[Value, float] = {}
        for (node, _), top in zip(masked, least, strict=True):
            scores, bound = node.inputs[0], float(np.float32(top - DEPTHS[type(node.op)]))
            bounds[scores] = min(bounds.get(scores, inf), bound)
        clipped: dict[Value, Value] = {}
        for node, number in masked:
            scores = node.inputs[0]
            bound = bounds[scores]
            if np.isfinite(bound) and number < bound:
                if scores not in clipped:
                    clipped[scores] = graph.before(node).emit(Clip(bound, inf), scores)
                node.set_input(0, clipped[scores])


class _LeastRowMaximum:
    """Reduces scores to the least of the greatest numbers of their rows; a mask is left aside."""

    def __init__(self, node: Node) -> None:
        assert isinstance(node.op, Exponentials)
        self.axes = node.op.axes

    def __call__(self, scores: Any, xp: Any) -> Any:
        return xp.min(xp.max(scores, axis=self.axes), initial=inf)


def _least(node: Node) -> float | None:
    """Returns the least constant that is chosen or added for a softmax's scores, below -16."""
    if not isinstance(node.op, Softmax | ExpBelowMax) or not node.inputs[0].type.is_float:
        return None
    below = (number for number in _constants(node.inputs[0]) if number < -LEAST_DEPTH)
    return min(below, default=None)


def _constants(value: Value, depth: int = 8) -> Iterator[float]:
    if not depth:
        return
    match value:
        case Value(Select(), (_, *choices)):
            for choice in choices:
                if choice.is_constant and choice.array.size:
                    yield float(choice.array.min())
                else:
                    yield from _constants(choice, depth - 1)
        case Value(Add() | Sub() as op, (_, _)):
            for index, operand in enumerate(value.inputs):
                if operand.is_constant and operand.array.size:
                    turned = isinstance(op, Sub) and index == 1
                    yield float(-operand.array.max() if turned else operand.array.min())
                else:
                    yield from _constants(operand, depth - 1)
        case Value(Mul(), (inner, by)) if by.is_constant and by.array.size == 1:
            factor = float(by.array.reshape(())[()])
            for number in _constants(inner, depth - 1):
                yield number * factor
        case Value(Reshape() | Transpose() | Broadcast(), (inner,)):
            yield from _constants(inner, depth - 1)
        case _:
            return
