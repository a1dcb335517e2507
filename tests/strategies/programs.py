"""Whole integer programs: random chains of the ops of a quantized network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from qir.ir import Builder, Graph, Value
from qir.ops import (
    Add,
    AvgPool,
    Clip,
    Concat,
    Conv,
    Dot,
    Lookup,
    MaxPool,
    Mean,
    Mul,
    Relu,
    Requantize,
    Reshape,
    Softmax,
    Transpose,
)
from qir.ops.softmax import SOFTMAX_CODE, softmax_table
from qir.types import Affine, Code, Dim, DType, TensorType, known
from tests.strategies.base import BYTES, Case, Draw, codes, computed_roundings, generator, stored


class Network:
    """A program under construction, whose last value every layer extends.

    Args:
        draw: Given by hypothesis.
    """

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.rng = generator(draw)
        self.graph = Graph("network")
        self.builder: Builder = self.graph.at_end()
        sizes = (*(draw(st.integers(1, 6)) for _ in range(2)), draw(st.integers(1, 4)))
        code = draw(codes(BYTES))
        self.last = self.graph.add_input("x", TensorType((Dim.named("B"), *sizes), code))
        self.inputs = (stored(draw, code, (draw(st.integers(1, 3)), *sizes)),)
        self.values = [self.last]

    def code(self, scale: float) -> Affine:
        """Draws a code of about a scale."""
        storage = self.draw(st.sampled_from(BYTES))
        point = int(self.rng.integers(*storage.bounds, endpoint=True))
        return Affine.of(storage, scale * self.draw(st.sampled_from([0.5, 0.77, 1.0])), point)

    @property
    def scale(self) -> float:
        """Scale of the last value."""
        return float(self.last.type.code.scale.array)

    def weights(self, *shape: int) -> Value:
        """Adds weights coded per channel of their last axis."""
        axes = (1,) * (len(shape) - 1)
        code = Affine.of(DType.I8, self.rng.uniform(0.005, 0.02, (*axes, shape[-1])))
        array = self.rng.integers(-127, 128, shape).astype(np.int8)
        return self.builder.const(array, "weights", code)

    def bias(self, accumulator: Code, count: int) -> Value:
        """Adds a bias of the accumulator's code."""
        array = self.rng.integers(-(2**14), 2**14, count).astype(np.int32)
        flat = accumulator.scale.array.reshape(-1 if accumulator.scale.array.ndim else ())
        return self.builder.const(array, "bias", Affine.of(DType.I32, flat))

    def requantized(self, accumulator: Value, terms: int) -> Value:
        """Brings an accumulator back to 8 bits at a scale that most of its values fit."""
        code = accumulator.type.quant
        assert code is not None
        return self.rounded(accumulator, float(code.scale.array.max()) * 60 * np.sqrt(terms))

    def rounded(self, accumulator: Value, scale: float) -> Value:
        """Brings an accumulator back to 8 bits at about a scale."""
        to = self.code(scale)
        rounding = self.draw(computed_roundings(to, any_ratio=True))
        return self.builder.emit(Requantize(to, rounding), accumulator)


Layer = Callable[[Network], Value]


def conv(net: Network) -> Value:
    channels = known(net.last.type.shape[-1], "channels")
    window = tuple(net.draw(st.integers(1, 3)) for _ in range(2))
    groups = net.draw(st.sampled_from([1, channels]))
    outputs = groups * net.draw(st.integers(1, 3))
    kernel = net.weights(*window, channels // groups, outputs)
    op = Conv(padding="same", groups=groups, strides=net.draw(st.sampled_from([(), (2, 2)])))
    code = op.result(net.last.type, kernel.type).quant
    assert code is not None
    biases = [net.bias(code, outputs)] if net.draw(st.booleans()) else []
    acc = net.builder.emit(op, net.last, kernel, *biases)
    return net.requantized(acc, int(np.prod(window)) * channels // groups)


def max_pool(net: Network) -> Value:
    return net.builder.emit(MaxPool((2, 2), (2, 2), "same"), net.last)


def avg_pool(net: Network) -> Value:
    if net.draw(st.booleans()):
        return net.builder.emit(AvgPool((3, 2), padding="same", to=net.code(net.scale)), net.last)
    sums = net.builder.emit(AvgPool((3, 2), padding="same", count_padding=True), net.last)
    return net.rounded(sums, net.scale)


def relu(net: Network) -> Value:
    return net.builder.emit(Relu(), net.last)


def clip(net: Network) -> Value:
    return net.builder.emit(Clip(0.0, 60 * net.scale), net.last)


def other(net: Network) -> Value:
    """Returns some value of the last one's shape and of a scale near it."""
    ratios = [
        (value, float(value.type.quant.scale.array) / net.scale)
        for value in net.values
        if value.type.shape == net.last.type.shape and value.type.quant
    ]
    return net.draw(st.sampled_from([value for value, ratio in ratios if 1 / 64 < ratio < 64]))


def add(net: Network) -> Value:
    return net.builder.emit(Add(net.code(2 * net.scale)), net.last, other(net))


def mul(net: Network) -> Value:
    factor = other(net)
    assert factor.type.quant is not None
    scale = 60 * net.scale * float(factor.type.quant.scale.array)
    return net.rounded(net.builder.emit(Mul(), net.last, factor), scale)


def concat(net: Network) -> Value:
    return net.builder.emit(Concat(3), net.last, net.last)


def lookup(net: Network) -> Value:
    code = net.code(net.scale)
    table = net.builder.const(stored(net.draw, code, (256,)), "table", code)
    return net.builder.emit(Lookup(), net.last, table)


def transpose(net: Network) -> Value:
    return net.builder.emit(Transpose((0, 2, 1, 3)), net.last)


def reshape(net: Network) -> Value:
    batch, height, width, channels = net.last.type.shape
    return net.builder.emit(Reshape((batch, width, height, channels)), net.last)


def softmax(net: Network) -> Value:
    count = known(net.last.type.shape[3], "channels")
    table = net.builder.const(softmax_table(net.scale, count), "exponentials")
    return net.builder.emit(Softmax(3, to=SOFTMAX_CODE), net.last, table)


LAYERS: list[Layer] = [
    conv, conv, relu, max_pool, avg_pool, clip, add, mul,
    concat, lookup, transpose, reshape, softmax,
]  # fmt: skip


@st.composite
def integer_programs(draw: Draw) -> Case:
    """Draws a network without a float op: layers, a mean over space, a dot."""
    net = Network(draw)
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=2, max_size=6)):
        net.last = layer(net)
        net.values.append(net.last)
    pooled = net.rounded(net.builder.emit(Mean((1, 2)), net.last), net.scale)
    channels = known(pooled.type.shape[1], "channels")
    acc = net.builder.emit(Dot(), pooled, net.weights(channels, 4))
    outputs = [net.requantized(acc, channels), draw(st.sampled_from(net.values[1:])), acc]
    net.graph.set_outputs(outputs)
    return Case(net.graph, net.inputs)
