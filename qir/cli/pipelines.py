"""Running a pipeline as the options of a command say; `qir quantize` and `qir opt` share it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from qir.api import optimize
from qir.cli.arguments import add_seed, at_least
from qir.errors import QirError
from qir.ir import Graph
from qir.observe.batches import batches, read_samples
from qir.observe.statistics import Statistics
from qir.pipeline import Context
from qir.report.tables import table
from qir.types import Array


def add_target(command: argparse.ArgumentParser) -> None:
    """Adds the option that says what runtime a program is for."""
    command.add_argument(
        "--target",
        metavar="NAME",
        help="the runtime that the program is for, such as onnx: options at their default follow "
        "it, and what it does not accept is not made",
    )


def add_batch_size(command: argparse.ArgumentParser) -> None:
    """Adds the option that `read_data` reads beside `data`."""
    command.add_argument(
        "--batch-size",
        type=at_least(1),
        default=32,
        help="samples a batch where the program leaves it open (default: %(default)s)",
    )


def add_pipeline_options(command: argparse.ArgumentParser) -> None:
    """Adds the options that `run_pipeline` reads beside `data` and `pipeline`."""
    command.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE",
        help="what qir calibrate wrote, instead of samples",
    )
    command.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="rules in TOML that give some ops other codes, methods or floating point; what they "
        "select is as `qir opt --list` says",
    )
    add_batch_size(command)
    add_target(command)
    command.add_argument("--dump-dir", type=Path, help="folder for the text after every pass")
    command.add_argument(
        "--print-after-all", action="store_true", help="print the text after every pass to stderr"
    )
    command.add_argument(
        "--verify-each",
        action="store_true",
        help="compute the program after every pass with the reference interpreter and compare",
    )
    command.add_argument(
        "--timings",
        action="store_true",
        help="print the seconds of every pass to stderr, and which changed nothing",
    )
    add_seed(command, "anything random")


def run_pipeline(
    options: argparse.Namespace,
    graph: Graph,
    progress: bool = False,
    run: Callable[..., Graph] = optimize,
    context: Context | None = None,
) -> Graph:
    """Runs the pipeline of the options over a program, and prints what the passes had to say.

    Args:
        options: Those of `add_pipeline_options`, `data` and `pipeline`.
        graph: The program.
        progress: Whether long passes show a progress bar.
        run: Takes the arguments of `optimize`.
        context: Filled by the run.
    """
    if options.data is not None and options.statistics is not None:
        raise QirError(
            "calibrate: expected samples by --data or statistics by --statistics, got both; qir "
            "calibrate --merge adds statistics up"
        )
    data = read_data(options, graph) if options.data is not None else None
    known = Statistics.load(options.statistics) if options.statistics is not None else None
    context = context or Context()
    result = run(
        graph,
        pipeline=options.pipeline,
        data=data,
        statistics=known,
        seed=options.seed,
        progress=progress,
        dump_dir=options.dump_dir,
        print_after_all=sys.stderr if options.print_after_all else None,
        check=options.verify_each,
        target=options.target,
        recipe=options.recipe,
        context=context,
    )
    for sentence in context.diagnostics:
        print(sentence, file=sys.stderr)
    if options.timings and context.timings:
        _print_timings(context)
    if options.verify_each:
        print(
            "checked: every pass that is to keep the numbers did, on random inputs", file=sys.stderr
        )
    return result


def _print_timings(context: Context) -> None:
    rows = [
        (name, f"{seconds:.3f} s", "" if edited else "changed nothing")
        for (name, seconds), edited in zip(context.timings, context.edited, strict=True)
    ]
    print("\n".join(table(rows, right=(1,))), file=sys.stderr)


def read_data(options: argparse.Namespace, graph: Graph) -> list[dict[str, Array]]:
    """Reads the samples of the options `data`, in batches of `batch_size`."""
    samples = read_samples(options.data, graph)
    data = list(batches(samples, graph, options.batch_size))
    for name, array in samples.items():
        if left := len(array) - sum(len(batch[name]) for batch in data):
            size = len(data[0][name])
            print(
                f"qir: the last {left} of {len(array)} samples are left out: "
                f"the program takes {size} at a time",
                file=sys.stderr,
            )
            break
    return data
