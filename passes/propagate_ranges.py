"""propagate-ranges: what the ops of a program say about the ranges that were observed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from math import inf

from networkx.utils import UnionFind

from qir.interval import EVERYTHING, Interval
from qir.ir import Graph, Node, Value
from qir.op import Accumulate, FixedCode, Op, SameCode, SharedCode
from qir.ops import Clip, Const, HardSigmoid, HardSwish, Relu, Return
from qir.pipeline import Context, Pass, register

_CONSTANT_OUTSIDE: dict[type[Op], tuple[float, float]] = {
    HardSigmoid: (-3.0, 3.0),
    HardSwish: (-3.0, inf),
}
"""Ops that are constant below or above some argument: their operand can be clipped there."""


@register
class PropagateRanges(Pass):
    """Narrows ranges to what can occur and to what is read, and lets values of one code have one.

    Forward, each range is intersected with what its op can give for the ranges of its operands, and
    a value that has none takes that. Sums of products are left as observed: their bounds are 10 to
    100 times wider than what occurs.

    Backward, a value that only relu, clip and the like read needs only the part that they let
    through, also where ops that move or compare numbers stand between: the saturation of its code
    does their work.

    Then the values that an op moves without changing them, which have one code, get the hull of
    their ranges; those of an op whose result has a fixed code get the range of that op. Operands of
    concat, maximum and the like keep their own: each is requantized to the code of the result,
    which is exact.

    Attributes:
        share: Whether the operands of such ops get one range with the result instead, so that
            nothing need be requantized.
    """

    share: bool = False

    name = "propagate-ranges"

    def run(self, graph: Graph, context: Context) -> None:
        bounds = _forward(graph, context)
        ranges = _backward(graph, bounds)
        for group in _groups(graph, share=self.share):
            fixed = [bounds[value] for value in group if _is_fixed(value)]
            known = [ranges[value] for value in group if ranges[value].is_finite]
            if common := fixed[:1] or known:
                ranges.update(dict.fromkeys(group, _hull(common)))
        for value, found in ranges.items():
            if _is_ranged(value) and found.is_finite:
                value.range = found


def _is_ranged(value: Value) -> bool:
    return value.type.is_float and not value.is_constant


def _is_fixed(value: Value) -> bool:
    return value.op is not None and isinstance(value.op.quant, FixedCode)


def _hull(intervals: Iterable[Interval]) -> Interval:
    return reduce(Interval.union, intervals)


def _forward(graph: Graph, context: Context) -> dict[Value, Interval]:
    """Bounds every value by its op and by its range."""
    bounds: dict[Value, Interval] = {value: value.range or EVERYTHING for value in graph.inputs}
    for node in graph.nodes:
        if isinstance(node.op, Const):
            continue
        possible = _possible(node, bounds)
        for value in node.outputs:
            observed = value.range
            if observed is None or _is_fixed(value):
                bounds[value] = possible
                continue
            bounds[value] = observed.intersect(possible)
            (low, high), (least, greatest) = observed.bounds, possible.bounds
            if high < least or greatest < low:
                bounds[value] = possible.intersect(observed)
                context.diagnostics.append(
                    f"propagate-ranges: %{value.name} was observed in {observed}, "
                    f"but {node.op.name} can only give {possible}"
                )
    return bounds


def _possible(node: Node, bounds: dict[Value, Interval]) -> Interval:
    op = node.op
    several = len(node.outputs) != 1 and not isinstance(op.quant, SameCode)
    if isinstance(op, Return) or isinstance(op.quant, Accumulate) or node.regions or several:
        return EVERYTHING
    operands = [
        Interval.point(value.real) if value.is_constant else bounds[value] for value in node.inputs
    ]
    possible = op.interval(*operands)
    low, high = possible.bounds
    if not low <= high:
        return EVERYTHING
    return possible if possible.is_point else Interval.of(low, high)


def _backward(graph: Graph, bounds: dict[Value, Interval]) -> dict[Value, Interval]:
    """Narrows the bounds of each value to what its users read of it."""
    read: dict[Value, Interval] = {}
    for node in reversed(list(graph.nodes)):
        for value in node.outputs:
            if value in bounds:
                read[value] = _read(value, bounds[value], read)
    for value in graph.inputs:
        read[value] = _read(value, bounds[value], read)
    return read


def _read(value: Value, bounds: Interval, read: dict[Value, Interval]) -> Interval:
    if not (_is_ranged(value) and value.uses) or _is_fixed(value):
        return bounds
    parts = [_read_by(node, bounds, read) for node, _ in value.uses]
    return bounds if any(part is bounds for part in parts) else _hull(parts)


def _read_by(node: Node, bounds: Interval, read: dict[Value, Interval]) -> Interval:
    """Returns the part of a value that a user lets through, or its bounds where that is all.

    The user's result tells what that is: clipping an operand to it commutes with moving, comparing
    and clipping numbers.
    """
    if outside := _CONSTANT_OUTSIDE.get(type(node.op)):
        return bounds.clip(*outside)
    results = [read[value] for value in node.outputs if value.type.is_float]
    if not isinstance(node.op.quant, SameCode) or len(results) != len(node.outputs) or not results:
        return bounds
    passed = _hull(results)
    if not passed.is_finite:
        return bounds
    # What relu or a move lets through was observed on the result, better than on the operand; the
    # result of a shared code has other operands too.
    return bounds.clip(*passed.bounds) if isinstance(node.op.quant, SharedCode) else passed


def _groups(graph: Graph, *, share: bool) -> Iterable[set[Value]]:
    """Finds the values that have one code, by union-find over the ops that keep it."""
    groups: UnionFind[Value] = UnionFind()
    sharing = []
    for node in graph.nodes:
        # Relu and clip are merged into the rounding of a sum, at a code of their own.
        if not isinstance(node.op.quant, SameCode) or isinstance(node.op, Relu | Clip):
            continue
        values = [value for value in (*node.inputs, *node.outputs) if _is_ranged(value)]
        if not any(value.type.is_float for value in node.outputs):
            continue
        if isinstance(node.op.quant, SharedCode):
            sharing.append(values)
        else:
            groups.union(*values)
    if share:
        fixed = {groups[value] for value in graph.values() if _is_fixed(value)}
        for values in sharing:
            # A fixed code would clip the other operands.
            groups.union(*(value for value in values if groups[value] not in fixed))
    yield from groups.to_sets()
