"""The ops that a recipe keeps in floating point."""

from __future__ import annotations

from collections.abc import Sequence

from qir.ir import Graph, Node
from qir.pipeline.selectors import select

KEPT = "a selector keeps it in floating point"
"""The note of the ops that selectors name; no later pass makes them integer ops."""


def kept_float(graph: Graph, selectors: Sequence[str]) -> set[Node]:
    """Returns the ops that selectors name, and those in the regions of such.

    Args:
        graph: The program.
        selectors: The selectors; see `qir opt --list`.

    Raises:
        QirError: A selector matches nothing.
    """
    named = select(graph, selectors)
    inside = (inner for node in named for region in node.regions for inner in region.walk())
    return named.union(inside)
