"""What makes two graphs equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qir.ir.graph import Graph
    from qir.ir.value import Value


def describe(graph: Graph, name: str = "") -> list[Any]:
    """Returns what equality compares of a graph, in lists and tuples.

    Args:
        graph: The graph.
        name: Its name; those of regions don't count.
    """
    lines: list[Any] = [name, list(map(_facts, graph.inputs))]
    for node in graph.nodes:
        lines.append(
            (
                node.op,
                [value.name for value in node.inputs],
                list(map(_facts, node.outputs)),
                [describe(region) for region in node.regions],
            )
        )
    return lines


def _facts(value: Value) -> tuple[Any, ...]:
    return value.name, value.type, value.observed, value.range
