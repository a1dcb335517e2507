"""What goes through an op with regions, and the op with less or other things that do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qir.ir import Builder, Graph, Node, Value
from qir.ir.passages import passing
from qir.ops.regions import Kind, RegionOp
from qir.types import Size


class Lane(NamedTuple):
    """One thing that goes through an op with regions.

    Attributes:
        kind: How it goes through.
        operand: What goes in; None where it begins inside.
        inputs: The input of each region that it is; none where no region takes it.
        returned: What is returned for it by each region that returns what goes out.
        result: What comes out; None where it ends inside.
    """

    kind: Kind
    operand: Value | None
    inputs: tuple[Value, ...]
    returned: tuple[Value, ...]
    result: Value | None


def lanes_of(node: Node) -> list[Lane]:
    """Lists what goes through a node, in the order of operands and results."""
    return [Lane(part.passage.kind, *part[1:]) for part in passing(node)]


def trip_count(node: Node) -> Size | None:
    """Returns how often the body of a node runs; None where that is decided as it runs."""
    op = node.op
    return op.trip_count([x.type for x in node.inputs]) if isinstance(op, RegionOp) else None


def bodies(node: Node) -> list[int]:
    """Returns the regions of a node that return what goes out."""
    assert isinstance(node.op, RegionOp)
    return [index for index in range(len(node.regions)) if index not in node.op.conditions]


def inputs_read(region: Graph, outputs: Iterable[Value]) -> set[Value]:
    """Returns the inputs of a region that some of its values are computed from."""
    wanted = list(outputs)
    read = (value for node in region.cone(wanted) for value in node.inputs)
    return {value for value in (*wanted, *read) if value.node is None}


def resized(node: Node, lanes: Sequence[Lane]) -> RegionOp | None:
    """Returns the op of a node for what is to go through it; None where it has no such form."""
    assert isinstance(node.op, RegionOp)
    stacked = sum(lane.kind == "stacked" and lane.operand is not None for lane in lanes)
    trips = trip_count(node)
    return node.op.resized(
        sum(lane.kind == "carried" for lane in lanes),
        stacked,
        trips if isinstance(trips, int) else None,
    )


def rebuild(
    node: Node,
    op: RegionOp,
    lanes: Sequence[Lane],
    builder: Builder,
    instead: Mapping[Value, Value] | None = None,
    inside: Mapping[Value, Value] | None = None,
) -> list[Value]:
    """Builds a node with the regions of another one, through which other things go.

    What a region computes for nothing goes, and so do its inputs that are no lane's.

    Args:
        node: The node, which must not be used any more.
        op: What `resized` returns.
        lanes: What is to go through. New inputs of regions must be there already.
        builder: Where to build.
        instead: What to read for results that come out no more.
        inside: What regions return for values that other ones have replaced.

    Returns:
        What to read for each result; the result itself where it is unread and gone.
    """
    order = [
        *(lane for lane in lanes if lane.kind == "invariant" and lane.operand is not None),
        *(lane for lane in lanes if lane.kind == "carried"),
        *(lane for lane in lanes if lane.kind == "stacked" and lane.operand is not None),
        *(lane for lane in lanes if lane.operand is None),
    ]
    replaced = inside or {}
    for place, index in enumerate(bodies(node)):
        returned = [lane.returned[place] for lane in order if lane.returned]
        node.regions[index].set_outputs([replaced.get(value, value) for value in returned])
    for index, region in enumerate(node.regions):
        drop_unread(region)
        region.keep_inputs([lane.inputs[index] for lane in order if lane.inputs])
    operands = [lane.operand for lane in order if lane.operand is not None]
    new = builder.emit_node(op, operands, node.regions)
    results = dict(instead or {})
    for lane, value in zip((lane for lane in order if lane.returned), new.outputs, strict=True):
        if lane.result is not None:
            results[lane.result] = value
    return [results.get(value, value) for value in node.outputs]


def drop_unread(graph: Graph) -> None:
    """Erases nodes whose results nothing reads."""
    for node in reversed(list(graph.nodes)):
        if node.outputs and not any(value.uses for value in node.outputs):
            graph.erase(node)
