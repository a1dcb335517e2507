"""Norms from whatever arithmetic computes them, known by their numbers rather than by spelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from qir.errors import QirError
from qir.frontends.raising.matching import in_float64, single_use
from qir.frontends.raising.norm_numbers import Cone, FoundNorm, fitted_norm, sizes_of
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
from qir.ops.normalization import Normalization
from qir.pipeline.rewrite import rule
from qir.types import Array, Dim

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


def raise_norms(graph: Graph) -> None:
    """Replaces what computes a norm by the op.

    From each square root the values that it alone depends on are found, and those that follow from
    it and one of them. What these have to do with one another is read off their numbers at random
    operands: what is summed together, gamma and beta from operands so large that epsilon is
    nothing, epsilon from operands so small that it is much. The op is believed if it gives the same
    numbers at others. So any spelling is known that computes a norm, and none that does not.

    Args:
        graph: The graph to change.
    """
    for root in list(graph.nodes):
        is_root = isinstance(root.op, Sqrt | Rsqrt | Pow)
        if root.erased or not is_root or not root.output.type.is_float:
            continue
        # Then it stays as it was imported: shapes that names alone tell can't be tried.
        with suppress(QirError, ValueError):
            found = _largest(graph, root)
            if found is not None:
                _replace(found, graph.before(_node(found.y)))


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


def _constant(array: Array, found: FoundNorm, b: Builder) -> Value:
    """Returns a constant for numbers: the source's own where it has them so."""
    dtype = found.x.type.dtype
    numbers = _without_leading(array.astype(dtype.numpy))
    name = None
    for value in found.constants:
        same = value.type.element == dtype and value.array.size == numbers.size
        if same and np.array_equal(value.array.reshape(-1), numbers.reshape(-1)):
            if value.type.shape == numbers.shape:
                return value
            name = value.name if value.named else None
    return b.const(numbers, name)


def _without_leading(numbers: Array) -> Array:
    """Drops leading axes of size 1, which broadcasting gives back."""
    leading = next((axis for axis, size in enumerate(numbers.shape) if size > 1), numbers.ndim)
    return numbers.reshape(numbers.shape[leading:])


@rule(Add, Mul)
def norm_affine(y: Value, b: Builder) -> Value | None:
    """Makes gamma and beta of a norm of constants that its result is multiplied by or added to."""
    before, c = y.inputs
    norm = before.inputs[0] if isinstance(before.op, Reshape) else before
    if not (isinstance(norm.op, Normalization) and c.is_constant and before.type == y.type):
        return None
    x, *parameters = norm.inputs
    if not all(map(single_use, {norm, before})) or not all(
        value.is_constant for value in parameters
    ):
        return None
    moved = _moved_constant(in_float64(c), before, norm)
    if moved is None:
        return None
    dtype = x.type.dtype.numpy
    gamma = in_float64(parameters[0]) if parameters else np.ones(())
    beta = in_float64(parameters[1]) if parameters[1:] else np.zeros(())
    if isinstance(y.op, Mul):
        gamma, beta = gamma * moved, beta * moved
    else:
        beta = beta + moved
    operands = [b.const(gamma.astype(dtype))]
    if np.any(beta):
        operands.append(b.const(beta.astype(dtype)))
    result = b.emit(norm.op, x, *operands)
    return result if before is norm else b.emit(Reshape(y.type.shape), result)


def _moved_constant(numbers: Array, before: Value, norm: Value) -> Array | None:
    """Returns a constant that broadcasts against a reshaped norm as one against the norm itself."""
    if before is norm:
        return numbers
    if any(isinstance(size, Dim) for size in (*before.type.shape[1:], *norm.type.shape[1:])):
        return None
    if numbers.ndim == before.type.rank and numbers.shape[0] != 1:
        return None
    # A first axis that stays: else the constant might vary along what becomes part of it.
    if before.type.shape[:1] != norm.type.shape[:1]:
        return numbers if numbers.size == 1 else None
    spread = np.broadcast_to(numbers, sizes_of(before.type.shape)).reshape(
        sizes_of(norm.type.shape)
    )
    for axis in range(spread.ndim):
        if np.all(spread == spread.take([0], axis)):
            spread = spread.take([0], axis)
    return _without_leading(spread)


NORMS = [norm_affine]
