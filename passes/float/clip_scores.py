"""clip-scores: a mask that can't be told from scores takes no more of their range than counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import numpy as np

from qir.analysis.properties import FLOAT_OPS
from qir.ir import Graph, Node, Value
from qir.observe.channels import RowPeaks
from qir.ops import Add, Clip, Mul, Select, Sub
from qir.ops.op import Op
from qir.passes.shared.calibration_data import read_batches
from qir.passes.shared.observed_parts import keep_parts, known_part
from qir.pipeline import Context, Pass, register

LEAST_DEPTH = 16.0
"""Constants above the negative of this are taken for a bias."""


@register
class ClipScores(Pass):
    """Clips scores 16 (10 where u8 follows) below the least row maximum on calibration data.

    Only where a constant below that is chosen or added on the way, as a mask of -100 is, which no
    rule can tell from scores: its number would leave them few steps. One of -1e4 or less has become
    softmax's mask before. No share of a row moves by more than exp(-10) of the greatest on that
    data, which is left in the context's statistics; without data it is taken from there. Where it
    is not known, or the data can be read only once, the program stays as it is.
    """

    name = "clip-scores"
    requires = (FLOAT_OPS,)
    whole_program = True
    keeps = "approximate"

    def run(self, graph: Graph, context: Context) -> None:
        masked = [(node, number) for node in graph.nodes if (number := _least(node)) is not None]
        if not masked:
            return
        nodes = [node for node, _ in masked]
        least = _known(nodes, context)
        if least is None:
            least = _observed(graph, nodes, context)
        if least is None:
            context.diagnostics.append(
                f"clip-scores: %{masked[0][0].output.name} keeps its mask's numbers in its range: "
                "expected data that can be read twice, such as a list of batches"
            )
            return
        bounds: dict[Value, float] = {}
        for (node, _), top in zip(masked, least, strict=True):
            depth = node.op.depth()
            assert depth is not None
            scores, bound = node.inputs[0], float(np.float32(top - depth.below))
            bounds[scores] = min(bounds.get(scores, inf), bound)
        clipped: dict[Value, Value] = {}
        for node, number in masked:
            scores = node.inputs[0]
            bound = bounds[scores]
            if np.isfinite(bound) and number < bound:
                if scores not in clipped:
                    clipped[scores] = graph.before(node).emit(Clip(bound, inf), scores)
                node.set_input(0, clipped[scores])


def _known(nodes: Sequence[Node], context: Context) -> list[float] | None:
    """Returns the least row maxima that statistics have; None where new data is to tell them.

    Statistics that a calibration goes on with are of the data at hand.
    """
    if context.data is not None and context.checkpoint is None:
        return None
    least = []
    for node in nodes:
        depth = node.op.depth()
        assert depth is not None
        peaks: RowPeaks | None = known_part(node.inputs[0], context.statistics, "scores")
        if peaks is None or peaks.axes != depth.axes:
            return None
        least.append(peaks.least)
    return least


def _observed(graph: Graph, nodes: Sequence[Node], context: Context) -> list[float] | None:
    """Returns the least row maxima on data, and leaves them in the context; None without data."""
    data = context.observations
    if data is None or context.executor is None or not data.repeatable:
        return None
    # Rows of one softmax are reduced where they are computed.
    compute = [
        context.executor.probe(graph, [node.inputs[0]], _LeastRowMaximum(node)) for node in nodes
    ]
    least = [inf] * len(nodes)
    batches = 0
    for arrays, _ in read_batches(graph, data):
        batches += 1
        for index, probe in enumerate(compute):
            (found,) = probe(*arrays)
            least[index] = min(least[index], float(np.asarray(found)))
    if context.checkpoint is not None:
        context.checkpoint.scored = batches
    found_of: dict[Value, RowPeaks] = {}
    for node, top in zip(nodes, least, strict=True):
        depth = node.op.depth()
        assert depth is not None
        axes, scores = depth.axes, node.inputs[0]
        if scores not in found_of or found_of[scores].axes == axes:
            peaks = RowPeaks(axes, top)
            found_of[scores] = found_of.get(scores, peaks).merge(peaks)
    for scores, peaks in found_of.items():
        keep_parts(scores, context.statistics, {"scores": peaks})
    return least


class _LeastRowMaximum:
    """Reduces scores to the least of the greatest numbers of their rows; a mask is left aside."""

    def __init__(self, node: Node) -> None:
        depth = node.op.depth()
        assert depth is not None
        self.axes = depth.axes

    def __call__(self, scores: Any, xp: Any) -> Any:
        return xp.min(xp.max(scores, axis=self.axes), initial=inf)


def _least(node: Node) -> float | None:
    """Returns the least constant that is chosen or added for a softmax's scores, below -16."""
    if node.op.depth() is None or not node.inputs[0].type.is_float:
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
        case Value(Op() as op, (inner,)) if op.moves.keeps_all:
            yield from _constants(inner, depth - 1)
        case _:
            return
