"""One model in all libraries: the files that they start from, and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import jax
import numpy as np

import qir
from qir.backends.xla.profile import profile
from qir.bench.machine import this_machine
from qir.bench.roofline import roofline
from qir.bench.timing import Contender, Times, interleave
from qir.errors import QirError
from qir.ir import Graph
from qir.ops import Conv, Dot
from qir.report.tables import table
from tests.benchmarks.models import MODELS, Model
from tests.benchmarks.peers.onnx_export import channels_first, export
from tests.benchmarks.peers.packages import load
from tests.benchmarks.peers.runtimes import (
    quantize_onnx,
    quantize_openvino,
    run_onnx,
    run_openvino,
    started,
)
from tests.benchmarks.vision import (
    CALIBRATION,
    PAUSE,
    Case,
    Result,
    Runner,
    float_jax,
    measure,
    prepare,
    qir_int8,
)

EXPORTED = "fold-batch-norm, canonicalize"
EMPTY = "qir 2\ngraph @empty(%x: f32[1]) {\n  %y = relu(%x) : f32[1]\n  return %y\n}\n"
"""A program whose time is that of a call."""


@dataclass(frozen=True)
class Comparison:
    """The figures of one model.

    Args:
        result: Those of each library.
        threads: Number of threads of each library.
        peaks: Rate of bytes that were multiplied in registers, in 10^9 multiplications and
            additions a second, before and after; None where it can't be measured.
        loads: Load average before and after.
        dispatch: Seconds that a call of each library takes for an empty program.
        ops: The table of QIR's ops; empty where it isn't wanted or there are no kernels.
    """

    result: Result
    threads: int
    peaks: tuple[float | None, float | None]
    loads: tuple[float | None, float | None]
    dispatch: dict[str, float]
    ops: str = ""

    @property
    def speedup(self) -> float:
        """The time of the faster peer by that of QIR."""
        times = {row.library: row.median_ms for row in self.result.rows}
        return min(times[name] for name in ("ORT int8", "OpenVINO int8")) / times["QIR int8"]

    def __str__(self) -> str:
        rate = 2 * self.result.multiply_adds / 1e9
        rows: list[tuple[str, ...]] = [("", "call us", "GOPS", "of the peak")]
        for row in self.result.rows:
            gops = rate / (row.median_ms / 1000)
            share = f"{gops / max(known):.0%}" if (known := [p for p in self.peaks if p]) else ""
            call = f"{1e6 * self.dispatch[row.library]:.1f}"
            rows.append((row.library, call, f"{gops:.1f}", share))
        before, after = ("unknown" if peak is None else f"{peak:.0f}" for peak in self.peaks)
        loads = " and ".join("unknown" if load is None else f"{load:.2f}" for load in self.loads)
        return "\n".join(
            [
                f"{self.threads} thread{'s' * (self.threads > 1)}: {self.result}",
                *(f"  {line}" for line in table(rows, right=range(1, 4))),
                f"  int8 peak {before} GOPS before, {after} after; load average {loads}",
                f"  QIR int8 is {self.speedup:.2f} times as fast as the faster peer",
                *(f"  {line}" for line in self.ops.splitlines()),
            ]
        )


def prepare_files(name: str, folder: Path) -> tuple[str, float]:
    """Writes a model as each library takes it, all calibrated on the same batches.

    Args:
        name: The model's name.
        folder: Where to write.

    Returns:
        A line on how near the exported model's outputs are to those of JAX, and the seconds that
        QIR took to import and quantize the model.

    Raises:
        QirError: They are further apart than rounding explains.
    """
    model = MODELS[name]
    case = prepare(model)
    qir.save(case.float_graph, folder / "float.qir")
    qir.save(case.graph, folder / "int8.qir")
    line = export_float(case, folder / "float.onnx")
    batches = [channels_first(model.images(seed)) for seed in CALIBRATION]
    quantize_onnx(folder / "float.onnx", folder / "int8.onnx", batches)
    quantize_openvino(folder / "float.onnx", folder / "int8.xml", batches)
    return line, case.prepare_seconds


def export_float(case: Case, path: Path) -> str:
    """Writes a model as ONNX and compares what ONNX Runtime makes of it; see `prepare_files`."""
    graph = qir.optimize(case.float_graph, EXPORTED)
    load("onnx").save(export(graph), path)
    wanted = np.asarray(jax.jit(case.model.function)(case.params, case.images))
    call, output = run_onnx(path, channels_first(np.asarray(case.images)))
    call()
    difference = float(np.abs(output() - wanted).max() / np.abs(wanted).max())
    bound = rounding(graph)
    line = f"{case.model.name} exported: off by {difference:.1e} of the greatest output"
    if not difference <= bound:
        raise QirError(f"{line}, expected at most {bound:.1e}")
    return f"{line}, rounding explains {bound:.1e}"


def rounding(graph: Graph) -> float:
    """Returns how far two float32 computations of a program may be apart.

    Each rounds at every term of every sum. The terms are about as large as the sums, and layers
    keep that scale, as those of the benchmark's models do; so the bound is relative to the outputs.
    """
    terms = 0
    for node in graph.nodes:
        if isinstance(node.op, (Conv, Dot)):
            terms += prod(node.inputs[1].type.known_shape[:-1])
        else:
            terms += 1
    return 2 * terms * 2.0**-24


def compare(
    name: str, folder: Path, threads: int, rounds: int, prepare_seconds: float, ops: bool = False
) -> Comparison:
    """Times all libraries on a model in turns, in a process that may use just so many processors.

    Args:
        name: The model's name.
        folder: Where its files are.
        threads: Number of threads.
        rounds: Turns of each library.
        prepare_seconds: Seconds that import and quantization took.
        ops: Whether to time QIR's ops too.
    """
    from qir.backends.cpu.peak import int8_peak

    model = MODELS[name]
    case = Case(
        model,
        model.init(0),
        jax.device_put(model.images(0)),
        qir.load(folder / "float.qir"),
        qir.load(folder / "int8.qir"),
        prepare_seconds,
    )
    dispatch = {taken.name: taken.median for taken in calls(folder, threads)}
    loads, peaks = [this_machine().load], [int8_peak(threads)]
    result = measure(case, rounds, libraries(folder / "int8", threads))
    peaks.append(int8_peak(threads))
    loads.append(this_machine().load)
    images = [np.asarray(case.images)]
    times = profile(case.graph, images, rounds) if ops else None
    timed = roofline(name, case.graph, images, times) if times is not None else None
    return Comparison(
        result,
        threads,
        (peaks[0], peaks[1]),
        (loads[0], loads[1]),
        dispatch,
        "" if timed is None else str(timed),
    )


def libraries(stem: Path, threads: int) -> Sequence[Callable[[Case], Runner]]:
    """Returns what starts each library, float JAX first.

    Args:
        stem: Path of the peers' files, without the suffix.
        threads: Number of threads of the peers; XLA has one for each processor.
    """
    onnx = (stem.with_suffix(".onnx"),)
    openvino = (stem.with_suffix(".xml"), stem.with_suffix(".bin"))
    return (
        float_jax,
        qir_int8,
        started("ORT int8", run_onnx, onnx, threads),
        started("OpenVINO int8", run_openvino, openvino, threads),
    )


def calls(folder: Path, threads: int, rounds: int = 5) -> tuple[Times, ...]:
    """Times a call of each library, by means of a program that does next to nothing."""
    graph = qir.parse(EMPTY)
    model = Model("empty", lambda _, x: jax.nn.relu(x), lambda _: {}, (1,))
    case = Case(model, {}, jax.device_put(model.images(0)), graph, graph, 0.0)
    stem = folder / "empty"
    load("onnx").save(export(graph), stem.with_suffix(".onnx"))
    openvino = load("openvino")
    openvino.save_model(
        openvino.Core().read_model(stem.with_suffix(".onnx")), stem.with_suffix(".xml")
    )
    runners = [start(case) for start in libraries(stem, threads)]
    contenders = [Contender(runner.name, runner.call, PAUSE) for runner in runners]
    return interleave(contenders, rounds)
