"""Divisors: which quotients no code serves, as their divisors come too near to 0."""

from __future__ import annotations

from collections.abc import Callable

from qir.ir import Graph, Node, Value
from qir.numbers.interval import Interval
from qir.ops.rules import Accumulate, ExactSum, Quotient
from qir.passes.shared.wide import divided_sums, unmoved
from qir.types import Affine


def too_coarse(divisor: Value, code: Affine, rule: Quotient) -> str | None:
    """Says why a code has too few steps for what divides; None where it has enough.

    Args:
        divisor: The divisor in the float program, with its range.
        code: The code, per tensor.
        rule: The rule of the quotient.
    """
    known = Interval.point(divisor.real) if divisor.is_constant else divisor.range
    if known is not None and divisor.observed is not None:
        # A range that is shared, as with what a loop begins with, reaches where this never was.
        known = known.intersect(divisor.observed)
    low, high = (0.0, 0.0) if known is None else known.bounds
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    step = float(code.scale.array)
    if least > 0 and least >= rule.least_steps * step:
        return None
    return (
        f"the divisor %{divisor.name} comes as near to 0 as {least:.3g}, and its code has steps of "
        f"{step:.3g}: expected at least {rule.least_steps} steps; add a constant to it, clip it "
        "from below, or divide by a sum"
    )


def coarse_divisions(graph: Graph, code_for: Callable[[Value], Affine]) -> dict[Node, str]:
    """Finds the quotients whose divisor no code serves, with what computes it, and why.

    A divisor that is rounded to the steps of 8 bits could become 0 even in floating point, so that
    its elementwise ops stay there too, up to an exact sum.

    Args:
        graph: A float program with ranges.
        code_for: Returns the code that a value's range asks for.
    """
    found: dict[Node, str] = {}
    divided = divided_sums(graph)
    for node in graph.nodes:
        if not isinstance(node.op.quant, Quotient) or not node.outputs[0].type.is_float:
            continue
        x, y = node.inputs
        by_table = any(value.is_constant and value.array.size == 1 for value in (x, y))
        is_sum = y.op is not None and isinstance(y.op.quant, Accumulate | ExactSum)
        is_sum = is_sum or unmoved(y) in divided
        if by_table or is_sum or y.is_constant or y.range is None or not y.range.is_finite:
            continue
        reason = too_coarse(y, code_for(y), node.op.quant)
        if reason is None:
            continue
        found[node] = reason
        pending = [y]
        while pending:
            maker = pending.pop().node
            if maker is None or not maker.op.elementwise or maker in found:
                continue
            varying = [value for value in maker.inputs if not value.is_constant]
            if isinstance(maker.op.quant, ExactSum) and len(varying) > 1:
                continue
            found[maker] = f"it is of the divisor of %{node.outputs[0].name}, and {reason}"
            pending.extend(varying)
    return found
