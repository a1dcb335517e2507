"""A writer of one's own: the JSON of layers of test_frontend, back from a graph."""

import json

import numpy as np
import pytest

import qir
from qir import Value
from qir.backends import WRITERS
from qir.ops import Conv, Dot, MaxPool, Relu, Reshape
from tests.outside.test_frontend import read_layers, write_model


def layer_of(node):
    match node.output:
        case Value(Conv(), (_, kernel, bias)):
            weight = kernel.array.transpose(3, 2, 0, 1)
            return {"kind": "conv", "weight": weight.tolist(), "bias": bias.array.tolist()}
        case Value(Dot(), (_, kernel, bias)) if kernel.is_constant:
            return {"kind": "dense", "weight": kernel.array.T.tolist(), "bias": bias.array.tolist()}
        case Value(MaxPool(window=(size, _))):
            return {"kind": "pool", "size": size}
        case Value(Reshape()):
            return {"kind": "flatten"}
        case Value(Relu()):
            return {"kind": "relu"}
        case _:
            raise qir.QirError(f"layers: expected an op that is a layer, got {node.op.name}")


class LayersFile:
    companions = ()

    def files(self, graph, path):
        nodes = [node for node in graph.nodes if node.op.name not in ("const", "return")]
        model = {"input": graph.inputs[0].type.shape, "layers": [*map(layer_of, nodes)]}
        return {path: lambda file: file.write(json.dumps(model).encode())}


@pytest.fixture
def graph(tmp_path):
    WRITERS.add("layers", LayersFile(), suffix=".layers")
    write_model(tmp_path / "model.layers")
    yield read_layers(tmp_path / "model.layers")
    WRITERS.remove("layers")


def test_what_is_written_reads_back(graph, tmp_path):
    qir.save(graph, tmp_path / "again.layers")
    again = read_layers(tmp_path / "again.layers")
    x = np.random.default_rng(1).standard_normal((4, 8, 8, 3)).astype(np.float32)
    assert np.array_equal(qir.evaluate(again, x)[0], qir.evaluate(graph, x)[0])


def test_what_the_format_lacks_is_refused_and_nothing_is_written(graph, tmp_path):
    integer = qir.quantize(graph, [np.ones((4, 8, 8, 3))], accuracy_check=False)
    with pytest.raises(qir.QirError, match="layers: expected an op that is a layer, got quantize"):
        qir.save(integer, tmp_path / "integer.layers")
    assert not (tmp_path / "integer.layers").exists()
