"""Compiles quantized models for TPU and CUDA on a machine that has neither, and examines the code.

XLA's compilers for these platforms come in wheels that QIR never depends on:

    pip install --no-deps libtpu
    pip install --no-deps jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION nvidia-cuda-nvcc-cu12

with the version of the installed jax. Nothing is executed: this finds what a compiler refuses and
what it turns into naive loops, not wrong numbers, and its cycles are the compiler's own estimates.
CUDA is compiled without autotuning, which needs a device, so that every product is Triton's. Of the
sums that are no product in the table, depthwise convolutions are multiply-adds, and several
products of one operand may have become one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import qir
from qir.ir import Graph
from qir.ops import Conv, ConvTranspose, Dot
from tests.benchmarks.models import MODELS, Model
from tests.benchmarks.optimized_hlo import Findings, examine

TPUS = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "v7": "tpu7x:2x2x1",
}
"""Topologies by name. Only v5e, v5p and v6e multiply signed bytes at a rate of their own."""

# Figures of the data sheets; the cost models of XLA read them, code generation few of them.
GPU = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: 0 }}
  core_count: {cores}
  fpus_per_core: {units}
  clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth}
  device_memory_size: 80000000000
  l2_cache_size: {cache}
  shared_memory_per_core: {shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {per_block}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
"""
GPUS = {
    "a100": GPU.format(
        major=8, cores=108, units=64, clock=1.41, bandwidth=2039 * 10**9,
        cache=40 << 20, shared=164 << 10, per_block=163 << 10,
    ),
    "h100": GPU.format(
        major=9, cores=132, units=128, clock=1.98, bandwidth=3350 * 10**9,
        cache=50 << 20, shared=228 << 10, per_block=227 << 10,
    ),
}  # fmt: skip
"""Target configurations (XLA's GpuTargetConfigProto) by name."""

WHEELS = {
    "tpu": ("libtpu", "libtpu"),
    "cuda": (
        "jax_plugins.xla_cuda12",
        f"jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__} "
        "nvidia-cuda-nvcc-cu12",
    ),
}
"""Of each platform the module that its wheels bring and the wheels."""


@dataclass(frozen=True)
class Target:
    """What is compiled for.

    Args:
        name: Name on the command line.
        platform: `cuda` or `tpu`.
    """

    name: str
    platform: str

    @cache  # noqa: B019 - a target lives as long as the program
    def sharding(self) -> SingleDeviceSharding:
        """Returns the placement on one device, which need not exist."""
        if self.platform == "tpu":
            topology = topologies.get_topology_desc(TPUS[self.name], platform="tpu")
        else:
            topology = topologies.get_topology_desc(
                platform="cuda", target_config=GPUS[self.name], topology="1x1x1"
            )
        return SingleDeviceSharding(topology.devices[0])

    def compile(self, function: Callable[..., Any], *arguments: Any) -> str:
        """Compiles a function and returns its optimized HLO.

        Args:
            function: A function of arrays.
            arguments: What has the shapes and types of its arguments.
        """
        place = self.sharding()
        specs = jax.tree.map(
            lambda given: jax.ShapeDtypeStruct(given.shape, given.dtype, sharding=place), arguments
        )
        lowered = jax.jit(function).lower(*specs)
        options: dict[str, str | bool] = {}
        if self.platform == "cuda":
            options["xla_gpu_autotune_level"] = "0"
        return lowered.compile(compiler_options=options).as_text() or ""


TARGETS = {name: Target(name, "cuda") for name in GPUS} | {
    name: Target(name, "tpu") for name in TPUS
}


