"""Whether codes of what enters and leaves a region serve: something computes on them inside."""

from __future__ import annotations

from collections.abc import Container

from qir.ir import Node, Value
from qir.ops import Const, Dequantize, Quantize, Requantize, Return


def is_computed_with(value: Value, tabled: Container[Node]) -> bool:
    """Whether something computes on the codes of a value, other than to move or decode them.

    Args:
        value: A coded value.
        tabled: The nodes of floating point that stand for tables.
    """
    stack = [value]
    while stack:
        for node in stack.pop().users:
            if isinstance(node.op, Return) or (
                isinstance(node.op, Dequantize) and node not in tabled
            ):
                continue
            if not _passes_on(node):
                return True
            stack.extend(node.outputs)
    return False


def is_computed_from(value: Value, tabled: Container[Node]) -> bool:
    """Whether a coded value is computed on codes, and not only made of floating-point numbers.

    Args:
        value: A coded value.
        tabled: The nodes of floating point that stand for tables.
    """
    maker = origin(value).node
    if maker is None or isinstance(maker.op, Const):
        return False
    return not isinstance(maker.op, Quantize) or maker in tabled


def origin(value: Value) -> Value:
    """Returns what a value is the moved or rounded numbers of, or itself."""
    while value.node is not None and _passes_on(value.node):
        value = value.node.inputs[0]
    return value


def _passes_on(node: Node) -> bool:
    return isinstance(node.op, Requantize) or node.op.moves.by_place
