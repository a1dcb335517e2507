"""The benchmark against other runtimes: the model that they are given, and the figures."""

import os
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.backends.xla.kernel_choice import kernels_here
from qir.errors import QirError
from tests.benchmarks.models import MODELS
from tests.benchmarks.peers.__main__ import main, processors
from tests.benchmarks.peers.compare import (
    EXPORTED,
    Comparison,
    compare,
    export_float,
    prepare_files,
    rounding,
)
from tests.benchmarks.peers.onnx_export import channels_first, export
from tests.benchmarks.peers.runtimes import (
    quantize_onnx,
    quantize_openvino,
    run_onnx,
    run_openvino,
    started,
)
from tests.benchmarks.vision import Result, Row, float_jax, prepare, sqnr


@pytest.fixture(scope="module")
def case():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return prepare(MODELS["digits"])


def test_the_export_is_the_network_channels_first(case):
    model = export(qir.optimize(case.float_graph, EXPORTED))
    (kind,) = {node.op_type for node in model.graph.node if "Pool" in node.op_type} - {"MaxPool"}
    assert kind == "GlobalAveragePool"
    assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [
        256, 1, 8, 8,
    ]  # fmt: skip
    assert {
        tuple(weights.dims) for weights in model.graph.initializer if len(weights.dims) == 4
    } == {
        (16, 1, 3, 3),
        (32, 16, 3, 3),
        (32, 32, 3, 3),
    }
    assert not any(node.op_type == "Transpose" for node in model.graph.node)


def test_the_export_computes_what_jax_computes(case, tmp_path):
    assert "rounding explains" in export_float(case, tmp_path / "float.onnx")


def test_other_numbers_than_those_of_jax_are_an_error(case, tmp_path):
    other = replace(case, params=MODELS["digits"].init(1))
    with pytest.raises(QirError, match=r"digits exported: off by .*, expected at most"):
        export_float(other, tmp_path / "float.onnx")


@pytest.mark.parametrize("name", ["mlp_64", "keyword_ds_cnn"])
def test_even_windows_strides_and_dense_layers_are_exported(name, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = MODELS[name]
    params, x = model.init(0), model.images(0)
    graph = qir.from_jax(lambda x: model.function(params, x), x)
    graph = qir.optimize(graph, EXPORTED)
    path = tmp_path / "model.onnx"
    path.write_bytes(export(graph).SerializeToString())
    call, output = run_onnx(path, channels_first(x))
    call()
    wanted = np.asarray(model.function(params, jnp.asarray(x)))
    assert np.abs(output() - wanted).max() <= rounding(graph) * np.abs(wanted).max()


def test_an_op_that_no_benchmarked_model_has_is_refused():
    pytest.importorskip("onnx")
    graph = qir.parse("qir 2\ngraph @f(%x: f32[1]) {\n  %y = tanh(%x) : f32[1]\n  return %y\n}\n")
    with pytest.raises(QirError, match="onnx: no translation of tanh as it is used at %y"):
        export(graph)


@pytest.mark.parametrize(
    ("package", "quantize", "run", "files"),
    [
        ("onnxruntime", quantize_onnx, run_onnx, ["int8.onnx"]),
        ("nncf", quantize_openvino, run_openvino, ["int8.xml", "int8.bin"]),
    ],
)
def test_a_peer_quantizes_and_runs_the_model(case, tmp_path, package, quantize, run, files):
    pytest.importorskip(package)
    export_float(case, tmp_path / "float.onnx")
    paths = tuple(tmp_path / file for file in files)
    batches = [channels_first(case.model.images(seed)) for seed in range(1, 3)]
    quantize(tmp_path / "float.onnx", paths[0], batches)
    runner = started(package, run, paths, threads=1)(case)
    # Where products of bytes saturate, as on AVX2, about 20 dB are left.
    assert 15 < sqnr(float_jax(case).output, runner.output) < 50
    assert runner.own_threads


def test_all_libraries_are_compared_on_one_model(tmp_path):
    for package in ("llvmlite", "nncf", "onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    line, seconds = prepare_files("mlp", tmp_path)
    assert line.startswith("mlp exported: off by ")
    comparison = compare("mlp", tmp_path, threads=1, rounds=1, prepare_seconds=seconds, ops=True)
    names = [row.library for row in comparison.result.rows]
    assert names == ["float JAX", "QIR int8", "ORT int8", "OpenVINO int8"] == [*comparison.dispatch]
    assert comparison.result.exact
    assert all(peak is None or peak > 1 for peak in comparison.peaks)
    if not isinstance(kernels_here(), str):
        assert "  kernels of mlp\n" in str(comparison)


def row(library, median):
    return Row(library, median, median, median, 1.0, 0.0, 0, None, None)


def test_the_faster_peer_counts():
    rows = (row("float JAX", 9), row("QIR int8", 2), row("ORT int8", 5), row("OpenVINO int8", 3))
    result = Result("net", (1, 8), 10**6, 0.0, rows)
    dispatch = {row.library: 1e-6 for row in rows}
    comparison = Comparison(result, 1, (50.0, 40.0), (1.0, None), dispatch)
    assert comparison.speedup == 1.5
    text = str(comparison)
    assert "QIR int8 is 1.50 times as fast as the faster peer" in text
    # 2e6 operations in 2 ms are 1 GOPS, of a peak of 50.
    (line,) = (line for line in text.splitlines() if line.split()[:3] == ["QIR", "int8", "1.0"])
    assert line.split()[2:] == ["1.0", "1.0", "2%"]


def test_processors_are_given_back():
    before = os.sched_getaffinity(0)
    with processors({min(before)}):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("digit", f"no model digit: expected one of {', '.join(MODELS)}"),
        ("--rounds 0", "--rounds: expected at least 1, got 0"),
    ],
)
def test_wrong_words(line, message, capsys):
    with pytest.raises(SystemExit):
        main(line.split())
    assert capsys.readouterr().err.endswith(f"error: {message}\n")