def mixed(x: jax.Array) -> jax.Array:
    """What the vision models lack: groups, a transposed and a 1-D convolution, tables, softmax."""
    rng = np.random.default_rng(0)

    def kernel(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0, 0.1, shape), jnp.float32)

    image = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(
        x, kernel(3, 3, 8, 32), (1, 1), "SAME", dimension_numbers=image, feature_group_count=4
    )
    x = jax.nn.gelu(x)
    x = lax.conv_transpose(x, kernel(3, 3, 32, 32), (2, 2), "SAME", dimension_numbers=image)
    x = x * jax.nn.sigmoid(x)
    x = lax.conv_general_dilated(
        x.reshape(x.shape[0], -1, x.shape[-1]),
        kernel(5, 32, 64),
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return jax.nn.softmax(jnp.tanh(x).mean(1) @ kernel(64, 100))


def programs(names: Sequence[str]) -> Iterator[tuple[str, Graph]]:
    """Yields the quantized programs by name; those of `-u8` have activations of that storage."""
    for name in names:
        model = MODELS.get(name.removesuffix("-u8"))
        shape = (4, 16, 16, 32) if model is None else model.shape
        function = mixed if model is None else _applied(model)
        samples = [
            np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
            for seed in range(2)
        ]
        yield name, qir.quantize(qir.from_jax(function, samples[0]), samples, PIPELINES[name])


def _applied(model: Model) -> Callable[[jax.Array], jax.Array]:
    params = model.init(0)
    return lambda x: model.function(params, x)


PIPELINES = {
    "digits": "w8a8",
    "digits-u8": "fold, calibrate, propagate-ranges, quantize(activations=u8), integer",
    "mixed": "w8a8",
    "mobilenet_v2": "w8a8",
    "resnet50": "w8a8",
    "video_resnet18": "w8a8",
}
"""How each program is quantized; those of `-u8` are of the model of that name."""


def controls(target: Target) -> list[str]:
    """Compiles what is known to be bad and returns what went unnoticed."""
    struct, missed = jax.ShapeDtypeStruct, []
    if target.platform == "tpu":
        entries, index = struct((256,), jnp.int8), struct((64, 64), jnp.int32)
        gathered = target.compile(lambda table, places: table[places], entries, index)
        if not examine(gathered, "tpu").problems:
            missed.append("a lookup by gather")
        return missed
    x, kernel = struct((1, 16, 16, 32), jnp.int8), struct((3, 3, 32, 32), jnp.int8)
    unsigned = struct((64, 64), jnp.uint8)
    dimensions = (((1,), (0,)), ((), ()))

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dot_general(x, y, dimensions, preferred_element_type=np.dtype(np.int32))

    if not examine(target.compile(dot, unsigned, unsigned), "cuda").problems:
        missed.append("a naive loop")

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=np.dtype(np.int32),
        )

    try:
        if not examine(target.compile(convolve, x, kernel), "cuda").problems:
            missed.append("a convolution of integers")
    except jax.errors.JaxRuntimeError:
        pass
    return missed


def compiled(graph: Graph, target: Target) -> Findings:
    """Compiles a program for a target and examines it; a refusal is a problem."""
    program = qir.compile(graph)
    try:
        text = target.compile(program.function, program.parameters, *program.inputs)
    except jax.errors.JaxRuntimeError as error:
        return Findings(problems=[f"refused: {_line(error)}"])
    return examine(text, target.platform)


def _line(error: Exception) -> str:
    """Returns the beginning of a message, which can be as long as a program, in one line."""
    return " ".join(str(error).split())[:300]


def absent(targets: Sequence[Target]) -> str:
    """Returns how to install the wheels that are missing, or nothing."""
    platforms = sorted({target.platform for target in targets})
    missing = [platform for platform in platforms if not _has(WHEELS[platform][0])]
    return "\n".join(
        f"no compiler for {platform}: pip install --no-deps {WHEELS[platform][1]}"
        for platform in missing
    )


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check(targets: Sequence[Target], names: Sequence[str]) -> int:
    """Prints a line for each program and target, and returns the number of problems."""
    problems, usable = 0, []
    for target in targets:
        try:
            missed = controls(target)
        except jax.errors.JaxRuntimeError as error:
            print(f"{target.name}: the compiler does not start: {_line(error)}")
            problems += 1
            continue
        usable.append(target)
        for what in missed:
            print(f"{target.name}: the check does not notice {what}")
        problems += len(missed)
    print(f"{'program':16}{'target':8}{'s':>6}{'cycles':>12}  {'sums':>4}  products by kind")
    for name, graph in programs(names):
        sums = sum(isinstance(node.op, Conv | ConvTranspose | Dot) for node in graph.nodes)
        for target in usable:
            start = time.perf_counter()
            found = compiled(graph, target)
            taken = time.perf_counter() - start
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.products.items()))
            cycles = f"{found.cycles:,}" if found.cycles else "-"
            print(
                f"{name:16}{target.name:8}{taken:>6.1f}{cycles:>12}  {sums:>4}  {kinds}", flush=True
            )
            for problem in found.problems:
                print(f"    {problem}")
            problems += len(found.problems)
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check; returns 0, 1 where there are problems, 2 where wheels are missing."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ahead_of_time",
        description=__doc__,
        epilog="Exit status: 0 without problems, 1 with some, 2 where a compiler is not installed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=TARGETS,
        default=["a100", "h100", "v5e", "v6e"],
        metavar="NAME",
        help=f"what to compile for, of {', '.join(TARGETS)} (default: a100 h100 v5e v6e)",
    )
    parser.add_argument(
        "--programs",
        nargs="+",
        choices=PIPELINES,
        default=list(PIPELINES),
        metavar="NAME",
        help=f"what to compile, of {', '.join(PIPELINES)} (default: all)",
    )
    options = parser.parse_args(arguments)
    targets = [TARGETS[name] for name in options.targets]
    if missing := absent(targets):
        print(missing, file=sys.stderr)
        return 2
    # libtpu must not ask the network which machine it is on, nor claim a device for itself.
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="true",
    )
    jax.config.update("jax_platforms", "cpu")
    problems = check(targets, options.programs)
    print(f"{problems} problems" if problems else "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
