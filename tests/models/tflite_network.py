"""A float TFLite file as a function of JAX: the operators of MLPerf Tiny's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qir.types import Array

PADDINGS = ("SAME", "VALID")
"""By their numbers in the schema."""


def read(path: Path, *, softmax: bool = True) -> Callable[[jax.Array], jax.Array]:
    """Reads a network of one input and one output, of any number of rows.

    Weights that the file stores in eight bits, as files of dynamic range do, are decoded.

    Args:
        path: The file.
        softmax: Whether the function ends with the softmax that the file ends with, or before it.

    Raises:
        KeyError: The file has an operator that is not in `OPERATORS`.
    """
    schema: Any = pytest.importorskip("tflite")
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    constants = {
        index: array
        for index in range(graph.TensorsLength())
        if (array := _constant(schema, model, graph.Tensors(index))) is not None
    }
    steps = []
    for index in range(graph.OperatorsLength()):
        node = graph.Operators(index)
        code = model.OperatorCodes(node.OpcodeIndex())
        # Files from before there were more than 127 operators have the number in the first field.
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        kind, operator = OPERATORS[name]
        options = getattr(schema, kind)() if kind else None
        if options is not None:
            table = node.BuiltinOptions()
            options.Init(table.Bytes, table.Pos)
        steps.append((operator, options, node.InputsAsNumpy().tolist(), int(node.Outputs(0))))
    if not softmax:
        assert steps[-1][0] is _softmax
        steps.pop()
    start, end = int(graph.Inputs(0)), steps[-1][-1]

    def function(x: jax.Array) -> jax.Array:
        values: dict[int, Any] = {**constants, start: x}
        for operator, options, operands, result in steps:
            values[result] = operator(options, *(values.get(each) for each in operands))
        output: jax.Array = values[end]
        return output

    return function


def _constant(schema: Any, model: Any, tensor: Any) -> Array | None:
    """Returns the numbers of a tensor; None where the network computes it."""
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if not isinstance(data, np.ndarray):
        return None
    types = {
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.INT32: np.int32,
        schema.TensorType.INT8: np.int8,
    }
    stored = data.view(types[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
    if stored.dtype != np.int8:
        return np.asarray(stored)
    code = tensor.Quantization()
    shape = [1] * stored.ndim
    shape[code.QuantizedDimension()] = -1
    scales, points = (
        each.reshape(shape) for each in (code.ScaleAsNumpy(), code.ZeroPointAsNumpy())
    )
    return np.asarray((stored - points) * scales, np.float32)


def _activated(options: Any, y: Any) -> Any:
    none, relu, _, relu6 = range(4)  # ActivationFunctionType
    function = options.FusedActivationFunction()
    assert function in (none, relu, relu6)
    if function == none:
        return y
    return jax.nn.relu(y) if function == relu else jax.nn.relu6(y)


def _conv(options: Any, x: Any, kernel: Any, bias: Any, groups: int = 1) -> Any:
    """A convolution of a kernel [outputs, height, width, inputs of a group]."""
    y = jax.lax.conv_general_dilated(
        x,
        kernel.transpose(1, 2, 3, 0),
        (options.StrideH(), options.StrideW()),
        PADDINGS[options.Padding()],
        rhs_dilation=(options.DilationHFactor(), options.DilationWFactor()),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return _activated(options, y if bias is None else y + bias)


def _depthwise(options: Any, x: Any, kernel: Any, bias: Any) -> Any:
    return _conv(options, x, kernel.transpose(3, 1, 2, 0), bias, groups=x.shape[-1])


def _fully_connected(options: Any, x: Any, kernel: Any, bias: Any = None) -> Any:
    y = x.reshape(-1, kernel.shape[1]) @ kernel.T
    return _activated(options, y if bias is None else y + bias)


def _average_pool(options: Any, x: Any) -> Any:
    assert PADDINGS[options.Padding()] == "VALID"
    window = (1, options.FilterHeight(), options.FilterWidth(), 1)
    strides = (1, options.StrideH(), options.StrideW(), 1)
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, "VALID")
    return _activated(options, sums / (window[1] * window[2]))


def _reshape(_: Any, x: Any, shape: Sequence[int]) -> Any:
    return x.reshape(x.shape[0], *map(int, shape[1:]))  # the file has one row


def _softmax(options: Any, x: Any) -> Any:
    return jax.nn.softmax(options.Beta() * x)


OPERATORS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "ADD": ("AddOptions", lambda options, a, b: _activated(options, jnp.add(a, b))),
    "AVERAGE_POOL_2D": ("Pool2DOptions", _average_pool),
    "CONV_2D": ("Conv2DOptions", _conv),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _depthwise),
    "FULLY_CONNECTED": ("FullyConnectedOptions", _fully_connected),
    "RESHAPE": ("", _reshape),
    "SOFTMAX": ("SoftmaxOptions", _softmax),
}
"""For each operator the table of its options in the schema, and its meaning."""
