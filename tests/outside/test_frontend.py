"""A frontend of one's own: a JSON list of layers, kernels (O, I, H, W), loads, quantizes, runs."""

import json

import numpy as np
import pytest

import qir
from qir import DType, TensorType
from qir.frontends import READERS
from qir.frontends.shared import ImportRule, Translation, layouts
from qir.ops import Conv, Dot, MaxPool, Relu

RULES: dict[str, ImportRule] = {
    "conv": lambda b, x, w, c: b.emit(Conv(padding="same"), x, layouts.conv_kernel(b, w), c),
    "dense": lambda b, x, w, c: b.emit(Dot(), x, b.transpose(w, (1, 0)), c),
    "flatten": lambda b, x: b.reshape(x, (x.type.shape[0], x.type.size // x.type.shape[0])),
    "pool": lambda b, x, size: b.emit(MaxPool((size, size), (size, size)), x),
    "relu": lambda b, x: b.emit(Relu(), x),
}


def read_layers(path):
    model = json.loads(path.read_text())
    reading = Translation("read_layers", "layers", RULES, path.stem)
    reading.input("x", TensorType(tuple(model["input"]), DType.F32))
    last = "x"
    for index, layer in enumerate(model["layers"]):
        weights = {f"{index}.{key}": layer[key] for key in ("weight", "bias") if key in layer}
        for name, numbers in weights.items():
            reading.constant(name, np.array(numbers, np.float32))
        options = {"size": layer["size"]} if "size" in layer else {}
        reading.node(layer["kind"], [last, *weights], [f"{index}.{layer['kind']}"], options)
        last = f"{index}.{layer['kind']}"
    return reading.finish([last])


def write_model(path):
    normal, kinds = np.random.default_rng(0).standard_normal, ["relu", "pool", "flatten"]
    conv = {"kind": "conv", "weight": normal((8, 3, 3, 3)).tolist(), "bias": [0.5] * 8}
    dense = {"kind": "dense", "weight": normal((5, 128)).tolist(), "bias": [0.0] * 5}
    layers = [conv, *({"kind": kind} for kind in kinds), dense]
    layers[2]["size"] = 2
    path.write_text(json.dumps({"input": [4, 8, 8, 3], "layers": layers}))


@pytest.fixture(autouse=True)
def reader():
    READERS.add("layers", read_layers, suffix=".layers")
    yield
    READERS.remove("layers")


def test_it_loads_quantizes_and_runs(tmp_path):
    write_model(tmp_path / "m.layers")
    graph = qir.load(tmp_path / "m.layers")
    x = np.random.default_rng(1).standard_normal((4, 8, 8, 3)).astype(np.float32)
    integer = qir.quantize(graph, [x])
    assert qir.explain(integer).floats == ()
    assert np.array_equal(qir.compile(integer)(x)[0], qir.evaluate(integer, x)[0])
