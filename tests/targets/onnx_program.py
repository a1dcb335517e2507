"""Integer programs as ONNX models, each op as target onnx says, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from qir.ir import Graph, Node, Value
from qir.ops.cast import Requantize
from qir.types import Affine, Array, TensorType

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
helper = onnx.helper


class Program:
    """An ONNX model that is written node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns the name of its result, or of its results."""
        names = [f"n{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def const(self, array: Any, dtype: Any = None) -> str:
        """Adds a constant and returns its name."""
        self.arrays.append(
            onnx.numpy_helper.from_array(np.array(array, dtype), f"c{len(self.arrays)}")
        )
        return str(self.arrays[-1].name)

    def cast(self, x: str, dtype: Any) -> str:
        """Casts to a numpy type."""
        return str(self.op("Cast", x, to=kind_of(dtype)))

    def steps(self, x: str, type: TensorType) -> str:
        """Returns the steps of stored numbers in i32."""
        point = type.affine.zero_points.astype(np.int32)
        return str(self.op("Sub", self.cast(x, np.int32), self.const(point)))

    def rounded(self, total: str, factor: Array, to: Affine, low: int, high: int) -> str:
        """Rounds an i32 sum by one float32 product, ties to even."""
        product = self.op("Mul", self.cast(total, np.float32), self.const(factor, np.float32))
        shifted = self.op("Add", self.op("Round", product), self.const(to.zero_points, np.float32))
        clipped = self.op("Clip", shifted, self.const(low, "f"), self.const(high, "f"))
        return self.cast(clipped, to.storage.numpy)


def kind_of(dtype: Any) -> Any:
    """The number by which ONNX knows a numpy type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _is_plain(node: Node) -> bool:
    return all(value.type.quant is None for value in node.inputs)


def _quantize(p: Program, node: Node, x: str) -> str:
    to = node.output.type.affine
    scale, point = p.const(to.scale.array), p.const(to.zero_points, to.storage.numpy)
    return str(p.op("QuantizeLinear", x, scale, point))


def _dequantize(p: Program, node: Node, x: str) -> str:
    code = node.inputs[0].type.affine
    wide = p.cast(p.steps(x, node.inputs[0].type), np.float32)
    return str(p.op("Mul", wide, p.const(code.decoding_scale, np.float32)))


def _requantize(p: Program, node: Node, x: str) -> str:
    op = node.op
    assert isinstance(op, Requantize)
    low, high = op.clamp or op.to.range
    factors = op.factors(node.inputs[0].type).value
    return p.rounded(p.steps(x, node.inputs[0].type), factors, op.to, low, high)


def _conv(p: Program, node: Node, x: str, kernel: str, bias: str | None = None) -> str:
    left, right = (value.type for value in node.inputs[:2])
    op: Any = node.op
    rank = left.rank
    strides, dilation, pads = op.geometry(left.shape[1:-1], right.shape[:-2])
    first = p.op("Transpose", x, perm=(0, rank - 1, *range(1, rank - 1)))
    turned = p.op("Transpose", kernel, perm=(rank - 1, rank - 2, *range(rank - 2)))
    points = [p.const(t.affine.zero_points, t.dtype.numpy) for t in (left, right)]
    attributes = {"strides": strides, "dilations": dilation, "group": op.groups}
    attributes["pads"] = [pair[0] for pair in pads] + [pair[1] for pair in pads]
    total = p.op("ConvInteger", first, turned, *points, **attributes)
    total = p.op("Transpose", total, perm=(0, *range(2, rank), 1))
    return str(total if bias is None else p.op("Add", total, bias))


def _dot(p: Program, node: Node, x: str, y: str, bias: str | None = None) -> str:
    if _is_plain(node):
        product = p.op("MatMul", x, y)
        return str(product if bias is None else p.op("Add", product, bias))
    points = [
        p.const(value.type.affine.zero_points.reshape(()), value.type.dtype.numpy)
        for value in node.inputs[:2]
    ]
    total = p.op("MatMulInteger", x, y, *points)
    return str(total if bias is None else p.op("Add", total, bias))


