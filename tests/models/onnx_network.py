"""An ONNX file as a function of JAX: the operators of EfficientNet-lite0, a fixed batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def read(path: Path) -> Callable[[jax.Array], jax.Array]:
    """Reads a network of one input and one output.

    What the file computes of shapes and constants is computed by numpy when the function is traced,
    so that the traced function holds the network alone.

    Raises:
        KeyError: The file has an operator that is not in `OPERATORS`.
    """
    onnx: Any = pytest.importorskip("onnx")
    graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    steps = []
    for node in graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant":
            arrays[node.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
        else:
            if node.op_type == "ConstantOfShape":
                attributes["value"] = onnx.numpy_helper.to_array(attributes["value"])
            operator = OPERATORS[node.op_type]
            steps.append((operator, attributes, tuple(node.input), node.output[0]))
    ((start,), (end,)) = ([value.name for value in side] for side in (graph.input, graph.output))

    def function(x: jax.Array) -> jax.Array:
        values: dict[str, Any] = {**arrays, start: x}
        for operator, attributes, names, result in steps:
            operands = [values[name] if name else None for name in names]
            values[result] = operator(attributes, *operands)
        output: jax.Array = values[end]
        return output

    return function


def _conv(attributes: Mapping[str, Any], x: Any, kernel: Any, bias: Any) -> Any:
    pads = attributes["pads"]
    half = len(pads) // 2
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        attributes["strides"],
        list(zip(pads[:half], pads[half:], strict=True)),
        rhs_dilation=attributes["dilations"],
        feature_group_count=attributes["group"],
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )
    return y + bias[:, None, None]


def _gemm(attributes: Mapping[str, Any], a: Any, b: Any, c: Any) -> Any:
    assert attributes["alpha"] == attributes["beta"] == 1
    return a @ (b.T if attributes.get("transB") else b) + c


def _pad(attributes: Mapping[str, Any], x: Any, pads: Any, value: Any = None) -> Any:
    assert attributes["mode"] == b"constant"
    half = len(pads) // 2
    sides = [(int(low), int(high)) for low, high in zip(pads[:half], pads[half:], strict=True)]
    return jnp.pad(x, sides, constant_values=0.0 if value is None else float(value))


def _slice(_: Mapping[str, Any], x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    places = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        limit = None if step < 0 and end < -x.shape[axis] else int(end)
        places[axis] = slice(int(start), limit, int(step))
    return x[tuple(places)]


def _reshape(_: Mapping[str, Any], x: Any, shape: Any) -> Any:
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(map(int, shape))])


def _concat(attributes: Mapping[str, Any], *parts: Any) -> Any:
    constant = all(isinstance(part, np.ndarray) for part in parts)
    join: Any = np.concatenate if constant else jnp.concatenate
    return join(parts, attributes["axis"])


def _sizes(_: Mapping[str, Any], x: Any) -> Any:
    return np.asarray(x.shape, np.int64)


def _filled(attributes: Mapping[str, Any], shape: Any) -> Any:
    return np.full(tuple(map(int, shape)), attributes["value"][0])


def _cast(attributes: Mapping[str, Any], x: Any) -> Any:
    assert attributes["to"] == 7  # int64, of what is a shape
    return np.asarray(x, np.int64)


def _permuted(attributes: Mapping[str, Any], x: Any) -> Any:
    return x.transpose(attributes["perm"])


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: a + b,
    "Cast": _cast,
    "Clip": lambda _, x, low, high: jnp.clip(x, low, high),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "Gather": lambda attributes, x, places: np.take(x, places, attributes["axis"]),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdims=True),
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _sizes,
    "Slice": _slice,
    "Transpose": _permuted,
    "Unsqueeze": lambda _, x, axes: np.expand_dims(x, tuple(map(int, axes))),
}
