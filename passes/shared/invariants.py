"""What a loop computes anew in every trip though nothing of it varies, computed once before it."""

from __future__ import annotations

from collections.abc import Sequence

from qir.ir import Builder, Graph, Node, Value
from qir.ir.cloner import copy_node
from qir.ops import Cond, Return
from qir.ops.regions import RegionOp
from qir.passes.shared.lanes import Lane, lanes_of, rebuild, resized, trip_count
from qir.pipeline.rewrite import rule


@rule(RegionOp)
def hoist_invariants(y: Value, b: Builder) -> Sequence[Value] | None:
    """Moves in front of a loop what depends on nothing that varies from trip to trip.

    Branches keep what they compute: it is computed only where they run. What is made of constants
    alone stays as well, as it is folded, or decoded where it is read.
    """
    node = y.node
    assert node is not None
    if isinstance(node.op, Cond):
        return None
    lanes = lanes_of(node)
    found = [
        _invariant_nodes(region, index, lanes, runs=_runs(node))
        for index, region in enumerate(node.regions)
    ]
    if not any(found):
        return None
    handed: list[tuple[Graph, Value, str]] = []
    inside: dict[Value, Value] = {}
    for index, nodes in enumerate(found):
        outside = {lane.inputs[index]: lane.operand for lane in lanes if lane.kind == "invariant"}
        for inner in nodes:
            operands = [_outside(value, outside, b) for value in inner.inputs]
            names = [value.name for value in inner.outputs]
            copy = copy_node(inner, b.graph, operands, names=names, before=b.anchor)
            b.emitted.append(copy)
            outside.update(zip(inner.outputs, copy.outputs, strict=True))
        for value in [value for inner in nodes for value in inner.outputs]:
            if all(user in nodes for user in value.users):
                continue
            inputs = tuple(each.add_input(value.name, value.type) for each in node.regions)
            value.replace_with(inputs[index])
            inside[value] = inputs[index]
            for each, region in zip(inputs, node.regions, strict=True):
                each.origin = ()
                handed.append((region, each, value.name))
            lanes.append(Lane("invariant", outside[value], inputs, (), None))
    op = resized(node, lanes)
    assert op is not None, "invariants are not counted"
    results = rebuild(node, op, lanes, b, inside=inside)
    for region, each, name in handed:
        region.name_after(each, name)
    return results


def _runs(node: Node) -> bool:
    """Whether the body of a loop runs at all, as far as is known before."""
    trips = trip_count(node)
    return isinstance(trips, int) and trips > 0


def _invariant_nodes(
    region: Graph, index: int, lanes: Sequence[Lane], *, runs: bool
) -> dict[Node, None]:
    """Returns the nodes of a region that compute the same in every trip, in order.

    Args:
        region: The region.
        index: Its position.
        lanes: What goes through.
        runs: Whether the loop has a trip; otherwise loops inside, which may be long, stay there.
    """
    fixed = {lane.inputs[index] for lane in lanes if lane.kind == "invariant"}
    found: dict[Node, None] = {}
    for node in region.nodes:
        if isinstance(node.op, Return) or (node.regions and not runs):
            continue
        varying = [value for value in node.inputs if value not in fixed and not value.is_constant]
        if not varying and any(value in fixed for value in node.inputs):
            found[node] = None
            fixed.update(node.outputs)
    # Numbers that are merely repeated would have to be held, and read in each trip.
    for node in reversed(list(found)):
        readers = [user for value in node.outputs for user in value.users]
        if _repeats(node) and not all(reader in found for reader in readers):
            del found[node]
    return found


def _repeats(node: Node) -> bool:
    x, y = node.inputs[0].type.size, node.outputs[0].type.size
    return node.op.moves.by_place and isinstance(x, int) and isinstance(y, int) and y > x


def _outside(value: Value, outside: dict[Value, Value | None], b: Builder) -> Value:
    """Returns what stands outside for a value inside; builds constants anew."""
    known = outside.get(value)
    if known is None:
        known = outside[value] = b.const(value.array, value.name, value.type.element)
    return known
