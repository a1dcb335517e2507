"""Sums of products whose numbers, perhaps moved, are only multiplied element by element."""

from __future__ import annotations

from qir.ir import Graph, Node, Value
from qir.ops import Dot, Mul
from qir.ops.traits import Moves


def multiplied_sums(graph: Graph) -> set[Value]:
    """Finds the products of matrices whose parts nothing but multiplications read.

    So are queries and keys whose halves are turned by sines and cosines: the turned ones are
    rounded to 8 bits, and a first rounding to 8 bits would make as much noise once more.

    Args:
        graph: A float program.
    """
    return {
        node.output
        for node in graph.nodes
        if isinstance(node.op, Dot) and node.output.type.is_float and _is_multiplied(node.output)
    }


def _is_multiplied(value: Value) -> bool:
    stack, readers = [value], 0
    while stack:
        for user in stack.pop().users:
            if user.op.moves in (Moves.ORDER, Moves.PARTS) and all(
                x.is_constant for x in user.inputs[1:]
            ):
                stack.extend(user.outputs)
            elif isinstance(user.op, Mul) and _joins(user):
                readers += 1
            else:
                return False
    return readers > 0


def _joins(product: Node) -> bool:
    """Whether a product is of two tensors, and no function of one of them alone."""
    x, y = product.inputs
    return x is not y and not any(value.is_constant and value.array.size == 1 for value in (x, y))
