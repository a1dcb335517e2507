"""`qir run`: a program's outputs, by XLA, the reference interpreter or both."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qir.api import compile, evaluate, load
from qir.backends import RUNNERS
from qir.cli.arguments import Commands, add_program, add_seed, check_apart, check_suffix, files_of
from qir.errors import QirError, counted
from qir.ir import Graph
from qir.observe.batches import random_inputs, read_samples
from qir.text.files import check_writable, write_atomically
from qir.text.storage import write_arrays
from qir.types import Array


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "run",
        help="compute a program's outputs",
        description="Computes a program on arrays from a file, or on random ones, and prints or "
        "writes the outputs.",
    )
    command.set_defaults(command=_run)
    add_program(command)
    command.add_argument(
        "--input", type=Path, help=".npy for one input, .npz with an array for each input by name"
    )
    command.add_argument(
        "--backend",
        choices=[*RUNNERS, "both"],
        default="xla",
        help="both: run XLA and the reference, compare, and exit with status 1 where integers "
        "differ, or floats by more than roundings make of them (default: %(default)s)",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="compare with the reference on generated inputs first, and avoid lowerings that are "
        "wrong",
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        help="where to write the outputs: .npz, or .npy for a single one",
    )
    add_seed(command, "random inputs")


def _run(options: argparse.Namespace) -> int:
    if options.check and options.backend == "reference":
        raise QirError(
            "run: expected --check with another backend than the reference, "
            "which is what it compares with"
        )
    if options.output is not None:
        check_writable(options.output)
        check_suffix(options.output, (".npz", ".npy"), "run")
        check_apart([options.output], [*files_of(options.program), options.input], "run")
    graph = load(options.program)
    names = [value.name for value in graph.outputs]
    if options.output is not None and options.output.suffix == ".npy" and len(names) != 1:
        raise QirError(
            f"run: expected a path ending in .npz for {counted(len(names), 'output')}, "
            f"got {options.output}"
        )
    inputs: Sequence[Array] = random_inputs(graph, options.seed)
    if options.input is not None:
        samples = read_samples(options.input, graph)
        inputs = [samples[value.name] for value in graph.inputs]
    checked = {"check": True} if options.check else {}
    backend = "xla" if options.backend == "both" else options.backend
    outputs = [np.asarray(array) for array in compile(graph, backend, **checked)(*inputs)]
    if options.check:
        print(
            f"checked: {backend} computes what the reference does, on generated inputs",
            file=sys.stderr,
        )
    if options.backend != "both":
        _show(options.output, names, outputs)
        return 0
    reference = list(evaluate(graph, *inputs))
    _show(options.output, names, reference)
    sys.stdout.flush()  # so that what is said of the numbers comes after them
    return _compare(names, outputs, reference, lambda: _within_roundings(graph, inputs, outputs))


def _show(path: Path | None, names: Sequence[str], outputs: Sequence[Array]) -> None:
    """Writes outputs into a file, or prints them where there is none."""
    if path is None:
        for name, array in zip(names, outputs, strict=True):
            print(f"%{name}: {array.dtype}{list(array.shape)}\n{array}")
        return

    def write(file: BinaryIO) -> None:
        if path.suffix == ".npy":
            np.lib.format.write_array(file, outputs[0], allow_pickle=False)
        else:
            write_arrays(file, dict(zip(names, outputs, strict=True)))

    write_atomically({path: write})


def _compare(
    names: Sequence[str],
    outputs: Sequence[Array],
    reference: Sequence[Array],
    within_roundings: Callable[[], bool],
) -> int:
    """Prints in how many numbers each output differs, then what that means.

    Args:
        names: Names of the outputs.
        outputs: Those of XLA.
        reference: Those of the reference.
        within_roundings: Tells of outputs that differ whether they may.

    Returns:
        The status of the command.
    """
    total = 0
    for name, array, right in zip(names, outputs, reference, strict=True):
        both_nan = (array != array) & (right != right)
        different = int(np.count_nonzero((array != right) & ~both_nan))
        total += different
        print(
            f"%{name}: {different} of {right.size} numbers differ between XLA and the reference",
            file=sys.stderr,
        )
    count = sum(right.size for right in reference)
    numbers = f"{count} numbers of XLA and the reference"
    if not total:
        print(f"equal: all {numbers}", file=sys.stderr)
        return 0
    if within_roundings():
        print(f"equal but for roundings of floats: all {numbers}", file=sys.stderr)
        return 0
    print(f"different: {total} of {numbers}", file=sys.stderr)
    return 1


def _within_roundings(graph: Graph, inputs: Sequence[Array], outputs: Sequence[Array]) -> bool:
    """Tells whether XLA's outputs are as near to the reference as its order of sums lets them be.

    A program that was compared with the reference on these very inputs, integers and floats within
    it too, takes another way wherever that one is wrong: it has these outputs only if none is.
    """
    try:
        checked = compile(graph, "xla", check=tuple(inputs))(*inputs)
    except QirError:
        return False
    pairs = zip(outputs, checked, strict=True)
    return all(np.array_equal(array, np.asarray(one), equal_nan=True) for array, one in pairs)
