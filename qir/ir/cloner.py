"""Copies of graphs: the one place that knows all that a copy must keep."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from qir.ir.node import Node
from qir.ir.value import Value
from qir.ops.attributes import attribute_fields
from qir.ops.core import Const, Return
from qir.ops.op import Op, from_attributes
from qir.types import FrozenArray, TensorType

if TYPE_CHECKING:
    from qir.ir.graph import Graph


def clone(
    graph: Graph,
    *,
    name: str | None = None,
    inputs: Sequence[Value] | None = None,
    outputs: Sequence[Value] | None = None,
    nodes: Container[Node] | None = None,
    retype: Callable[[TensorType], TensorType] | None = None,
) -> Graph:
    """Copies a graph or a part of it, regions too.

    Values keep their names, ranges and origins, nodes their locations and notes. Types and the
    arrays of constants are shared, values and nodes are not.

    Args:
        graph: The graph.
        name: The copy's name; the graph's when None.
        inputs: Values that become the copy's inputs; the graph's own when None.
        outputs: Values that the copy returns; the graph's own when None.
        nodes: The nodes to copy, which read inputs of the copy and one another; all when None.
        retype: Maps the type of each value to that of its copy. Constants are converted, and ops
            that tell their result's type tell the new one.
    """
    copy = type(graph)(graph.name if name is None else name)
    mapping: dict[Value, Value] = {}
    for value in dict.fromkeys(graph.inputs if inputs is None else inputs):
        type_ = value.type if retype is None else retype(value.type)
        mapping[value] = _with_facts(value, copy.add_input(value.name, type_))
    for node in graph.nodes:
        if isinstance(node.op, Return) or (nodes is not None and node not in nodes):
            continue
        names = [value.name for value in node.outputs]
        operands = [mapping[value] for value in node.inputs]
        twin = copy_node(node, copy, operands, names=names, retype=retype)
        mapping.update(zip(node.outputs, twin.outputs, strict=True))
    copy.set_outputs([mapping[value] for value in (graph.outputs if outputs is None else outputs)])
    return copy


def copy_node(
    node: Node,
    graph: Graph,
    operands: Sequence[Value],
    *,
    names: Sequence[str],
    before: Node | None = None,
    retype: Callable[[TensorType], TensorType] | None = None,
) -> Node:
    """Puts a copy of a node, its regions too, into a graph.

    Args:
        node: The node.
        graph: The graph, which may be that of the node.
        operands: Values of that graph that the copy reads.
        names: A name for each result, made unique by a number.
        before: The node of that graph to stand before; None appends.
        retype: As of `clone`.
    """
    op, types = node.op, [value.type for value in node.outputs]
    if retype is not None:
        types = list(map(retype, types))
        op = _with_types(op, types)
    regions = [clone(region, retype=retype) for region in node.regions]
    twin = Node(graph, op, operands, types, regions, node.loc)
    if node.note is not None:
        twin.note = node.note
    graph.insert(twin, before, names)
    for value, new in zip(node.outputs, twin.outputs, strict=True):
        _with_facts(value, new)
    return twin


def _with_facts(source: Value, target: Value) -> Value:
    target.take_ranges(source)
    if source.origin:
        target.origins = source.origins
    target.named = source.named
    return target


def _with_types(op: Op, types: Sequence[TensorType]) -> Op:
    """Returns an op whose result has other types."""
    if isinstance(op, Const):
        array = op.array.array.astype(types[0].dtype.numpy, copy=False)
        same = array is op.array.array
        return Const(op.array if same else FrozenArray.by_reference(array), types[0])
    specs = attribute_fields(type(op))
    if all(spec.by_type is None for spec in specs):
        return op
    attributes = {spec.name: getattr(op, spec.name) for spec in specs if spec.by_type is None}
    return from_attributes(type(op), attributes, types)
