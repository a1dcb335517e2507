"""Backends: ways to run or write out a graph, by name and by suffix.

A runner that is a function, and a writer of files ending in `.gv`, are added so::

    RUNNERS.add("twice", lambda graph: lambda *inputs: evaluate(graph, *inputs))
    WRITERS.add("graphviz", GraphvizFile(), suffix=".gv")
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qir.errors import QirError, counted, did_you_mean, kind_of
from qir.interop.registry import Registry
from qir.ir import Graph
from qir.targets import Target, find_target
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
    wanted=lambda name, entry: None if callable(entry) else "a function of a graph",
)
"""What `qir.compile` looks a backend up in."""

WRITERS: Registry[Writer] = Registry(
    "the format",
    {"qir": "qir.text.storage:WRITER"},
    {".qir": "qir"},
    lambda name, entry: (
        None
        if callable(getattr(entry, "files", None)) and hasattr(entry, "companions")
        else "an object with companions and a method files(graph, path)"
    ),
)
"""What `qir.save` looks the suffix of a path up in, or else the name of the target."""


def check_backend_options(runner: Runner, backend: str, options: Mapping[str, Any]) -> None:
    """Raises QirError for an option that a runner does not name; all of its own are listed.

    Args:
        runner: The runner.
        backend: Its name.
        options: What `qir.compile` was given.
    """
    _, *parameters = inspect.signature(runner).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters]
    for name in options:
        if name not in names:
            known = f"; its options are {', '.join(names)}" if names else "; it takes none"
            raise QirError(
                f"compile: the backend '{backend}' has no option '{name}'"
                f"{did_you_mean(name, names) or known}"
            )


def find_writer(path: Path, target: str | Target | None) -> tuple[Writer, Target | None]:
    """Returns the writer of a path, and the target that its programs are for.

    Args:
        path: The path; where no writer has its suffix, the one of the target's name is taken.
        target: The target that `qir.save` was given.

    Raises:
        QirError: There is no such writer or target, or the writer's target is another one.
    """
    wanted = None if target is None else find_target(target, "save")
    named = wanted is not None and path.suffix not in WRITERS.suffixes and wanted.name in WRITERS
    name = wanted.name if wanted is not None and named else WRITERS.name_for(path, "save")
    writer = WRITERS.find(name, "save")
    own: str | None = getattr(writer, "target", None)
    if own is not None and wanted is not None and wanted.name != own:
        raise QirError(f"save: expected target {own}, which format {name} is of, got {wanted.name}")
    return writer, find_target(own, "save") if own is not None else wanted


def expect_files(given: object, path: Path) -> Mapping[Path, WriteFile]:
    """Returns what a writer gives, or raises QirError where that writes no file at the path.

    Args:
        given: What `files` of the writer has returned.
        path: The path that was saved to.
    """
    expected = "save: expected of the writer a dict from paths to functions of an open file"
    if not isinstance(given, Mapping):
        raise QirError(f"{expected}, got {kind_of(given)}", [f"for {path}"])
    for place, write in given.items():
        if not isinstance(place, Path) or not callable(write):
            raise QirError(
                f"{expected}, got {kind_of(place)} with {kind_of(write)}", [f"for {path}"]
            )
    if path not in given:
        raise QirError(f"{expected}, {path} among them, got {counted(len(given), 'other file')}")
    return given
