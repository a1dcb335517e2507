"""MiniLM as the ONNX model that an exporter makes of it: norms whole, gelu by its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qir.types import Array
from tests.benchmarks.peers.onnx_export import IR_VERSION, OPSET
from tests.benchmarks.peers.packages import load
from tests.models.minilm import HEADS, LAYERS


def export_minilm(weights: Mapping[str, Array], batch: int, tokens: int) -> Any:
    """Writes the encoder with inputs `ids` and `mask`, int64[batch, tokens].

    Args:
        weights: Those of `tests.models.minilm.load`.
        batch: Number of sentences.
        tokens: Their length.

    Returns:
        An `onnx.ModelProto`; its output is float32[batch, 384].

    Raises:
        QirError: The package onnx is not installed.
    """
    return _Writer(weights, batch, tokens).model()


class _Writer:
    """Collects the nodes and constants of the model; its methods return names of results."""

    def __init__(self, weights: Mapping[str, Array], batch: int, tokens: int) -> None:
        self.onnx = load("onnx")
        self.helper = load("onnx.helper")
        self.weights, self.batch, self.tokens = weights, batch, tokens
        self.width = len(weights["embeddings.LayerNorm.weight"])
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def model(self) -> Any:
        x = self._embedded()
        hidden = self.op("Sub", self.constant(1.0), self.op("Cast", self._seen([1, 2]), to=1))
        bias = self.op("Mul", hidden, self.constant(float(np.finfo(np.float32).min)))
        for index in range(LAYERS):
            layer = f"encoder.layer.{index}"
            y = self._attention(f"{layer}.attention", x, bias)
            x = self.norm(f"{layer}.attention.output.LayerNorm", self.op("Add", x, y))
            y = self.dense(
                f"{layer}.output.dense", self._gelu(self.dense(f"{layer}.intermediate.dense", x))
            )
            x = self.norm(f"{layer}.output.LayerNorm", self.op("Add", x, y))
        self._pooled(x)
        kind, make = self.onnx.TensorProto, self.helper.make_tensor_value_info
        graph = self.helper.make_graph(
            self.nodes,
            "minilm",
            [make(name, kind.INT64, [self.batch, self.tokens]) for name in ("ids", "mask")],
            [make("embedding", kind.FLOAT, [self.batch, self.width])],
            list(self.constants.values()),
        )
        opsets = [self.helper.make_opsetid("", OPSET)]
        model = self.helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)
        self.onnx.checker.check_model(model)
        return model

    def op(self, kind: str, *operands: str, result: str = "", **attributes: Any) -> str:
        name = result or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, operands, [name], name, **attributes))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = name or f"constant_{len(self.constants)}"
        if name not in self.constants:
            array = np.ascontiguousarray(array)
            self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def dense(self, name: str, x: str) -> str:
        kernel = self.constant(self.weights[f"{name}.weight"].T, f"{name}.kernel")
        bias = self.constant(self.weights[f"{name}.bias"], f"{name}.bias")
        return self.op("Add", self.op("MatMul", x, kernel), bias)

    def norm(self, name: str, x: str) -> str:
        parts = (self.constant(self.weights[f"{name}.{part}"], f"{name}.{part}") for part in SCALE)
        return self.op("LayerNormalization", x, *parts, axis=-1, epsilon=1e-12)

    def _seen(self, axes: list[int]) -> str:
        return self.op("Unsqueeze", "mask", self.constant(np.array(axes)))

    def _embedded(self) -> str:
        table = self.constant(self.weights["embeddings.word_embeddings.weight"], "words")
        places = self.weights["embeddings.position_embeddings.weight"][: self.tokens]
        kind = self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.op("Add", self.op("Gather", table, "ids"), self.constant(places + kind))
        return self.norm("embeddings.LayerNorm", x)

    def _attention(self, name: str, x: str, bias: str) -> str:
        split = self.constant(np.array([self.batch, self.tokens, HEADS, self.width // HEADS]))
        whole = self.constant(np.array([self.batch, self.tokens, self.width]))

        def heads(part: str, permutation: list[int]) -> str:
            y = self.op("Reshape", self.dense(f"{name}.self.{part}", x), split)
            return self.op("Transpose", y, perm=permutation)

        scores = self.op("MatMul", heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]))
        scores = self.op("Div", scores, self.constant((self.width / HEADS) ** 0.5))
        chances = self.op("Softmax", self.op("Add", scores, bias), axis=-1)
        context = self.op("MatMul", chances, heads("value", [0, 2, 1, 3]))
        context = self.op("Reshape", self.op("Transpose", context, perm=[0, 2, 1, 3]), whole)
        return self.dense(f"{name}.output.dense", context)

    def _gelu(self, x: str) -> str:
        error = self.op("Erf", self.op("Div", x, self.constant(2.0**0.5)))
        y = self.op("Mul", x, self.op("Add", error, self.constant(1.0)))
        return self.op("Mul", y, self.constant(0.5))

    def _pooled(self, x: str) -> None:
        kept = self.op("Cast", self._seen([2]), to=1)
        axis = self.constant(np.array([1]))
        total = self.op("ReduceSum", self.op("Mul", x, kept), axis, keepdims=0)
        count = self.op("ReduceSum", kept, axis, keepdims=0)
        mean = self.op("Div", total, self.op("Clip", count, self.constant(1e-9)))
        length = self.op("ReduceL2", mean, axes=[1], keepdims=1)
        length = self.op("Clip", length, self.constant(1e-12))
        self.op("Div", mean, length, result="embedding")


SCALE = ("weight", "bias")