def _add(p: Program, node: Node, x: str, y: str) -> str:
    op: Any = node.op
    if _is_plain(node):
        return str(p.op(op.name.capitalize(), x, y))
    (mx, my), shift = op.factors(*(value.type for value in node.inputs))
    terms = [
        p.op("Mul", p.steps(name, value.type), p.const(factor, np.int32))
        for name, value, factor in zip((x, y), node.inputs, (mx, my), strict=True)
    ]
    factor = op.shift_multiplier(shift).value
    return p.rounded(p.op("Add", *terms), factor, op.to, *op.to.range)


def _mul(p: Program, node: Node, x: str, y: str) -> str:
    if _is_plain(node):
        return str(p.op("Mul", x, y))
    terms = [p.steps(name, v.type) for name, v in zip((x, y), node.inputs, strict=True)]
    return str(p.op("Mul", *terms))


def _sum(p: Program, node: Node, x: str) -> str:
    op: Any = node.op
    axes = p.const(op.axes, np.int64)
    return str(p.op("ReduceSum", p.steps(x, node.inputs[0].type), axes, keepdims=op.keep_axes))


def _avg_pool(p: Program, node: Node, x: str) -> str:
    op: Any = node.op
    type = node.inputs[0].type
    channels, rank = type.known_shape[-1], type.rank
    strides, pads = op.geometry(type.shape[1:-1])
    first = p.op("Transpose", x, perm=(0, rank - 1, *range(1, rank - 1)))
    ones = p.const(np.ones((channels, 1, *op.window)), np.int8)
    points = [p.const(type.affine.zero_points, type.dtype.numpy), p.const(0, np.int8)]
    edges = [pair[0] for pair in pads] + [pair[1] for pair in pads]
    total = p.op("ConvInteger", first, ones, *points, strides=strides, pads=edges, group=channels)
    total = p.op("Transpose", total, perm=(0, *range(2, rank), 1))
    if op.to is None:
        return str(total)
    # Windows at the edges have fewer taps: each place has a factor of its own.
    factors = op.multipliers(type, op.counts(type.known_shape[1:-1])).value
    return p.rounded(total, factors, op.to, *op.to.range)


def _max_pool(p: Program, node: Node, x: str) -> str:
    op: Any = node.op
    rank = node.inputs[0].type.rank
    strides, pads = op.geometry(node.inputs[0].type.shape[1:-1])
    first = p.op("Transpose", x, perm=(0, rank - 1, *range(1, rank - 1)))
    edges = [pair[0] for pair in pads] + [pair[1] for pair in pads]
    found = p.op("MaxPool", first, kernel_shape=op.window, strides=strides, pads=edges)
    return str(p.op("Transpose", found, perm=(0, *range(2, rank), 1)))


def _lookup(p: Program, node: Node, x: str, table: str) -> str:
    # Entries are in the order of bit patterns; an index below 0 counts from the end.
    return str(p.op("Gather", table, p.cast(x, np.int32)))


def _clip(p: Program, node: Node, x: str) -> str:
    op: Any = node.op
    if _is_plain(node):
        return str(p.op("Relu", x))
    code = node.output.type.affine
    reals = (op.low, op.high) if node.op.name == "clip" else (0.0, np.inf)
    low, high = (int(code.encode(np.array(real, np.float32))) for real in reals)
    dtype = code.storage.numpy
    return str(p.op("Clip", x, p.const(low, dtype), p.const(high, dtype)))


def _pad(p: Program, node: Node, x: str, *_: str) -> str:
    op: Any = node.op
    code = node.output.type.affine
    edges = p.const([*op.low, *op.high], np.int64)
    filled = code.encode(np.array(op.value, np.float32))
    return str(p.op("Pad", x, edges, p.const(filled, code.storage.numpy)))


def _embedding(p: Program, node: Node, table: str, ids: str) -> str:
    op: Any = node.op
    code = node.inputs[0].type.affine
    rows = p.cast(p.op("Gather", table, ids), np.float32)
    scales = p.const(np.broadcast_to(op.scales(code), (node.inputs[0].type.known_shape[0], 1)))
    return str(p.op("Mul", rows, p.op("Gather", scales, ids)))


