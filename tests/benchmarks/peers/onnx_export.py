"""Writes a float program as the ONNX model that an exporter makes of a vision model.

What QIR keeps channels last is channels first in the model, its input too: a tensor of rank 3 or
more is (batch, channels, spatial…), a kernel (outputs, channels, spatial…). No op is added for it,
so that the runtimes read the network as they would from anybody else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Node, Value
from qir.ops import Add, Clip, Const, Conv, Dot, MaxPool, Mean, Relu, Return
from qir.ops.windows import Pads
from qir.types import Array
from tests.benchmarks.peers.packages import load

OPSET = 17
IR_VERSION = 8
"""The one that came with the opset."""


def channels_first(array: Array) -> Array:
    """Returns activations as the model takes them."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if array.ndim > 2 else array


def export(graph: Graph) -> Any:
    """Writes a float program of static shapes as an ONNX model.

    Args:
        graph: The program, with normalization folded into the convolutions.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        QirError: An op, or the way in which it is used, is none of those of the benchmark's models,
            or the package onnx is not installed.
    """
    return _Writer().model(graph)


class _Writer:
    """Collects the nodes and weights of a model."""

    def __init__(self) -> None:
        self.onnx = load("onnx")
        self.helper = load("onnx.helper")
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def model(self, graph: Graph) -> Any:
        for node in graph.nodes:
            self._write(node)
        model = self.helper.make_model(
            self.helper.make_graph(
                self.nodes,
                graph.name,
                [self._declared(value) for value in graph.inputs],
                [self._declared(value) for value in graph.outputs],
                self.weights,
            ),
            opset_imports=[self.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        self.onnx.checker.check_model(model, full_check=True)
        return model

    def _declared(self, value: Value) -> Any:
        batch, *rest = value.type.known_shape
        shape = [batch, *rest[-1:], *rest[:-1]]
        return self.helper.make_tensor_value_info(value.name, self.onnx.TensorProto.FLOAT, shape)

    def _write(self, node: Node) -> None:
        match node.op:
            case Const() | Return():
                pass
            case Conv() as conv:
                self._conv(node, conv)
            case Dot(batch=0) if node.inputs[0].type.rank == 2:
                x, kernel, *bias = node.inputs
                weights = self._weights(kernel, kernel.array.T)
                self._add(node, "Gemm", [x.name, weights, *map(self._weights, bias)], transB=1)
            case Add() if not any(value.is_constant for value in node.inputs):
                self._add(node, "Add", [value.name for value in node.inputs])
            case Relu():
                self._add(node, "Relu", [node.inputs[0].name])
            case Clip(low, high):
                bounds = {"low": low, "high": high}
                names = [
                    self._constant(f"{node.output.name}.{name}", np.asarray(bound, np.float32))
                    for name, bound in bounds.items()
                ]
                self._add(node, "Clip", [node.inputs[0].name, *names])
            case MaxPool(window) as pool:
                strides, padding = pool.geometry(node.inputs[0].type.known_shape[1:-1])
                self._add(
                    node,
                    "MaxPool",
                    [node.inputs[0].name],
                    kernel_shape=window,
                    strides=strides,
                    pads=_sides(padding),
                )
            case Mean(axes, keep_axes) if axes == tuple(range(1, node.inputs[0].type.rank - 1)):
                self._global_average(node, keep_axes)
            case other:
                raise QirError(
                    f"onnx: no translation of {other.name} as it is used {node.output.place()}"
                )

    def _conv(self, node: Node, conv: Conv) -> None:
        x, kernel, *bias = node.inputs
        window = kernel.type.known_shape[:-2]
        strides, dilation, padding = conv.geometry(x.type.known_shape[1:-1], window)
        weights = self._weights(kernel, np.moveaxis(kernel.array, (-1, -2), (0, 1)))
        self._add(
            node,
            "Conv",
            [x.name, weights, *map(self._weights, bias)],
            kernel_shape=window,
            strides=strides,
            dilations=dilation,
            pads=_sides(padding),
            group=conv.groups,
        )

    def _global_average(self, node: Node, keep_axes: bool) -> None:
        name = node.output.name
        pooled = name if keep_axes else f"{name}.pooled"
        self._append("GlobalAveragePool", [node.inputs[0].name], pooled)
        if pooled != name:
            self._append("Flatten", [pooled], name)

    def _add(self, node: Node, kind: str, operands: list[str], **attributes: Any) -> None:
        self._append(kind, operands, node.output.name, **attributes)

    def _append(self, kind: str, operands: list[str], result: str, **attributes: Any) -> None:
        self.nodes.append(self.helper.make_node(kind, operands, [result], result, **attributes))

    def _weights(self, value: Value, array: Array | None = None) -> str:
        return self._constant(value.name, value.array if array is None else array)

    def _constant(self, name: str, array: Array) -> str:
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _sides(padding: Pads) -> list[int]:
    """Returns the padding as ONNX has it: before each dimension, then after each."""
    return [side for sides in zip(*padding, strict=True) for side in sides]
