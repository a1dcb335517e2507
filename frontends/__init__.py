"""Frontends: readers of other representations of models, named by the format they read.

A reader of files ending in `.layers`, a function from a path to a graph, is added so::

    READERS.add("layers", read_layers, suffix=".layers")
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from qir.errors import QirError, kind_of, what_failed
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
    "the format",
    {"qir": "qir.text.storage:load"},
    {".qir": "qir"},
    lambda name, entry: None if callable(entry) else "a function from a path to a graph",
)
"""What `qir.load` looks the format up in, or else the suffix of a path."""


def read_model(path: Path, name: str, subject: str) -> Graph:
    """Reads a model by the reader of a format.

    Args:
        path: The path.
        name: The name of the format.
        subject: What errors begin with.

    Raises:
        QirError: There is no such reader or file, or the reader fails or returns no graph.
    """
    reader = READERS.find(name, subject)
    if name == "qir":
        return reader(path)
    if not path.exists():
        raise QirError(f"{subject}: {path} does not exist")
    try:
        graph = reader(path)
    except QirError as error:
        raise error.at(f"in {path}") from error
    except Exception as error:
        raise QirError(
            f"{subject}: the reader of format {name} failed: {what_failed(error)}", [f"in {path}"]
        ) from error
    if not isinstance(graph, Graph):
        raise QirError(
            f"{subject}: expected a graph of the reader of format {name}, got {kind_of(graph)}",
            [f"in {path}"],
        )
    return graph
