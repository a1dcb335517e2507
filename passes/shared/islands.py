"""Islands: ops between ops of floating point, which codes would cost accuracy and win no time."""

from __future__ import annotations

from collections.abc import Container, Iterator

from qir.ir import Graph, Node, Value, reachable
from qir.ops import Const, Return
from qir.ops.rules import ExactSum, KeepFloat, SameCode
from qir.passes.shared.boundary import Boundary


def islands(graph: Graph, kept: Container[Node], boundary: Boundary) -> set[Node]:
    """Finds the ops that could be integer ones but have floating point on every side.

    Ops that could be integer ones are parted into groups that pass floating-point tensors to one
    another. A group is an island where all that it reads from outside is computed in floating point
    or given so, all that reads it from outside computes in floating point or is the return, and at
    least one of these is an op that is kept. A group with a product, a convolution, a softmax or a
    normalization is none: those are what codes make faster.

    Args:
        graph: A float program.
        kept: The ops that stay in floating point.
        boundary: What the program takes and returns.
    """
    members = dict.fromkeys(
        node
        for node in graph.nodes
        if not isinstance(node.op, Const | Return) and node not in kept and any(_beside(node))
    )
    found: set[Node] = set()
    seen: set[Node] = set()
    for first in members:
        if first in seen:
            continue
        # networkx would take 0.1 s to load for that.
        group = reachable(
            [first], lambda node: (near for near in _beside(node) if near in members)
        ).keys()
        seen |= group
        if any(_is_worth_codes(node) for node in group):
            continue
        if any(value in boundary.taken for node in group for value in node.inputs):
            continue
        # What is beside a group and in no group is kept, the return aside.
        beside = {near for node in group for near in _beside(node)} - group
        returned = {node for node in beside if isinstance(node.op, Return)}
        if returned and boundary.returns_codes:
            continue
        if beside - returned:
            found |= group
    return found


def _beside(node: Node) -> Iterator[Node]:
    """Yields the nodes that a node gets floating-point tensors from or gives some to."""
    yield from (value.node for value in node.inputs if _joins(value) and value.node is not None)
    yield from (user for value in node.outputs if _joins(value) for user in value.users)


def _joins(value: Value) -> bool:
    return value.type.is_float and not value.is_constant


def may_have_codes(node: Node) -> bool:
    """Whether an op in the regions of a node could be an integer one."""
    inner = (inner for region in node.regions for inner in region.walk())
    return any(not isinstance(each.op.quant, KeepFloat) and any(_beside(each)) for each in inner)


def _is_worth_codes(node: Node) -> bool:
    if node.regions:
        inner = (inner for region in node.regions for inner in region.nodes)
        return any(
            not isinstance(each.op.quant, KeepFloat) and _is_worth_codes(each) for each in inner
        )
    return not node.op.elementwise and not isinstance(node.op.quant, SameCode | ExactSum)
