"""What covers of passes share: where values lie, and how elements are split among tasks."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from qir.backends.xla.cpu.cover import Cover, Region
from qir.backends.xla.cpu.kernels.flat import LANES, Flat
from qir.backends.xla.cpu.plan import Place
from qir.ir import Node, Value
from qir.types import Array

TASK_ELEMENTS = 8192
"""Least elements of a task; fewer are not worth handing out."""
TASKS = 4
"""Tasks of a thread."""


def lies(region: Region, value: Value) -> Place:
    """Returns where a value lies, also a constant."""
    return region.parameter(value.array) if value.is_constant else region.read(value)


def variables(*values: Value) -> tuple[Value, ...]:
    """Returns the values that are no constants, each once."""
    return tuple(dict.fromkeys(value for value in values if not value.is_constant))


def block(size: int, region: Region, least: int = TASK_ELEMENTS) -> int:
    """Returns how many of some elements a task takes, a multiple of what a vector holds."""
    tasks = max(min(size // least, TASKS * region.plan.threads), 1)
    return -(-size // (tasks * LANES)) * LANES or LANES


def passed(
    node: Node, kernel: Flat, words: Mapping[str, int], tables: Mapping[str, Array | Value]
) -> Cover:
    """Returns a cover of a node by one pass over its first operand.

    Args:
        node: The node.
        kernel: The pass.
        words: What `kernel.numbers` names.
        tables: What `kernel.tables` names.
    """
    x = node.inputs[0]

    def write(region: Region) -> None:
        size = prod(region.shape(node.output))
        elements = block(size, region)
        region.plan.step(
            node.output.name,
            kernel,
            {**words, "size": size, "block": elements},
            {
                "x": lies(region, x),
                **{
                    name: lies(region, table)
                    if isinstance(table, Value)
                    else region.parameter(table)
                    for name, table in tables.items()
                },
                "out": region.write(node.output),
            },
            tasks=-(-size // elements),
        )

    read = [table for table in tables.values() if isinstance(table, Value)]
    return Cover((node,), variables(x, *read), write)
