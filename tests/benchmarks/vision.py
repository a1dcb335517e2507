"""QIR int8 against float JAX on vision models, in turns and with all threads.

Run `python -m tests.benchmarks.vision`. Float JAX is `jax.jit` of the model as it is written,
channels last, with the parameters as arguments. The int8 program is what `from_jax` and the
pipeline w8a8 make of it with 8 batches; its whole outputs are compared with the reference
interpreter, and the exit status is 1 where a number differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import qir
from qir.bench.machine import Machine, this_machine
from qir.bench.timing import TURN, Contender, interleave
from qir.ir import Graph
from qir.report.tables import table
from qir.text.files import write_atomically
from qir.types import Array, format_shape
from tests.benchmarks.models import MODELS, Model, Params

VISION = ("digits", "mobilenet_v2", "resnet50", "video_resnet18")
"""The models that are measured when none are named."""
CALIBRATION = range(1, 9)
"""Seeds of the batches to calibrate on; the one that is measured has seed 0."""
PAUSE = 0.05
"""Seconds between libraries that have threads of their own, which spin on after their work."""
ROUNDS = 15


@dataclass(frozen=True)
class Case:
    """A model in the forms that libraries start from.

    Args:
        model: The model.
        params: Its parameters.
        images: The batch to measure on, on the device.
        float_graph: The imported program.
        graph: The integer program.
        prepare_seconds: Seconds that import and quantization took, their compilations included.
    """

    model: Model
    params: Params
    images: jax.Array
    float_graph: Graph
    graph: Graph
    prepare_seconds: float


@dataclass(frozen=True)
class Runner:
    """A model as one library runs it.

    Args:
        name: What the table calls it.
        call: Computes the outputs and returns when they are there.
        compile_seconds: Seconds up to the first outputs.
        output: The first outputs.
        weight_bytes: Size of its parameters.
        exact: Whether it promises the numbers of the reference interpreter.
        own_threads: Whether it has threads beside those of XLA.
    """

    name: str
    call: Callable[[], object]
    compile_seconds: float
    output: Array
    weight_bytes: int
    exact: bool = False
    own_threads: bool = False


@dataclass(frozen=True)
class Row:
    """The figures of one library on one model.

    Args:
        library: Name of the library.
        median_ms: Median of the calls.
        p10_ms: What a tenth of the calls did not exceed.
        p90_ms: What nine tenths of the calls did not exceed.
        ratio: Median of float JAX divided by this median.
        compile_seconds: Seconds up to the first outputs.
        weight_bytes: Size of its parameters.
        sqnr_db: Signal to quantization noise against the outputs of float JAX; None for itself.
        differing: Numbers of the outputs that differ from the reference interpreter; None where
            none are promised to be the same.
    """

    library: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    compile_seconds: float
    weight_bytes: int
    sqnr_db: float | None
    differing: int | None


@dataclass(frozen=True)
class Result:
    """The figures of one model.

    Args:
        model: Its name.
        shape: Shape of the batch.
        multiply_adds: Multiply-accumulates of a batch.
        prepare_seconds: Seconds that import and quantization took.
        rows: The libraries, float JAX first.
    """

    model: str
    shape: tuple[int, ...]
    multiply_adds: int
    prepare_seconds: float
    rows: tuple[Row, ...]

    @property
    def exact(self) -> bool:
        """Whether QIR gave the integers of the reference."""
        return not any(row.differing for row in self.rows)

    def __str__(self) -> str:
        header = (
            "", "median ms", "p10 ms", "p90 ms", "ratio", "compile s", "weight bytes", "SQNR dB",
            "differing",
        )  # fmt: skip
        rows: list[tuple[str, ...]] = [header]
        for row in self.rows:
            rows.append(
                (
                    row.library,
                    *(f"{time:.3f}" for time in (row.median_ms, row.p10_ms, row.p90_ms)),
                    f"{row.ratio:.2f}",
                    f"{row.compile_seconds:.2f}",
                    f"{row.weight_bytes:,}",
                    "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
                    "" if row.differing is None else f"{row.differing:,}",
                )
            )
        return "\n".join(
            [
                f"{self.model} {format_shape(self.shape)}, {self.multiply_adds / 1e6:,.1f} MMAC, "
                f"imported and quantized in {self.prepare_seconds:.1f} s",
                *(f"  {line}" for line in table(rows, right=range(1, len(header)))),
            ]
        )


def prepare(model: Model) -> Case:
    """Draws parameters and images, imports the model and quantizes it."""
    params = model.init(0)
    images = jax.device_put(model.images(0))
    begin = time.perf_counter()
    graph = qir.from_jax(lambda x: model.function(params, x), images, name=model.name)
    integer = qir.quantize(graph, [model.images(seed) for seed in CALIBRATION])
    return Case(model, params, images, graph, integer, time.perf_counter() - begin)


def float_jax(case: Case) -> Runner:
    """Starts the model as it is written."""
    begin = time.perf_counter()
    jitted = jax.jit(case.model.function)
    output = np.asarray(jitted(case.params, case.images))
    seconds = time.perf_counter() - begin
    size = sum(array.nbytes for array in jax.tree.leaves(case.params))
    return Runner(
        "float JAX",
        lambda: jitted(case.params, case.images).block_until_ready(),
        seconds,
        output,
        size,
    )


def qir_int8(case: Case, kernels: bool | None = None) -> Runner:
    """Starts the integer program, by generated kernels where there are some."""
    begin = time.perf_counter()
    program = qir.compile(case.graph, kernels=kernels)
    output = np.asarray(program(case.images)[0])
    seconds = time.perf_counter() - begin
    return Runner(
        "XLA alone" if kernels is False else "QIR int8",
        lambda: program(case.images)[0].block_until_ready(),
        seconds,
        output,
        qir.summary(case.graph).parameter_bytes,
        exact=True,
    )


def xla_int8(case: Case) -> Runner:
    """Starts the integer program by XLA's lowerings alone."""
    return qir_int8(case, kernels=False)


