"""Which values are functions of one other value, element by element: tables can compute them."""

from __future__ import annotations

import numpy as np

from qir.ir import Graph, Node, Value
from qir.ops.rules import SameCode
from qir.types import Affine

LONGEST_FUNCTION = 64
"""Ops that one table stands for at most, one behind the other: a value inside that others read
gets a table of its own, from the start."""

MOST_NUMBERS = 2**20
"""Numbers that a function is tried at, at most."""


def elementwise_functions(
    graph: Graph, excluded: set[Node]
) -> tuple[dict[Value, Value], set[Value]]:
    """Finds the values that are elementwise functions of one other value, and no mere clip of it.

    Returns:
        For the last value of each such function, the value that it is a function of; and the values
        inside, which nothing else reads.
    """
    source: dict[Value, Value] = {}
    depth: dict[Value, int] = {}
    clipped: set[Value] = set()
    for node in graph.nodes:
        if (
            not node.op.elementwise
            or node in excluded
            or len(node.outputs) != 1
            or not node.outputs[0].type.is_float
        ):
            continue
        operands = [
            value for value in node.inputs if not (value.is_constant and value.array.size == 1)
        ]
        length = 1 + max((depth.get(value, 0) for value in operands), default=0)
        if length > LONGEST_FUNCTION:
            sources, length = set(operands), 1
        else:
            sources = {source.get(value, value) for value in operands}
        output = node.outputs[0]
        origin = next(iter(sources), None)
        if len(sources) != 1 or origin is None or origin.is_constant or origin.type != output.type:
            continue
        source[output], depth[output] = origin, length
        if isinstance(node.op.quant, SameCode) and all(
            value not in source or value in clipped for value in operands
        ):
            clipped.add(output)

    def continues(value: Value, user: Node) -> bool:
        return len(user.outputs) == 1 and source.get(user.outputs[0]) is source[value]

    last, inside = {}, set()
    for value, origin in source.items():
        if value in clipped:
            if all(
                continues(value, user) and user.outputs[0] not in clipped for user in value.users
            ):
                inside.add(value)
        elif all(continues(value, user) for user in value.users):
            inside.add(value)
        else:
            last[value] = origin
    return last, inside


def defined(output: Value, source: Value, code: Affine) -> bool:
    """Whether a function of one value is a number, be it infinite, at all that a code decodes to.

    Where the code varies in so many parts that it decodes to more than 2^20 numbers, they are not
    tried, and the answer is no.

    Args:
        output: The last value of the function.
        source: The value that it is a function of.
        code: A code of at most 16 bits.
    """
    low, high = code.range
    stored = np.arange(low, high + 1)
    if code.grid:
        first, *rest = code.grid
        column = np.tile(stored, first).reshape(-1, *(1 for _ in rest))
        stored = np.broadcast_to(column, (column.size, *rest))
    if stored.size > MOST_NUMBERS:
        return False
    every = code.decode(stored).astype(np.float64)
    reals = {source: every}
    stack = [(output, False)]
    while stack:
        value, ready = stack.pop()
        if value in reals:
            continue
        if value.is_constant:
            reals[value] = value.array.reshape(()).astype(np.float64)
        elif ready:
            assert value.op is not None
            with np.errstate(all="ignore"):
                found = value.op.evaluate(*(reals[operand] for operand in value.inputs))
            reals[value] = np.asarray(found)
        else:
            stack.append((value, True))
            stack.extend((operand, False) for operand in value.inputs)
    return not np.any(np.isnan(reals[output]))
