"""What compiling an int8 program costs: seconds until its first result, and memory.

Run `python -m tests.benchmarks.compile_cost [model...]`; Linux only. Every figure comes from a
process of its own, started afresh. The first one makes the machine code of all kernels, the second
finds it in the cache, a new folder. Memory is the peak of the first process (VmHWM), which loads,
compiles and runs a saved program, beyond that of one that has loaded the same libraries and has
compiled and run one small program.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

import qir
from qir.report.tables import table
from tests.benchmarks.models import MODELS
from tests.benchmarks.quantization_cost import afresh, peak_memory
from tests.benchmarks.vision import prepare

SMALL = """qir 2
graph @small(%x: f32[64]) {
  %codes = quantize(%x) : i8[64]{scale=0.5}
  return %codes
}
"""


def save(name: str, path: str) -> int:
    """Quantizes a model, saves it, and returns the bytes of its parameters."""
    integer = prepare(MODELS[name]).graph
    qir.save(integer, path)
    return qir.summary(integer).parameter_bytes


def base(cache: str) -> int:
    """Returns the peak of the memory, in KiB, of a process that has run next to nothing."""
    os.environ["QIR_CACHE_DIR"] = cache
    jax.block_until_ready(qir.compile(qir.parse(SMALL))(np.ones(64, np.float32)))
    return peak_memory()


def cost(name: str, path: str, cache: str) -> tuple[float, int]:
    """Returns the seconds of compiling and a first call, and the peak of the memory in KiB."""
    os.environ["QIR_CACHE_DIR"] = cache
    base(cache)
    graph, images = qir.load(path), MODELS[name].images(0)
    start = time.perf_counter()
    jax.block_until_ready(qir.compile(graph)(images))
    return time.perf_counter() - start, peak_memory()


def main(arguments: Iterable[str] | None = None) -> None:
    """Prints a row for each model."""
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
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    for name in options.models:
        if name not in MODELS:
            parser.error(f"no model {name}; there are {', '.join(MODELS)}")
    rows: list[tuple[str, ...]] = [
        ("", "cold s", "cached s", "parameters MiB", "memory MiB", "memory/parameters")
    ]
    with TemporaryDirectory() as folder:
        empty = afresh(base, str(Path(folder, "empty")))
        for name in options.models:
            path, cache = str(Path(folder, f"{name}.qir")), str(Path(folder, name))
            size = afresh(save, name, path)
            (cold, peak), (cached, _) = (afresh(cost, name, path, cache) for _ in range(2))
            own = (peak - empty) * 1024
            sizes = (f"{size / 2**20:.1f}", f"{own / 2**20:.1f}", f"{own / size:.2f}")
            rows.append((name, f"{cold:.2f}", f"{cached:.2f}", *sizes))
    print("\n".join(table(rows, right=range(1, 6))))


if __name__ == "__main__":
    main()
