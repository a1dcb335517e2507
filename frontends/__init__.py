"""Frontends: readers of other representations of models, named by the format they read."""

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


READERS: Registry[Reader] = Registry("a path ending in", {".qir": "qir.text.storage:load"})
"""What `qir.load` looks the suffix of a path up in."""
