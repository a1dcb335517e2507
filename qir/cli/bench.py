"""`qir bench`: how fast programs run on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qir.api import compile, load
from qir.bench.machine import this_machine
from qir.bench.roofline import Roofline, roofline
from qir.cli.arguments import (
    Commands,
    add_seed,
    add_sizes,
    at_least,
    check_apart,
    check_suffix,
    sizes,
)
from qir.errors import QirError
from qir.ir.signature import bind
from qir.observe.batches import read_samples
from qir.text.files import check_writable

DESCRIPTION = """\
Compiles programs with XLA and times them on the same arrays, in turns, so that all of them meet
the same load. The first program is the one that the others are compared to: give the float
program first and then what was made of it.
"""


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "bench",
        help="time programs against each other, or the ops of a program",
        description=DESCRIPTION,
    )
    command.set_defaults(command=_bench)
    command.add_argument(
        "programs", type=Path, nargs="+", metavar="program", help="the programs, .qir files"
    )
    command.add_argument(
        "--input",
        type=Path,
        help="what to run them on: .npy for one input, .npz with an array for each input by name; "
        "random numbers when left out",
    )
    add_sizes(command, default="that of the samples, or 1")
    command.add_argument(
        "--rounds",
        type=at_least(1),
        default=20,
        help="turns of each program, of one call or more (default: %(default)s)",
    )
    command.add_argument(
        "--ops",
        action="store_true",
        help="also time every op: in the program, beside what the machine can do at most, where a "
        "generated kernel computes it; otherwise as a program of its own, with the casts and "
        "tables behind it",
    )
    command.add_argument(
        "--roofline",
        type=Path,
        metavar="FILE",
        help="also draw the ops of one program that generated kernels compute, with what bounds "
        "them, into an .svg, .png or .pdf file; needs matplotlib (the extra plot), implies --ops",
    )
    command.add_argument(
        "--measure",
        action="store_true",
        help="first measure which way of computing each op is the fastest here, where that is not "
        "known yet",
    )
    add_seed(command, "random inputs")


def _bench(options: argparse.Namespace) -> int:
    from qir.backends.xla.profile import profile
    from qir.bench.benchmark import benchmark, choose_inputs
    from qir.bench.op_times import op_times
    from qir.report.plots import SUFFIXES, check_plots

    page: Path | None = options.roofline
    if page is not None and len(options.programs) > 1:
        raise QirError(f"bench: expected one program for --roofline, got {len(options.programs)}")
    if page is not None:
        check_writable(page)
        check_suffix(page, SUFFIXES, "bench")
        check_plots()
        check_apart([page], [*options.programs, options.input], "bench")
    programs = [(str(path), load(path)) for path in options.programs]
    given = sizes(options.size, "bench")
    path: Path | None = options.input
    inputs = choose_inputs(
        programs,
        None if path is None else lambda graph: read_samples(path, graph),
        given,
        options.seed,
    )
    if options.measure:
        for _, graph in programs:
            compile(graph, measure=True)
    machine = this_machine()
    print(machine)
    if machine.busy:
        print(f"qir: {machine.warning}", file=sys.stderr)
    print(benchmark(programs, inputs, options.rounds))
    if options.ops or page is not None:
        for (name, graph), arrays in zip(programs, inputs, strict=True):
            times = profile(graph, arrays, options.rounds)
            timed = roofline(name, graph, arrays, times) if times is not None else None
            if timed is not None:
                print(f"\n{timed}")
            if page is not None:
                _draw(name, timed, page)
            left = op_times(
                name if timed is None else f"{name} left to XLA",
                graph,
                bind(graph.inputs, arrays).names,
                options.rounds,
                options.seed,
                without=() if timed is None else timed.values,
                progress=sys.stderr.isatty(),
            )
            if left.ops:
                print(f"\n{left}")
    return 0


def _draw(name: str, timed: Roofline | None, page: Path) -> None:
    from qir.bench.roofline_plot import picture
    from qir.report.plots import save_plot

    if timed is None or not timed.gops:
        from qir.backends.xla.kernel_choice import kernels_here

        found = kernels_here()
        raise QirError(
            f"bench: expected kernels that multiply for --roofline, got none in {name}",
            [found] if isinstance(found, str) else [],
        )
    save_plot(picture(timed), page)
