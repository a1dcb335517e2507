"""What patterns of passes share: where values lie, and how elements are split among tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from qir.backends.native.kernels.flat import LANES, FlatKernel
from qir.backends.native.pattern import Match, Placement
from qir.backends.native.plan import BufferView
from qir.ir import Node, Value
from qir.types import Array

TASK_ELEMENTS = 8192
"""Least elements of a task; fewer are not worth handing out."""
TASKS = 4
"""Tasks of a thread."""
SCRATCH_BYTES = 16 * 1024
"""What a task keeps of its result before it moves the rows apart; half of a first-level cache."""


def lies(placement: Placement, value: Value) -> BufferView:
    """Returns where a value lies, also a constant."""
    return placement.constant(value.array) if value.is_constant else placement.read(value)


def variables(*values: Value) -> tuple[Value, ...]:
    """Returns the values that are no constants, each once."""
    return tuple(dict.fromkeys(value for value in values if not value.is_constant))


def block(size: int, placement: Placement, least: int = TASK_ELEMENTS) -> int:
    """Returns how many of some elements a task takes, a multiple of what a vector holds."""
    tasks = max(min(size // least, TASKS * placement.plan.threads), 1)
    return -(-size // (tasks * LANES)) * LANES or LANES


def passed(
    node: Node,
    kernel: FlatKernel,
    parameters: Mapping[str, int],
    tables: Mapping[str, Array | Value],
) -> Match:
    """Returns a match of a node by one pass over its first operand.

    Args:
        node: The node.
        kernel: The pass.
        parameters: What `kernel.numbers` names.
        tables: What `kernel.tables` names.
    """
    x = node.inputs[0]

    def write(placement: Placement) -> None:
        shape = placement.shape(node.output)
        size = prod(shape)
        elements = block(size, placement)
        apart = placement.is_apart(node.output)
        row_parameters = {}
        if apart:
            # Whole rows, which lie in scratch before they are moved apart.
            rows = min(elements, SCRATCH_BYTES // kernel.sizes[1]) // shape[-1]
            elements = max(rows, 1) * shape[-1]
            row_parameters = {"row": shape[-1], "out_row": placement.pitch(node.output)}
        placement.plan.step(
            node.output.name,
            replace(kernel, apart=apart),
            {**parameters, **row_parameters, "size": size, "block": elements},
            {
                "x": lies(placement, x),
                **{
                    name: lies(placement, table)
                    if isinstance(table, Value)
                    else placement.constant(table)
                    for name, table in tables.items()
                },
                "out": placement.write(node.output),
            },
            tasks=-(-size // elements),
            scratch=elements * kernel.sizes[1] if apart else 0,
        )

    read = [table for table in tables.values() if isinstance(table, Value)]
    return Match((node,), variables(x, *read), write, rows_apart=True)
