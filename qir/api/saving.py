"""Programs as files."""

from __future__ import annotations

import os
from pathlib import Path

from qir.backends import expect_files, find_writer
from qir.ir import Graph, expect_graph
from qir.targets import Target, refuse
from qir.text.files import check_companions, check_writable, write_atomically


def save(graph: Graph, path: str | os.PathLike[str], *, target: str | Target | None = None) -> None:
    """Writes a program in the format of the path's suffix: `.qir`, with its arrays in an `.npz`.

    All files are written under temporary names and then renamed, so that none is ever half there
    and an error leaves what was there before. See `qir.backends.WRITERS` for further formats.

    Args:
        graph: The program.
        path: The path.
        target: The runtime that the program is for, one of `qir.targets`. Where no writer has the
            suffix, the one that has the target's name writes the file.

    Raises:
        QirError: No writer has the suffix, the target does not accept the program or is not the
            writer's, the program can't be said in its format, the path can't be written, or a file
            of another kind lies where one that goes with it would.
    """
    expect_graph(graph, "save")
    place = Path(path)
    writer, runtime = find_writer(place, target)
    if runtime is not None:
        refuse(runtime.obstacles(graph), runtime, "save")
    files = expect_files(writer.files(graph, place), place)
    check_companions(place, [companion for companion in files if companion != place])
    write_atomically(files)


def check_savable(path: str | os.PathLike[str], *, target: str | Target | None = None) -> None:
    """Raises QirError where `save` could not write a program: before the work on it begins."""
    place = Path(path)
    companions = [place.with_suffix(suffix) for suffix in find_writer(place, target)[0].companions]
    check_companions(place, companions)
    check_writable(place, *companions)
