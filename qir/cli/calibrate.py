"""`qir calibrate`: what the values of a float program range over, as a file of statistics."""

from __future__ import annotations

import argparse
import sys
from functools import reduce
from pathlib import Path

from qir.api import calibrate, load
from qir.cli.arguments import (
    Commands,
    add_program,
    add_seed,
    at_least,
    check_apart,
    check_suffix,
    files_of,
)
from qir.cli.pipelines import add_batch_size, add_target, read_data
from qir.errors import QirError
from qir.observe.statistics import Statistics
from qir.text.files import check_writable


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "calibrate",
        help="observe a float program on data, for qir quantize --statistics",
        description="Observes a float program on samples and writes statistics, from which qir "
        "quantize --statistics solves ranges by any method. Statistics of parts of the data, as of "
        "several machines, merge in any order to the same file.",
    )
    command.set_defaults(command=_calibrate)
    add_program(command, "the float program, a .qir file")
    command.add_argument("--data", type=Path, help="samples, as for qir quantize")
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="where to write the statistics, an .npz"
    )
    command.add_argument(
        "-p",
        "--pipeline",
        default="w8a8",
        help="passes, or a named pipeline, that the statistics are for (default: %(default)s)",
    )
    add_target(command)
    command.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="statistics of the same program on other samples, to be merged in",
    )
    command.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="where to keep what was counted so far, an .npz; where it is there, go on behind it",
    )
    command.add_argument(
        "--every",
        type=at_least(1),
        default=16,
        metavar="BATCHES",
        help="batches between writings of the checkpoint (default: %(default)s)",
    )
    add_batch_size(command)
    add_seed(command, "anything random")


def _calibrate(options: argparse.Namespace) -> int:
    if options.data is None and not options.merge:
        raise QirError("calibrate: expected samples by --data, or statistics by --merge, got none")
    if options.data is None and options.checkpoint is not None:
        raise QirError(
            "calibrate: expected samples by --data, of which a checkpoint counts batches, got none"
        )
    inputs = [*files_of(options.program), options.data, *options.merge]
    outputs = [options.output, *([options.checkpoint] if options.checkpoint else [])]
    for path in outputs:
        check_suffix(path, (".npz",), "calibrate")
        check_apart([path], inputs, "calibrate")
    check_apart([options.output], [options.checkpoint], "calibrate")
    check_writable(options.output)
    graph = load(options.program)
    parts = [Statistics.load(path) for path in options.merge]
    for part, path in zip(parts, options.merge, strict=True):
        try:
            part.check(graph, unchanged=True)
        except QirError as error:
            raise error.at(f"in {path}") from error
    if options.data is not None:
        found = calibrate(
            graph,
            read_data(options, graph),
            options.pipeline,
            target=options.target,
            checkpoint=options.checkpoint,
            every=options.every,
            seed=options.seed,
            progress=sys.stderr.isatty(),
        )
        parts.append(found)
    reduce(Statistics.merge, parts).save(options.output)
    return 0
