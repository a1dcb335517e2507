"""Whole float programs: random networks of what float passes rewrite, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from qir.ir import Graph, Value
from qir.ops import (
    Add,
    AvgPool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Div,
    Dot,
    Gelu,
    LeakyRelu,
    Maximum,
    MaxPool,
    Mean,
    Minimum,
    Mul,
    Neg,
    Pad,
    Relu,
    Reshape,
    ResizeNearest,
    Reverse,
    Slice,
    Softmax,
    Sub,
    Tanh,
    Transpose,
)
from qir.ops.op import Op
from qir.ops.windows import Padding
from qir.types import Array, DType, TensorType
from tests.strategies.base import Case, Draw, generator

SIZES = (2, 4, 4, 3)
PADDINGS: list[Padding] = ["same", "valid"]


class FloatNetwork:
    """A program under construction. All arrays are float64, so that folding rounds hardly at all.

    Args:
        draw: Given by hypothesis.
    """

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.rng = generator(draw)
        self.graph = Graph("network")
        self.builder = self.graph.at_end()
        shape = SIZES[: draw(st.sampled_from([4, 3, 2]))]
        self.last = self.graph.add_input("x", TensorType(shape, DType.F64))
        self.inputs: tuple[Array, ...] = (self.rng.normal(0, 2, shape),)
        self.values = [self.last]

    def emit(self, op: Op, *operands: Value) -> Value:
        """Adds an op."""
        return self.builder.emit(op, *operands)

    def const(self, array: ArrayLike) -> Value:
        """Adds a constant, or takes an earlier one of the shape."""
        data = np.asarray(array, np.float64)
        same = [value for value in self.values if value.is_constant]
        same = [value for value in same if value.type.known_shape == data.shape]
        if same and self.draw(st.integers(0, 3)) == 0:
            return self.draw(st.sampled_from(same))
        value = self.builder.const(data, "k")
        self.values.append(value)
        return value

    def numbers(self, *shape: int) -> Array:
        """Draws numbers of moderate size, negative ones among them where the program may."""
        magnitude = np.exp2(self.rng.uniform(-2, 2, shape))
        negative = self.draw(st.sampled_from([0.0, 0.0, 0.5, 1.0]))
        return np.where(self.rng.random(shape) < negative, -magnitude, magnitude)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the last value."""
        return self.last.type.known_shape

    @property
    def spatial(self) -> int:
        """Number of spatial dimensions of the last value."""
        return len(self.shape) - 2

    def factors(self) -> Value:
        """Adds a constant that broadcasts against the last value, most often one for channels."""
        kind = self.draw(
            st.sampled_from(["channel", "channel", "scalar", "axis", "full", "neutral"])
        )
        rank, sizes = len(self.shape), self.shape
        if kind == "scalar":
            return self.const(self.numbers())
        if kind == "neutral":
            return self.const(self.draw(st.sampled_from([0.0, 1.0])))
        if kind == "full":
            return self.const(self.numbers(*sizes))
        if kind == "wide" and rank < 4:
            return self.const(self.numbers(2, *(1,) * rank))
        axis = rank - 1 if kind == "channel" else self.draw(st.integers(0, rank - 1))
        return self.const(self.numbers(sizes[axis], *(1,) * (rank - 1 - axis)))


Layer = Callable[[FloatNetwork], Value | None]


def affine(net: FloatNetwork) -> Value:
    op = net.draw(st.sampled_from([Add(), Sub(), Mul(), Mul(), Div()]))
    constant = net.factors()
    if isinstance(op, Div) and not np.all(constant.array):
        op = Mul()
    if net.draw(st.integers(0, 5)) == 0:
        constant = net.emit(Tanh(), constant)
    operands = [net.last, constant]
    if not isinstance(op, Div) and net.draw(st.integers(0, 3)) == 0:
        operands.reverse()
    return net.emit(op, *operands)


def batch_norm(net: FloatNetwork) -> Value:
    channels = net.shape[-1]
    statistics = [net.const(net.numbers(channels)) for _ in range(3)]
    variance = net.const(np.abs(net.numbers(channels)))
    if np.any(variance.array < 0):
        variance = net.builder.const(np.abs(variance.array), "variance")
    return net.emit(BatchNorm(1e-3), net.last, *statistics, variance)


def biased(net: FloatNetwork, op: Op, kernel: Value) -> Value:
    bias = [net.const(net.numbers(kernel.type.known_shape[-1]))] if net.draw(st.booleans()) else []
    return net.emit(op, net.last, kernel, *bias)


