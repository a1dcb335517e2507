"""ONNX Runtime and OpenVINO: quantizing a model with their own tools, and running it.

Both are calibrated on the batches that QIR is calibrated on, and otherwise left at their defaults.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from qir.types import Array
from tests.benchmarks.peers.onnx_export import channels_first
from tests.benchmarks.peers.packages import load
from tests.benchmarks.vision import Case, Runner

Running: TypeAlias = tuple[Callable[[], object], Callable[[], Array]]
"""A function that computes the output, and one that returns it."""


def run_onnx(path: Path, x: Array, threads: int = 1) -> Running:
    """Starts a model with one input and one output in ONNX Runtime.

    The input stays bound, as do the input of OpenVINO and the device array that JAX is called with.
    """
    runtime = load("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, x)
    binding.bind_output(session.get_outputs()[0].name)

    def output() -> Array:
        (array,) = binding.copy_outputs_to_cpu()
        return np.asarray(array)

    return partial(session.run_with_iobinding, binding), output


def run_openvino(path: Path, x: Array, threads: int = 1) -> Running:
    """Starts a model in OpenVINO; see `run_onnx`."""
    openvino = load("openvino")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def output() -> Array:
        return np.array(request.get_output_tensor().data)

    return partial(request.infer, share_outputs=True), output


class _Feeds:
    """What ONNX Runtime calibrates on, by its protocol."""

    def __init__(self, feeds: Iterable[dict[str, Array]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


Batch: TypeAlias = Array | dict[str, Array]
"""What a model takes: the array of its first input, or all by their names."""


def quantize_onnx(source: Path, target: Path, batches: Iterable[Batch]) -> None:
    """Quantizes a model as ONNX Runtime advises: static, QDQ, u8 by s8 for each channel.

    Args:
        source: The float model.
        target: The file to write.
        batches: What it takes.
    """
    tools = load("onnxruntime.quantization")
    prepared = target.with_suffix(".prepared.onnx")
    load("onnxruntime.quantization.shape_inference").quant_pre_process(
        source, prepared, skip_symbolic_shape=True
    )

    name = load("onnx").load(prepared).graph.input[0].name
    tools.quantize_static(
        prepared,
        target,
        _Feeds(batch if isinstance(batch, dict) else {name: batch} for batch in batches),
        quant_format=tools.QuantFormat.QDQ,
        per_channel=True,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
    )


def quantize_openvino(
    source: Path, target: Path, batches: Iterable[Batch], transformer: bool = False
) -> None:
    """Quantizes a model by NNCF, as it advises for transformers if it is one.

    See `quantize_onnx` for the other arguments.
    """
    os.environ["NNCF_CI"] = "1"  # or it reports its use over the network
    openvino = load("openvino")
    nncf = load("nncf")
    nncf.set_log_level(logging.ERROR)
    data = list(batches)
    with redirect_stdout(io.StringIO()):  # a progress bar
        model = nncf.quantize(
            openvino.Core().read_model(source),
            nncf.Dataset(data),
            subset_size=len(data),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        )
    openvino.save_model(model, target, compress_to_fp16=False)


def started(
    name: str,
    run: Callable[[Path, Array, int], Running],
    files: tuple[Path, ...],
    threads: int,
) -> Callable[[Case], Runner]:
    """Returns what starts a model in a runtime.

    Args:
        name: What tables call it.
        run: Starts it.
        files: The model's files, the one to open first.
        threads: Number of threads.
    """

    def start(case: Case) -> Runner:
        x = channels_first(np.array(case.images))  # OpenVINO takes no array of jax's, not writeable
        begin = time.perf_counter()
        call, output = run(files[0], x, threads)
        call()
        seconds = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in files)
        return Runner(name, call, seconds, output(), size, own_threads=True)

    return start
