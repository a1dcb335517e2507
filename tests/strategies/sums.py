"""What stands behind exact sums: nothing, a requantize that has a kernel, or a dequantize."""

from __future__ import annotations

from hypothesis import strategies as st

from qir.ops import Dequantize, Requantize
from qir.ops.op import Op
from tests.strategies.base import BYTES, Case, Draw, codes


def then(case: Case, op: Op) -> Case:
    """Extends a program of one result by an op of it."""
    graph = case.graph.copy()
    graph.set_outputs([graph.at_end().emit(op, graph.outputs[0])])
    return Case(graph, case.inputs)


def finished(draw: Draw, case: Case) -> Case:
    """Draws what stands behind the sums that a program gives."""
    kind = draw(st.sampled_from(["sums", "real", "codes", "codes", "clamped"]))
    if kind == "sums":
        return case
    if kind == "real":
        return then(case, Dequantize())
    to = draw(codes(BYTES))
    low, high = to.range
    clamp = (low + 10, high - 20) if kind == "clamped" else None
    return then(case, Requantize(to, draw(st.sampled_from(["fixed31", "f32_rne"])), clamp))
