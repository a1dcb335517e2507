"""`qir score`: how good and how costly programs are, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qir.api import load, score
from qir.backends import RUNNERS
from qir.bench.machine import this_machine
from qir.cli.arguments import Commands, add_seed
from qir.cli.pipelines import add_batch_size, read_data
from qir.errors import QirError, counted
from qir.ir import Graph
from qir.metrics import METRICS, Latency
from qir.metrics.asked import asked
from qir.metrics.registry import AnyMetric, Metric
from qir.ops.attributes import attribute_fields
from qir.text.storage import Npy, reading
from qir.types import Array

DESCRIPTION = """\
Computes metrics of programs on the same samples and prints them side by side: give the float
program first and then what was made of it. What is timed takes turns.
"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "score",
        help="compute metrics of programs on samples with targets",
        description=DESCRIPTION,
        epilog="\n".join(["metrics, with their options:", *_listing()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=_score)
    command.add_argument(
        "programs", type=Path, nargs="+", metavar="program", help="the programs, .qir files"
    )
    command.add_argument(
        "--data",
        type=Path,
        help="samples: .npy for one input, .npz with an array for each input by name",
    )
    command.add_argument(
        "--targets",
        "--labels",
        type=Path,
        help="what is right of each sample: an .npy, as of class ids, or a .txt with a text in "
        "each line",
    )
    command.add_argument(
        "-m",
        "--metric",
        action="append",
        default=[],
        required=True,
        help="a metric, such as accuracy, top-5, 'f1(average=micro)' or latency; may be given "
        "several times",
    )
    command.add_argument(
        "--output",
        metavar="NAME",
        help="the output that metrics look at, where the first program has several",
    )
    command.add_argument(
        "--reference",
        type=Path,
        metavar="PROGRAM",
        help="what sqnr and cosine compare with (default: the first program without codes)",
    )
    command.add_argument(
        "--backend", choices=list(RUNNERS), default="xla", help="(default: %(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_batch_size(command)
    add_seed(command, "random inputs, where no samples are given")


def _listing() -> list[str]:
    """Returns two lines for each metric: its options, and how its class is described."""
    lines = []
    for name, kind in sorted(METRICS.items()):
        options = ", ".join(spec.name for spec in attribute_fields(kind))
        first = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
        lines += [f"  {name}({options})" if options else f"  {name}", f"      {first}"]
    return lines


def _score(options: argparse.Namespace) -> int:
    metrics = asked(options.metric)
    names = [str(path) for path in options.programs]
    for name in names:
        if names.count(name) > 1:
            raise QirError(f"score: expected each program once, got {name} twice")
    programs = {name: load(path) for name, path in zip(names, options.programs, strict=True)}
    path: Path | None = options.reference
    reference = None if path is None else str(path) if str(path) in programs else load(path)
    data: Any = None
    if options.data is not None:
        first = next(iter(programs.values()))
        data = batches = read_data(options, first)
        if options.targets is not None:
            targets = _read_targets(options.targets)
            data = _paired(batches, targets, options, _left_out(first, batches))
        elif needed := next((name for name, one in metrics.items() if _reads_targets(one)), ""):
            raise QirError(f"score: expected targets, which {needed} reads; give them by --targets")
    elif options.targets is not None:
        raise QirError("score: expected samples by --data beside targets, got none")
    if any(isinstance(each, Latency) for each in metrics.values()):
        machine = this_machine()
        if machine.busy:
            print(f"qir: {machine.warning}", file=sys.stderr)
    found = score(
        programs,
        data,
        metrics,
        backend=options.backend,
        output=options.output,
        reference=reference,
        seed=options.seed,
    )
    print(found.to_json() if options.json else found)
    return 0


def _reads_targets(metric: AnyMetric) -> bool:
    return isinstance(metric, Metric) and metric.reads_targets


def _read_targets(path: Path) -> list[str] | Array:
    """Reads an array, or lines of text."""
    if path.suffix == ".txt":
        with reading(f"targets: can't read {path}"):
            return path.read_text(encoding="utf-8").splitlines()
    with reading(f"targets: can't read {path}"), path.open("rb") as file:
        array = Npy.of(file, path.stat().st_size).read()
    if not array.ndim:
        raise QirError(f"targets: expected targets along the first axis of {path}, got a number")
    return array


def _paired(
    data: Sequence[dict[str, Any]],
    targets: list[str] | Array,
    options: argparse.Namespace,
    left_out: int,
) -> list[tuple[dict[str, Any], Any]]:
    """Puts its targets beside each batch.

    Args:
        data: The batches.
        targets: A target for each sample.
        options: Those of the command.
        left_out: How many samples at the end may be in no batch.
    """
    pairs, start = [], 0
    for batch in data:
        count = len(next(iter(batch.values())))
        pairs.append((batch, targets[start : start + count]))
        start += count
    if not start <= len(targets) <= start + left_out:
        raise QirError(
            f"score: expected a target for each of {counted(start, 'sample')} in {options.data}, "
            f"got {len(targets)} in {options.targets}"
        )
    return pairs


def _left_out(graph: Graph, data: Sequence[dict[str, Any]]) -> int:
    """Returns how many samples a program of fixed batch size may leave over."""
    shape = graph.inputs[0].type.shape if graph.inputs else ()
    return len(next(iter(data[0].values()))) - 1 if shape and isinstance(shape[0], int) else 0
