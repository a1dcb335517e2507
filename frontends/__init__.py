"""Frontends: readers of other representations of models, named by the format they read.

A reader of files ending in `.layers`, a function from a path to a graph, is added so::

    READERS.add("layers", read_layers, suffix=".layers")
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from qir.interop.registry import Registry
from qir.ir import Graph


class Reader(Protocol):
    """Reads a graph from files."""

    def __call__(self, path: Path) -> Graph:
        """Returns the graph.

        Args:
            path: The path that the user named, with the reader's suffix.

        Raises:
            QirError: A file is missing or damaged, or QIR has no rule for something in it.
        """
        ...


READERS: Registry[Reader] = Registry(
    "the format", {"qir": "qir.text.storage:load"}, {".qir": "qir"}
)
"""What `qir.load` looks the format up in, or else the suffix of a path."""
