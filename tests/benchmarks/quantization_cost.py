"""What quantizing a model from JAX costs: the seconds of each step, and the memory of calibration.

Run `python -m tests.benchmarks.quantization_cost [model...]`; Linux only. Every run is a process of
its own, started afresh, in which jax is loaded and weights and images are drawn before the clock
starts. Timed are the import with the loading of qir, every pass on 8 images one at a time, the
accuracy check, also as a share of all passes, and the compilation and first call of the integer
program, with all that XLA compiles on the way; seconds are medians of the runs. Loading takes
longer where Python may not keep compiled modules (PYTHONDONTWRITEBYTECODE). What the pipeline auto
takes is told as a multiple of `qir.calibrate` on the same data: processor seconds of all threads,
of one process that calibrates, searches and calibrates once more; MiniLM and EfficientNet-lite0
need what tests.benchmarks.trained needs. Memory is the peak of a process (VmHWM) that calibrates on
one random image after another.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import jax
import numpy as np

import qir
from tests.benchmarks.models import MODELS, Model
from tests.benchmarks.trained import NETWORKS

T = TypeVar("T")

IMAGES = 8
"""Images that a model is calibrated on when it is timed."""
BATCHES = (8, 256)
"""Numbers of batches whose peaks of memory are compared."""
RUNS = 3
CHECK = "accuracy-check"
"""The name that the accuracy check's seconds have among those of passes."""


def imported(model: Model, params: Any) -> qir.Graph:
    """Imports a model with its weights as constants."""
    return qir.from_jax(lambda images: model.function(params, images), model.images(0))


def seconds(name: str) -> dict[str, float]:
    """Returns what each step of quantizing a model and computing it once takes.

    Beside the steps, `total` is the sum of all, `processor` the time of all threads in it, and
    `check/passes` the accuracy check's time as a share of that of calibration and passes.
    """
    model = MODELS[name]
    params = jax.block_until_ready(model.init(0))
    images = [model.images(seed) for seed in range(IMAGES)]
    taken: dict[str, float] = {}

    def timed(step: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        taken[step] = time.perf_counter() - start
        return result

    start = time.process_time()
    graph = timed("import", lambda: imported(model, params))
    context = qir.Context()
    integer = timed("checks", lambda: qir.quantize(graph, images, context=context))
    for step, elapsed in context.timings:
        taken["checks"] -= elapsed
        taken[step] = taken.get(step, 0.0) + elapsed
    taken["checks"] = taken.pop("checks")
    passes = sum(elapsed for step, elapsed in context.timings if step != CHECK)
    program = timed("compile", lambda: qir.compile(integer))
    timed("first call", lambda: jax.block_until_ready(program(images[0])))
    total = sum(taken.values())
    return {
        **taken,
        "total": total,
        "processor": time.process_time() - start,
        "check/passes": taken[CHECK] / passes,
    }


def searched(name: str) -> tuple[float, float]:
    """Returns the processor seconds of calibrating a model, and those of quantizing it by auto."""
    if name in MODELS:
        model = MODELS[name]
        data: list[Any] = [model.images(seed) for seed in range(IMAGES)]
        graph = imported(model, model.init(0))
    else:
        network = NETWORKS[name]()
        data = [network.calibration]
        batch = "B" if network.transformer else None
        graph = qir.from_jax(network.function, *network.calibration, batch=batch)

    def taken(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    before = taken(lambda: qir.calibrate(graph, data))
    auto = taken(lambda: qir.quantize(graph, data, "auto"))
    after = taken(lambda: qir.calibrate(graph, data))
    return (before + after) / 2, auto


def multiple(name: str, runs: int) -> str:
    """Measures and says what auto takes as a multiple of calibration."""
    pairs = [afresh(searched, name) for _ in range(runs)]
    plain, auto = (median(each) for each in zip(*pairs, strict=True))
    ratio = median(auto / plain for plain, auto in pairs)
    return f"auto of {name} takes {auto:.1f} s, {ratio:.1f} times its calibration, {plain:.1f} s"


def peak(name: str, batches: int) -> int:
    """Returns the peak of the memory of this process, in KiB, after calibrating a model."""
    model = MODELS[name]
    graph = imported(model, model.init(0))
    data = (model.images(seed) for seed in range(batches))
    qir.optimize(graph, "fold, calibrate", data=data)
    return peak_memory()


def peak_memory() -> int:
    """Returns the peak of the memory of this process so far, in KiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (size,) = re.findall(r"VmHWM:\s*(\d+) kB", status)
    return int(size)


def afresh(work: Callable[..., T], *arguments: object) -> T:
    """Returns what a function does in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the median of each figure."""
    return {step: median(run[step] for run in runs) for step in runs[0]}


def table(columns: dict[str, dict[str, float]]) -> str:
    """Formats the seconds of models, one column each."""
    steps = dict.fromkeys(step for column in columns.values() for step in column)
    lines = [f"{'seconds':20}" + "".join(f"{name:>16}" for name in columns)]
    for step in steps:
        cells = (f"{column.get(step, np.nan):16.2f}" for column in columns.values())
        lines.append(f"{step:20}" + "".join(cells))
    return "\n".join(lines)


def growth(name: str, few: int, many: int) -> str:
    """Measures and says how the peak of memory grows with the number of batches."""
    peaks = [afresh(peak, name, count) for count in (few, many)]
    sizes = " and ".join(
        f"{size / 1024:.0f} MiB on {count} batches"
        for size, count in zip(peaks, (few, many), strict=True)
    )
    return f"calibration of {name} peaks at {sizes}: ratio {peaks[1] / peaks[0]:.2f}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Prints the table of seconds, then the memory of ResNet-50."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="*",
        default=["resnet50"],
        metavar="model",
        help=f"some of {', '.join(MODELS)} (default: resnet50)",
    )
    parser.add_argument(
        "--runs", type=int, default=RUNS, help="runs that are timed (default: %(default)s)"
    )
    parser.add_argument(
        "--memory",
        nargs="*",
        default=["resnet50"],
        metavar="MODEL",
        help=f"models whose peaks of memory on {' and '.join(map(str, BATCHES))} batches are "
        "compared; none without a name (default: resnet50)",
    )
    parser.add_argument(
        "--auto",
        nargs="*",
        default=[],
        metavar="MODEL",
        help="models whose quantizing by auto is compared with their calibration: those, "
        f"{' and '.join(NETWORKS)} (default: none)",
    )
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    for name in [*options.models, *options.memory]:
        if name not in MODELS:
            parser.error(f"no model {name}; there are {', '.join(MODELS)}")
    for name in options.auto:
        if name not in (*MODELS, *NETWORKS):
            parser.error(f"no model {name}; there are {', '.join((*MODELS, *NETWORKS))}")
    for name in options.auto:
        print(multiple(name, options.runs), flush=True)
    columns = {
        name: medians([afresh(seconds, name) for _ in range(options.runs)])
        for name in options.models
    }
    if columns:
        print(table(columns), flush=True)
    for name in options.memory:
        print(growth(name, *BATCHES), flush=True)


if __name__ == "__main__":
    main()
