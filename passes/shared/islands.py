"""Islands: ops between ops of floating point, which codes would cost accuracy and win no time."""

from __future__ import annotations

from collections.abc import Container

from qir.ir import Graph, Node, Value
from qir.ops import Const, Return
from qir.ops.rules import ExactSum, SameCode


def islands(
    graph: Graph, kept: Container[Node], *, coded_inputs: bool, coded_outputs: bool
) -> set[Node]:
    """Finds the ops that could be integer ones but have floating point on every side.

    Ops that could be integer ones are parted into groups that pass floating-point tensors to one
    another. A group is an island where all that it reads from outside is computed in floating point
    or given so, all that reads it from outside computes in floating point or is the return, and at
    least one of these is an op that is kept. A group with a product, a convolution, a softmax or a
    normalization is none: those are what codes make faster.

    Args:
        graph: A float program.
        kept: The ops that stay in floating point.
        coded_inputs: Whether the program takes stored numbers.
        coded_outputs: Whether it returns stored numbers.
    """
    groups = _groups(graph, kept)
    found: set[Node] = set()
    for group in groups:
        inside = set(group)
        if any(_is_worth_codes(node) for node in group):
            continue
        # What is beside a group and in no group is kept, the return aside.
        beside: set[Node | None] = set()
        for node in group:
            beside |= {value.node for value in node.inputs if _joins(value)}
            beside |= {user for value in node.outputs if _joins(value) for user in value.users}
        beside -= inside
        ops = {node for node in beside if node is not None}
        returned = {node for node in ops if isinstance(node.op, Return)}
        if (None in beside and coded_inputs) or (returned and coded_outputs):
            continue
        if ops - returned:
            found |= inside
    return found


def _groups(graph: Graph, kept: Container[Node]) -> list[list[Node]]:
    members = {
        node
        for node in graph.nodes
        if not isinstance(node.op, Const | Return)
        and node not in kept
        and (any(map(_joins, node.inputs)) or any(map(_joins, node.outputs)))
    }
    groups, seen = [], set[Node]()
    for start in graph.nodes:
        if start not in members or start in seen:
            continue
        group, stack = [], [start]
        seen.add(start)
        while stack:
            node = stack.pop()
            group.append(node)
            near = [value.node for value in node.inputs if _joins(value)]
            near += [user for value in node.outputs if _joins(value) for user in value.users]
            for other in near:
                if other is not None and other in members and other not in seen:
                    seen.add(other)
                    stack.append(other)
        groups.append(group)
    return groups


def _joins(value: Value) -> bool:
    return value.type.is_float and not value.is_constant


def _is_worth_codes(node: Node) -> bool:
    return not node.op.elementwise and not isinstance(node.op.quant, SameCode | ExactSum)
