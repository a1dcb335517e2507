"""Backends: ways to run or write out a graph, by name and by suffix.

A runner that is a function, and a writer of files ending in `.gv`, are added so::

    RUNNERS.add("twice", lambda graph: lambda *inputs: evaluate(graph, *inputs))
    WRITERS.add("graphviz", GraphvizFile(), suffix=".gv")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qir.interop.registry import Registry
from qir.ir import Graph
from qir.text.files import WriteFile


class Runnable(Protocol):
    """A graph as a function of arrays."""

    def __call__(self, *inputs: Any) -> Sequence[Any]:
        """Computes the outputs: one array for each, stored numbers where it has a code."""
        ...


class Runner(Protocol):
    """Computes graphs here."""

    def __call__(self, graph: Graph, *_: Any, **options: Any) -> Runnable:
        """Returns the graph as a function; later changes of the graph don't change it.

        Args:
            graph: The program.
            options: Keyword arguments that the runner names, each with a default.

        Raises:
            QirError: The runner can't compute an op; the place is named.
        """
        ...


class Writer(Protocol):
    """Makes files of graphs.

    One whose format is that of a runtime says so by a property `target`, the name of a target of
    `qir.targets`: `qir.save` then refuses what that runtime does not accept before `files` is
    called.
    """

    @property
    def companions(self) -> Sequence[str]:
        """Suffixes of the files that it may write beside the one that is named."""
        ...

    def files(self, graph: Graph, path: Path) -> Mapping[Path, WriteFile]:
        """Returns the files, each with a function that writes it when it is open.

        Args:
            graph: The program.
            path: The path that the user named, with the writer's suffix.

        Raises:
            QirError: The format can't say what the program does; the place is named.
        """
        ...


RUNNERS: Registry[Runner] = Registry(
    "the backend",
    {
        "xla": "qir.backends.xla.compile:compile_graph",
        "reference": "qir.backends.reference.interpreter:Interpreted",
    },
)
"""What `qir.compile` looks a backend up in."""

WRITERS: Registry[Writer] = Registry(
    "the format", {"qir": "qir.text.storage:WRITER"}, {".qir": "qir"}
)
"""What `qir.save` looks the suffix of a path up in, or else the name of the target."""