def _norm(p: Program, node: Node, x: str, gamma: str, beta: str) -> str:
    op: Any = node.op
    return str(p.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=op.epsilon))


def _compared(kind: str) -> Callable[..., str]:
    """Integers that only a comparison tells apart are compared in i32."""

    def write(p: Program, node: Node, x: str, y: str) -> str:
        found = p.op(kind, p.cast(x, np.int32), p.cast(y, np.int32))
        return str(found if node.output.type.quant is None else p.cast(found, np.int8))

    return write


def _reduced(kind: str) -> Callable[..., str]:
    def write(p: Program, node: Node, x: str) -> str:
        op: Any = node.op
        return str(p.op(kind, x, p.const(op.axes, np.int64), keepdims=op.keep_axes))

    return write


def _reshape(p: Program, node: Node, x: str) -> str:
    return str(p.op("Reshape", x, p.const(node.output.type.shape, np.int64)))


WRITERS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "avg_pool": _avg_pool,
    "broadcast": lambda p, n, x: p.op("Expand", x, p.const(n.output.type.shape, np.int64)),
    "clip": _clip,
    "concat": lambda p, n, *xs: p.op("Concat", *xs, axis=n.op.axis),
    "conv": _conv,
    "dequantize": _dequantize,
    "dot": _dot,
    "embedding": _embedding,
    "equal": _compared("Equal"),
    "gather": lambda p, n, x, i: p.op("Gather", x, i, axis=n.op.axis),
    "greater": _compared("Greater"),
    "greater_equal": _compared("GreaterOrEqual"),
    "layer_norm": _norm,
    "less": _compared("Less"),
    "less_equal": _compared("LessOrEqual"),
    "lookup": _lookup,
    "max_pool": _max_pool,
    "maximum": _compared("Max"),
    "mean": _sum,
    "minimum": _compared("Min"),
    "mul": _mul,
    "pad": _pad,
    "quantize": _quantize,
    "reduce_max": _reduced("ReduceMax"),
    "reduce_min": _reduced("ReduceMin"),
    "reduce_sum": _sum,
    "relu": _clip,
    "requantize": _requantize,
    "reshape": _reshape,
    "select": lambda p, n, mask, x, y: p.op("Where", mask, x, y),
    "softmax": lambda p, n, x: p.op("Softmax", x, axis=n.op.axis),
    "split": lambda p, n, x: p.op(
        "Split", x, p.const(n.op.sizes, np.int64), outputs=len(n.outputs), axis=n.op.axis
    ),
    "sub": _add,
    "tile": lambda p, n, x: p.op("Tile", x, p.const(n.op.repeats, np.int64)),
    "transpose": lambda p, n, x: p.op("Transpose", x, perm=n.op.permutation),
}
"""What each op is written as, by its name."""


def run(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """Returns the outputs of a program by ONNX Runtime."""
    p = Program()
    names: dict[Value, str] = {value: f"x{index}" for index, value in enumerate(graph.inputs)}
    for node in graph.nodes:
        operands = [names[value] for value in node.inputs]
        if node.op.name == "const":
            names[node.output] = p.const(node.output.array)
        elif node.op.name == "return":
            break
        else:
            found = WRITERS[node.op.name](p, node, *operands)
            written = [found] if isinstance(found, str) else found
            names |= dict(zip(node.outputs, written, strict=True))
    ports = [
        helper.make_tensor_value_info(names[value], kind_of(array.dtype), array.shape)
        for value, array in zip(graph.inputs, inputs, strict=True)
    ]
    results = [
        helper.make_tensor_value_info(names[value], kind_of(value.type.dtype.numpy), None)
        for value in graph.outputs
    ]
    model = helper.make_model(
        helper.make_graph(p.nodes, "program", ports, results, p.arrays),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    # Kernels for CPUs without VNNI saturate pairs of 16 bits unless they are told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {f"x{index}": array for index, array in enumerate(inputs)}))
