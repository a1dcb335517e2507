"""raise-norms: norms from whatever arithmetic computes them, known by their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ops import (
    Abs,
    Add,
    Broadcast,
    Cast,
    Clip,
    Div,
    Maximum,
    Mean,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    ReduceSum,
    Relu,
    Reshape,
    Rsqrt,
    Sqrt,
    Square,
    Sub,
    Transpose,
)
from qir.passes.shared.matching import without_leading
from qir.passes.shared.norm_numbers import Cone, FoundNorm, fitted_norm
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import Skip, rule
from qir.types import Array

_ARITHMETIC = (
    Abs,
    Add,
    Clip,
    Div,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    Relu,
    Rsqrt,
    Sqrt,
    Square,
    Sub,
)
_MOVES = (Reshape, Transpose, Broadcast)
_SUMS = (Mean, ReduceSum)
_KNOWN = (*_ARITHMETIC, *_MOVES, *_SUMS, Cast)

_MOST_NODES = 64
"""Nodes of a norm in its longest spelling, and some."""
_MOST_OPERANDS = 6


@rule(Sqrt, Rsqrt, Pow)
def norm(root: Value, b: Builder) -> Value | Skip | None:
    """Replaces what computes a norm by the op.

    From each square root the values that it alone depends on are found, and those that follow from
    it and one of them. What these have to do with one another is read off their numbers at random
    operands: what is summed together, gamma and beta from operands so large that epsilon is
    nothing, epsilon from operands so small that it is much. The op is believed if it gives the same
    numbers at others. So any spelling is known that computes a norm, and none that does not.
    """
    if not root.type.is_float:
        return None
    graph = root.owner
    try:
        found = _largest(graph, _node(root))
    except (QirError, ValueError) as error:
        return Skip(f"shapes that names alone tell can't be tried: {error}", root)
    if found is None:
        return None
    _replace(found, graph.before(_node(found.y)))
    _erase_unused(_node(found.y), _node(root))
    return root


def _largest(graph: Graph, root: Node) -> FoundNorm | None:
    """Returns the norm around a root whose operand is farthest from it."""
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    best: FoundNorm | None = None
    for x in _operands(root, place):
        start = 0 if x.node is None else place[x.node]
        cone = _cone(nodes[start:], x, root) if x.type.is_float else None
        found = None if cone is None else fitted_norm(cone, root)
        if found is not None:
            best = found
        elif best is not None:
            break
    return best


def _node(value: Value) -> Node:
    assert value.node is not None
    return value.node


def _operands(root: Node, place: dict[Node, int]) -> Iterator[Value]:
    """Yields the values of which, with constants, a root is computed, each alone; nearest first."""
    frontier, summed, yielded = {root.output}, False, 0
    for _ in range(_MOST_NODES):
        if len(frontier) == 1 and summed:
            yield from frontier
            yielded += 1
        inner = [value for value in frontier if value.node in place]
        if not inner or yielded == _MOST_OPERANDS:
            return
        last = max(inner, key=lambda value: place[_node(value)])
        if not isinstance(last.op, _KNOWN):
            return
        summed = summed or isinstance(last.op, _SUMS)
        frontier.remove(last)
        frontier.update(value for value in last.inputs if not value.is_constant)


def _cone(nodes: Sequence[Node], x: Value, root: Node) -> Cone | None:
    inside: dict[Node, bool] = {}
    for node in nodes:
        if len(inside) > _MOST_NODES:
            break
        varying = [value for value in node.inputs if not value.is_constant]
        if not isinstance(node.op, _KNOWN) or not varying or x in node.outputs:
            continue
        if all(value is x or value.node in inside for value in varying):
            rooted = any(value.node is not None and inside.get(value.node) for value in varying)
            inside[node] = node is root or rooted
    results = [
        node.output for node, rooted in inside.items() if rooted and node.output.type == x.type
    ]
    if not results or not inside.get(root):
        return None
    results = results[-_MOST_OPERANDS:]
    order = list(inside)
    return Cone(x, order[: order.index(_node(results[-1])) + 1], results)


def _replace(found: FoundNorm, b: Builder) -> None:
    """Puts the op in the place of the value that it computes."""
    operands = [found.x]
    for array in (found.gamma, found.beta):
        if array is not None:
            operands.append(_constant(array, found, b))
    found.y.replace_with(b.emit(found.op, *operands))


def _erase_unused(node: Node, kept: Node) -> None:
    """Erases a node and what it alone has read, but for one: they would be taken for a norm."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node is not kept and not node.erased and not any(out.uses for out in node.outputs):
            pending += [value.node for value in node.inputs if value.node is not None]
            node.graph.erase(node)


def _constant(array: Array, found: FoundNorm, b: Builder) -> Value:
    """Returns a constant for numbers: the source's own where it has them so."""
    dtype = found.x.type.dtype
    numbers = without_leading(array.astype(dtype.numpy))
    name = None
    for value in found.constants:
        same = value.type.element == dtype and value.array.size == numbers.size
        if same and np.array_equal(value.array.reshape(-1), numbers.reshape(-1)):
            if value.type.shape == numbers.shape:
                return value
            name = value.name if value.named else None
    return b.const(numbers, name)


@register
class RaiseNorms(Raising):
    """Finds norms by the numbers of what computes them, in any spelling."""

    name = "raise-norms"
    rules = (norm,)