def conv(net: FloatNetwork) -> Value | None:
    if not 1 <= net.spatial <= 3:
        return None
    channels, spatial = net.shape[-1], net.spatial
    window = tuple(net.draw(st.integers(1, 2)) for _ in range(spatial))
    groups = net.draw(st.sampled_from([1, 1, channels]))
    kernel = net.const(
        net.numbers(*window, channels // groups, groups * net.draw(st.integers(1, 2)))
    )
    padding: Padding = net.draw(st.sampled_from(["valid", "same", ((1, 0),) * spatial]))
    if padding == "valid" and any(a > b for a, b in zip(window, net.shape[1:-1], strict=True)):
        padding = "same"
    if net.draw(st.integers(0, 3)) == 0:
        return biased(net, ConvTranspose((2,) * spatial, groups=groups), kernel)
    strides = net.draw(st.sampled_from([(), (2,) * spatial]))
    return biased(net, Conv(strides, padding, groups=groups), kernel)


def dot(net: FloatNetwork) -> Value:
    kernel = net.const(net.numbers(net.shape[-1], net.draw(st.integers(1, 3))))
    return biased(net, Dot(), kernel)


def attention(net: FloatNetwork) -> Value | None:
    if len(net.shape) < 3:
        return None
    rank = len(net.shape)
    turned = Transpose((*range(rank - 2), rank - 1, rank - 2))
    keys = net.emit(turned, net.last)
    return net.emit(Dot(batch=rank - 2), net.last, keys)


def weights_first(net: FloatNetwork) -> Value | None:
    """Multiplies constants by the last value."""
    if len(net.shape) < 2:
        return None
    *batch, terms, _ = net.shape
    rows = [2] * net.draw(st.integers(0 if batch else 1, 2))
    return net.emit(Dot(batch=len(batch)), net.const(net.numbers(*batch, *rows, terms)), net.last)


def unary(net: FloatNetwork) -> Value:
    low = net.draw(st.sampled_from([-np.inf, -1.0, 0.0, 0.5]))
    high = net.draw(st.sampled_from([np.inf, 6.0, 0.5]))
    ops = [Relu(), Relu(), LeakyRelu(0.1), Clip(low, high), Neg(), Neg(), Gelu(), Tanh()]
    return net.emit(net.draw(st.sampled_from(ops)), net.last)


def extremum(net: FloatNetwork) -> Value:
    return net.emit(net.draw(st.sampled_from([Maximum(), Minimum()])), net.last, net.factors())


def pool(net: FloatNetwork) -> Value | None:
    if not 1 <= net.spatial <= 3:
        return None
    window = (net.draw(st.sampled_from([2, 2, 1])),) * net.spatial
    strides = net.draw(st.sampled_from([(), (2,) * net.spatial]))
    padding: Padding = "same" if 1 in net.shape[1:-1] else net.draw(st.sampled_from(PADDINGS))
    counted = net.draw(st.booleans())
    ops = [MaxPool(window, strides, padding), AvgPool(window, strides, padding, counted)]
    return net.emit(net.draw(st.sampled_from(ops)), net.last)


def mean(net: FloatNetwork) -> Value | None:
    rank = len(net.shape)
    if rank < 3:
        return None
    axes = net.draw(st.lists(st.integers(1, rank - 1), min_size=1, max_size=rank - 2, unique=True))
    return net.emit(Mean(tuple(sorted(axes)), net.draw(st.booleans())), net.last)


def reshape(net: FloatNetwork) -> Value:
    sizes = list(net.shape)
    if net.draw(st.booleans()):
        start = net.draw(st.integers(0, len(sizes) - 2))
        sizes[start : start + 2] = [sizes[start] * sizes[start + 1]]
    if len(sizes) < 4 and sizes[-1] % 2 == 0:
        sizes[-1:] = [sizes[-1] // 2, 2]
    if len(sizes) < 2:
        sizes.insert(0, 1)
    return net.emit(Reshape(tuple(sizes)), net.last)


def transpose(net: FloatNetwork) -> Value:
    return net.emit(Transpose(tuple(net.draw(st.permutations(range(len(net.shape)))))), net.last)


def move(net: FloatNetwork) -> Value:
    axis = net.draw(st.integers(0, len(net.shape) - 1))
    low = tuple(int(place == axis) for place in range(len(net.shape)))
    start = net.draw(st.integers(0, max(net.shape[axis] - 2, 0)))
    ops: list[Op] = [
        Reverse((axis,)),
        Slice((axis,), (start,), (net.shape[axis],)),
        Pad(low, (0,) * len(low), net.draw(st.sampled_from([0.0, 0.0, 1.5]))),
    ]
    if 1 <= net.spatial <= 3:
        ops.append(ResizeNearest(tuple(max(size, 2) for size in net.shape[1:-1])))
    return net.emit(net.draw(st.sampled_from(ops)), net.last)


def other(net: FloatNetwork) -> Value:
    """Returns a value or constant of the last one's shape."""
    same = [value for value in net.values if value.type == net.last.type]
    return net.draw(st.sampled_from([*same, net.last]))


def combine(net: FloatNetwork) -> Value:
    return net.emit(net.draw(st.sampled_from([Add(), Sub(), Mul()])), net.last, other(net))


def concat(net: FloatNetwork) -> Value:
    axis = len(net.shape) - 1
    if net.draw(st.integers(0, 3)) == 0:
        axis = net.draw(st.integers(0, axis))
    return net.emit(Concat(axis), net.last, *[other(net)] * net.draw(st.integers(0, 2)))


def both(net: FloatNetwork) -> Value:
    """Scales two branches by one constant and joins them."""
    constant, second = net.factors(), other(net)
    branches = [net.emit(Mul(), value, constant) for value in (net.last, second)]
    if branches[0].type != branches[1].type:
        return branches[0]
    return net.emit(net.draw(st.sampled_from([Add(), Concat(len(net.shape) - 1)])), *branches)


def softmax(net: FloatNetwork) -> Value:
    return net.emit(Softmax(len(net.shape) - 1), net.last)


def again(net: FloatNetwork) -> Value | None:
    """Computes the last value a second time."""
    node = net.last.node
    return net.emit(node.op, *node.inputs) if node else None


LAYERS: list[Layer] = [
    affine, affine, affine, batch_norm, conv, conv, dot, dot, attention, unary, unary, extremum,
    weights_first, pool, mean, mean, reshape, transpose, move,
    combine, concat, concat, both, softmax, again,
]  # fmt: skip

LARGEST = 4096
"""Numbers in a value: larger ones are left out, so that a program runs in milliseconds."""


def activation(net: FloatNetwork) -> Value:
    bounds = net.draw(st.sampled_from([(0.0, 6.0), (-1.0, 0.5), (0.5, np.inf), (-np.inf, -0.5)]))
    ops = [Relu(), LeakyRelu(0.1), Clip(*bounds), Neg()]
    return net.emit(net.draw(st.sampled_from(ops)), net.last)


def weights(net: FloatNetwork) -> Value | None:
    return net.draw(st.sampled_from([conv, dot]))(net)


def branches(net: FloatNetwork) -> Value | None:
    """Scales another result of weights, or nothing, and joins it with the last value."""
    first, second = net.last, None
    for _ in range(4):
        net.last = first
        made = net.draw(st.sampled_from([weights, affine, activation]))(net)
        if made is not None and made.type == first.type:
            second = made
    net.last = first
    axis = net.draw(st.sampled_from([len(first.type.shape) - 1, 0]))
    join = net.draw(st.sampled_from([Add(), Add(), Sub(), Mul(), Concat(axis), Concat(axis)]))
    return net.emit(join, *net.draw(st.permutations([first, second or first])))


def shifted_or_scaled(net: FloatNetwork) -> Value:
    """Adds one map or two, whose factors are positive more often than not."""
    if net.draw(st.integers(0, 3)) == 0:
        return batch_norm(net)
    for _ in range(net.draw(st.integers(1, 2))):
        net.last = affine(net)
    return net.last


class FloatCase(Case):
    """A float program, shown whole where a test fails."""

    def __repr__(self) -> str:
        return self.shown()


@st.composite
def float_programs(draw: Draw, layers: Sequence[Layer] = LAYERS) -> FloatCase:
    """Draws a network of up to a dozen layers that returns its end and perhaps a value inside."""
    net = FloatNetwork(draw)
    for layer in draw(st.lists(st.sampled_from(layers), min_size=3, max_size=12)):
        value = layer(net)
        if value is not None and np.prod(value.type.known_shape) <= LARGEST:
            net.values.append(value)
            net.last = value
        if draw(st.integers(0, 7)) == 0:
            net.last = draw(st.sampled_from([v for v in net.values if not v.is_constant]))
    results = [value for value in net.values if not value.is_constant]
    outputs = [net.last, *draw(st.lists(st.sampled_from(results), max_size=1))]
    net.graph.set_outputs(outputs)
    return FloatCase(net.graph, net.inputs)


def negation(net: FloatNetwork) -> Value:
    return net.emit(Neg(), net.last)


def simple_programs() -> st.SearchStrategy[FloatCase]:
    """Draws programs of ops that often make one another unnecessary."""
    return float_programs(
        [
            affine,
            activation,
            negation,
            extremum,
            reshape,
            transpose,
            mean,
            move,
            concat,
            combine,
            again,
        ]
    )


@st.composite
def reaching_programs(draw: Draw) -> FloatCase:
    """Draws weights and an affine map, in this order or the other, with ops between them."""
    net = FloatNetwork(draw)
    between = [activation, activation, pool, mean, reshape, transpose, move, move, branches]
    steps: list[Layer] = [weights, shifted_or_scaled]
    if draw(st.booleans()):
        steps.reverse()
    steps[1:1] = draw(st.lists(st.sampled_from(between), max_size=2))
    if draw(st.integers(0, 3)) == 0:
        steps.insert(0, affine)
    for step in steps:
        value = step(net)
        if value is not None and np.prod(value.type.known_shape) <= LARGEST:
            net.last = value
    net.graph.set_outputs([net.last])
    return FloatCase(net.graph, net.inputs)
