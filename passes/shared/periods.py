"""Periods: which sines and cosines no code serves, as a step of it is a good part of a period."""

from __future__ import annotations

from collections.abc import Callable

from qir.ir import Graph, Node, Value
from qir.ops import Cos, Sin
from qir.ops.rules import SameCode
from qir.types import Affine

COARSEST = 0.2
"""The greatest step in radians: sines of numbers rounded to it have 10 * log10(12 / 0.2^2), which
is 25 dB, signal to noise."""


def coarse_periods(graph: Graph, code_for: Callable[[Value], Affine]) -> dict[Node, str]:
    """Finds the sines and cosines of numbers whose code is too coarse, and why.

    What scales, moves and adds up those numbers is rounded to as coarse a code, so that it stays in
    floating point too.

    Args:
        graph: A float program with ranges.
        code_for: Returns the code that a value's range asks for.
    """
    found: dict[Node, str] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Sin | Cos):
            continue
        (x,) = node.inputs
        if x.is_constant or x.range is None or not x.range.is_finite:
            continue
        step = float(code_for(x).scale.array)
        if step <= COARSEST:
            continue
        reason = (
            f"%{x.name} spans {x.range}, and its code has steps of {step:.3g} radians: expected "
            f"at most {COARSEST}; take it modulo its period first"
        )
        found[node] = reason
        pending = [x]
        while pending:
            maker = pending.pop().node
            if maker is None or maker in found or not _is_exact(maker):
                continue
            found[maker] = f"it is of the operand of %{node.outputs[0].name}, and {reason}"
            pending.extend(value for value in maker.inputs if not value.is_constant)
    return found


def _is_exact(node: Node) -> bool:
    return node.outputs[0].type.is_float and (
        node.op.elementwise or isinstance(node.op.quant, SameCode)
    )
