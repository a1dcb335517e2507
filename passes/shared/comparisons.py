"""Comparisons with numbers beyond a calibrated range, which no code of that range can decide.

A mask that is computed, as (1 - m) * -1e9, is compared with -1e4. Where no sample of the data masks
anything, its range is a point: a code of that range would clamp whatever masks later.
"""

from __future__ import annotations

from qir.ir import Graph, Node, Value
from qir.ops import Const
from qir.ops.logic import Comparison
from qir.ops.rules import SameCode


def unseen_comparisons(graph: Graph) -> dict[Node, str]:
    """Finds the comparisons with constants beyond the range of what inputs give, and why.

    What computes the compared value is found with them, where that is inputs, constants, and ops
    that are elementwise or move numbers. Nothing is found behind a product or a sum: there the
    range is one of many numbers, and floating point would reach back into the model.

    Args:
        graph: A float program with ranges.
    """
    found: dict[Node, str] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Comparison):
            continue
        for x, y in (node.inputs, reversed(node.inputs)):
            if x.is_constant or not y.is_constant or not x.type.is_float or x.range is None:
                continue
            source = _from_inputs(x)
            if source is None or x.range.contains(y.array):
                continue
            reason = f"calibration saw %{x.name} on one side of %{y.name} only"
            found |= dict.fromkeys((node, *source), reason)
    return found


def _from_inputs(value: Value) -> set[Node] | None:
    """Returns what computes a value elementwise from inputs; None where anything else does."""
    nodes = {node for node in value.owner.cone([value]) if not isinstance(node.op, Const)}
    moves = all(node.op.elementwise or isinstance(node.op.quant, SameCode) for node in nodes)
    return nodes if moves else None
