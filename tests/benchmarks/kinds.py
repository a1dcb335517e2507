"""What each named pipeline makes of an MLP, a CNN and a transformer block.

Run `python -m tests.benchmarks.kinds [network...]`. For each pipeline it prints the signal to
quantization noise against float JAX, the bytes of weights, scales and tables in the `.npz`, in how
many numbers XLA differs from the reference interpreter where no floating-point arithmetic decides
them, of how many, and the milliseconds of a call, the least of several.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import qir
from qir.report.tables import table
from tests.models.accuracy import decibels, exact_part
from tests.models.small_networks import NETWORKS

PIPELINES = (
    "w8a8",
    "w8a16",
    "w4a8",
    "w4a16",
    "w16a16",
    "log4",
    "w8-dynamic",
    "w8",
    "fp8",
    "w4",
    "nf4",
)
BATCHES = 4
"""Batches to calibrate on."""


@dataclass(frozen=True)
class Figures:
    """What was measured of a network under a pipeline.

    Args:
        decibels: Signal to quantization noise of the output.
        bytes: Those of the arrays in the `.npz`.
        differing: Numbers in which XLA and the reference differ.
        compared: Numbers that no floating-point arithmetic decides.
        seconds: The time of one call.
    """

    decibels: float
    bytes: int
    differing: int
    compared: int
    seconds: float


def measure(name: str, pipeline: str, repeats: int = 20) -> Figures:
    """Quantizes a network and measures it on a batch that it was not calibrated on."""
    network = NETWORKS[name]()
    inputs = network.inputs(100)
    graph = qir.from_jax(network.function, *inputs)
    samples = [network.inputs(seed) for seed in range(BATCHES)]
    with warnings.catch_warnings():
        # Of few bits the accuracy is what the table shows.
        warnings.simplefilter("ignore", qir.QirAccuracyWarning)
        program = qir.quantize(graph, samples, pipeline)
    (found,) = qir.evaluate(program, *inputs)
    wanted = np.asarray(network.function(*inputs))
    part = exact_part(program)
    differing = compared = 0
    if part.outputs:
        fed = [inputs[program.inputs.index(program.value(value.name))] for value in part.inputs]
        exact = qir.evaluate(part, *fed)
        for computed, number in zip(qir.compile(part)(*fed), exact, strict=True):
            differing += int(np.count_nonzero(np.asarray(computed) != number))
            compared += number.size
    compiled = qir.compile(program)
    return Figures(
        float(decibels(wanted.reshape(-1), found.reshape(-1))),
        stored_bytes(program),
        differing,
        compared,
        seconds(lambda: compiled(*inputs), repeats),
    )


def stored_bytes(program: qir.Graph) -> int:
    """The bytes of a saved program's arrays, without the headers around each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.qir")
        qir.save(program, path)
        with zipfile.ZipFile(path.with_suffix(".npz")) as archive:
            return sum(np.load(archive.open(name)).nbytes for name in archive.namelist())


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """The least time of a call, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def float_row(name: str, repeats: int) -> tuple[str, ...]:
    """The line of float JAX."""
    network = NETWORKS[name]()
    inputs = network.inputs(100)
    size = stored_bytes(qir.from_jax(network.function, *inputs))
    function = jax.jit(network.function)
    taken = seconds(lambda: function(*inputs), repeats)
    return (name, "float", "", f"{size:,}", "", "", f"{taken * 1e3:.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "networks",
        nargs="*",
        default=list(NETWORKS),
        metavar="network",
        help=f"which of {', '.join(NETWORKS)} (default: all)",
    )
    parser.add_argument(
        "--repeats", type=int, default=20, help="calls that are timed (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    rows: list[tuple[str, ...]] = [
        ("network", "pipeline", "SQNR dB", "bytes", "differing", "of", "ms")
    ]
    for name in options.networks:
        rows.append(float_row(name, options.repeats))
        for pipeline in PIPELINES:
            found = measure(name, pipeline, options.repeats)
            rows.append(
                (
                    name,
                    pipeline,
                    f"{found.decibels:.1f}",
                    f"{found.bytes:,}",
                    f"{found.differing}",
                    f"{found.compared:,}",
                    f"{found.seconds * 1e3:.3f}",
                )
            )
    print("\n".join(table(rows, right=range(2, 7))))


if __name__ == "__main__":
    main()
