"""A frontend of a format made up for tests, a list of layers, built on `frontends/shared` alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qir.frontends.shared import REFUSED, Emitter, Known, Operand, Refusals, expect_type
from qir.ir import Graph
from qir.ops import Add, Conv, Dot, Mul, Relu
from qir.types import Array, DType, TensorType


def conv(b: Emitter, x: Operand, kernel: Operand, bias: Operand) -> Operand:
    """The format's kernels are (O, H, W, I)."""
    return b.emit(Conv(padding="same"), x, b.transpose(kernel, (1, 2, 3, 0)), bias)


def dense(b: Emitter, x: Operand, weight: Operand) -> Operand:
    """Rows of a batch by a matrix (O, I)."""
    columns = b.reshape(x, (x.type.shape[0], weight.type.shape[1]))
    return b.emit(Dot(), columns, b.transpose(weight, (1, 0)))


RULES: Mapping[str, Callable[..., Operand]] = {
    "add": lambda b, x, y: b.compute(Add(), x, y),
    "conv": conv,
    "dense": dense,
    "mul": lambda b, x, y: b.compute(Mul(), x, y),
    "relu": lambda b, x: b.compute(Relu(), x),
}


def from_layers(
    layers: Sequence[Mapping[str, Any]], weights: Mapping[str, Array], **inputs: tuple[int, ...]
) -> Graph:
    """Imports layers of the form {kind, name, inputs, shape}; the last one is the result."""
    b = Emitter(Graph("layers"))
    refusals = Refusals("from_layers", "layers")
    found: dict[str, Any] = {name: Known.of(array, name=name) for name, array in weights.items()}
    found |= {name: b.input(name, TensorType(shape, DType.F32)) for name, shape in inputs.items()}
    for layer in layers:
        b.loc = layer["name"]
        operands = [found[name] for name in layer["inputs"]]

        def write(layer: Mapping[str, Any] = layer, operands: Sequence[Any] = operands) -> Any:
            if layer["kind"] not in RULES:
                refusals.without_rule(layer["kind"], layer["name"])
            if layer["kind"] not in RULES or REFUSED in operands:
                return [REFUSED]
            result = RULES[layer["kind"]](b, *operands)
            expect_type(result, TensorType(layer["shape"], DType.F32), layer["kind"])
            return [b.name(result, layer["name"])]

        (found[layer["name"]],) = refusals.attempt(layer["name"], 1, write)
    refusals.check()
    b.graph.set_outputs([b.value(found[layers[-1]["name"]])])
    b.graph.record_origins()
    return b.graph


def small() -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Layers and weights of a model of `image` (2, 4, 4, 3), with names that hold `/` and `::`."""
    draw = np.random.default_rng(0).standard_normal
    weights = {
        "block/conv::kernel": draw((8, 3, 3, 3)).astype(np.float32),
        "block/conv::bias": draw(8).astype(np.float32),
        "head::weight": draw((5, 128)).astype(np.float32),
        "head::scale": np.float32(0.5).reshape(1, 1),
    }
    layers: list[dict[str, Any]] = []

    def add(kind: str, name: str, inputs: list[str], shape: tuple[int, ...]) -> None:
        layers.append({"kind": kind, "name": name, "inputs": inputs, "shape": shape})

    kernel, bias, weight, scale = weights
    add("conv", "block/conv::0", ["image", kernel, bias], (2, 4, 4, 8))
    add("relu", "block/act::0", ["block/conv::0"], (2, 4, 4, 8))
    add("mul", "head::scaled", [weight, scale], (5, 128))
    add("dense", "head::0", ["block/act::0", "head::scaled"], (2, 5))
    return layers, weights