LIBRARIES: tuple[Callable[[Case], Runner], ...] = (float_jax, xla_int8, qir_int8)
"""What is measured; float JAX, to which the others are compared, is the first."""


def measure(
    case: Case,
    rounds: int,
    libraries: Sequence[Callable[[Case], Runner]] = LIBRARIES,
    turn: float = TURN,
) -> Result:
    """Times libraries on a model, and compares their outputs."""
    runners = [start(case) for start in libraries]
    pause = PAUSE if any(runner.own_threads for runner in runners) else 0.0
    contenders = [Contender(runner.name, runner.call, pause) for runner in runners]
    times = interleave(contenders, rounds, turn=turn)
    (reference,) = qir.evaluate(case.graph, np.asarray(case.images))
    baseline, signal = times[0].median, runners[0].output
    rows = tuple(
        Row(
            runner.name,
            1000 * taken.median,
            1000 * taken.quantile(0.1),
            1000 * taken.quantile(0.9),
            baseline / taken.median,
            runner.compile_seconds,
            runner.weight_bytes,
            sqnr(signal, runner.output) if runner is not runners[0] else None,
            int(np.count_nonzero(runner.output != reference)) if runner.exact else None,
        )
        for runner, taken in zip(runners, times, strict=True)
    )
    macs = sum(qir.summary(case.graph).multiply_adds.values())
    return Result(case.model.name, case.model.shape, macs, case.prepare_seconds, rows)


def sqnr(signal: Array, noisy: Array) -> float:
    """Returns the ratio of signal to error in decibels."""
    wanted = signal.astype(np.float64)
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((wanted - noisy) ** 2)))


def write(path: Path, machine: Machine, rounds: int, results: Sequence[Result]) -> None:
    """Writes the figures as JSON."""
    facts: dict[str, Any] = {
        "machine": {**asdict(machine), "features": sorted(machine.features)},
        "jax": jax.__version__,
        "rounds": rounds,
        "models": [asdict(result) for result in results],
    }
    text = json.dumps(facts, indent=2) + "\n"
    write_atomically({path: lambda file: file.write(text.encode())})


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each model; returns 1 where a number differs from the reference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="*",
        metavar="model",
        help=f"some of {', '.join(MODELS)} (default: {' '.join(VISION)})",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args(arguments)
    for name in options.models:
        if name not in MODELS:
            parser.error(f"no model {name}: expected one of {', '.join(MODELS)}")
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    machine = this_machine()
    print(f"{machine}; jax {jax.__version__} on {jax.default_backend()}")
    if machine.busy:
        print(machine.warning)
    results: list[Result] = []
    for name in options.models or VISION:
        results.append(measure(prepare(MODELS[name]), options.rounds))
        print(results[-1], flush=True)
        if options.json is not None:
            write(options.json, machine, options.rounds, results)
    return 0 if all(result.exact for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
