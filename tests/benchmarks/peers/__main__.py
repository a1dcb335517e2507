"""QIR int8 against ONNX Runtime int8 and OpenVINO int8, on the same networks and in turns.

Run `python -m tests.benchmarks.peers [model...]` with the extra `bench` installed; Linux only. Each
network is exported as ONNX from QIR's float program and quantized by ONNX Runtime (static, u8
activations, s8 weights for each channel) and by NNCF, on the batches that QIR is calibrated on.
Every timing is a process of its own; with one thread it may use one processor from its start. The
time of a call of an empty program is given apart. Nothing is kept on disk.

A rate counts the multiplications of a convolution as it is defined: leaving out those with padding,
or saving some by Winograd's method, may bring it above the peak. On processors without VNNI the
peers' products of bytes may saturate: see the column SQNR. The exit status is 1 where a number of
QIR differs from the reference interpreter.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qir.bench.machine import this_machine
from qir.errors import QirError, counted
from tests.benchmarks.models import MODELS
from tests.benchmarks.peers.compare import Comparison, compare, prepare_files
from tests.benchmarks.quantization_cost import afresh
from tests.benchmarks.vision import ROUNDS

MEASURED = ("resnet50", "mobilenet_v2", "video_resnet18", "mlp", "mlp_64", "keyword_ds_cnn")
"""The models that are measured when none are named."""


@contextmanager
def processors(allowed: set[int]) -> Generator[None]:
    """Lets this thread, and the processes that it starts, use some processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def comparisons(
    name: str, allowed: Sequence[set[int]], rounds: int, ops: bool
) -> Iterator[Comparison]:
    """Compares the libraries on a model, with one thread for each of the allowed processors.

    Args:
        name: The model's name.
        allowed: The processors of each comparison.
        rounds: Turns of each library.
        ops: Whether to time QIR's ops too.
    """
    with tempfile.TemporaryDirectory(prefix="qir-peers-") as folder:
        line, seconds = afresh(prepare_files, name, Path(folder))
        print(line, flush=True)
        for chosen in allowed:
            with processors(chosen):
                yield afresh(compare, name, Path(folder), len(chosen), rounds, seconds, ops)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each model; returns 1 where a number differs from the reference."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="model",
        help=f"some of {', '.join(MODELS)} (default: {' '.join(MEASURED)})",
    )
    parser.add_argument(
        "--threads", choices=("1", "all", "both"), default="both", help="(default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns (default: %(default)s)")
    parser.add_argument(
        "--ops", action="store_true", help="also print where the time of QIR goes, op by op"
    )
    options = parser.parse_args(arguments)
    for name in options.models:
        if name not in MODELS:
            parser.error(f"no model {name}: expected one of {', '.join(MODELS)}")
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    every = os.sched_getaffinity(0)
    allowed = {"1": [{max(every)}], "all": [every], "both": [{max(every)}, every]}[options.threads]
    machine = this_machine()
    print(f"{machine}")
    if machine.busy:
        print(machine.warning)
    exact = True
    rows: list[str] = []
    try:
        for name in options.models or MEASURED:
            for comparison in comparisons(name, allowed, options.rounds, options.ops):
                print(f"{comparison}\n", flush=True)
                threads = counted(comparison.threads, "thread")
                rows.append(f"{name}, {threads}: {comparison.speedup:.2f}")
                exact = exact and comparison.result.exact
    except QirError as error:
        parser.exit(2, f"error: {error}\n")
    print("times as fast as the faster peer:", *rows, sep="\n  ")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
