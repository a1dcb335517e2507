"""How far a quantized program may be from the float one: bounds that follow from the ranges."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run_all
from qir.ir import Value
from qir.numbers.interval import Interval
from qir.ops import (
    Add,
    AvgPool,
    Clip,
    Concat,
    Const,
    Conv,
    Dot,
    Gelu,
    HardSwish,
    Logistic,
    MaxPool,
    Mean,
    Mul,
    Relu,
    Reshape,
    Silu,
    Softmax,
    Sub,
    Tanh,
    Transpose,
)
from qir.ops.op import Op
from qir.types import Array
from tests.strategies.base import Case, Draw

STEEPEST: dict[type, float] = {
    Tanh: 1.0,
    Logistic: 0.25,
    Silu: 1.1,
    Gelu: 1.13,
    HardSwish: 1.5,
}
"""The greatest slope of each function."""

INTEGER = "lookup-tables, fuse-requantize, check-overflow"


def half(low: float, high: float) -> float:
    """Half a step of the code of a range, and what float32 may add to it: 2^-12 steps.

    Up to 255 steps are each off by 2^-23 from the reciprocal and the product, and by 2^-24 from the
    scale: 2^-13.
    """
    return (max(high, 0.0) - min(low, 0.0)) / 255 * (0.5 + 2**-12)


def spread(array: Array) -> float:
    return half(array.min(), array.max())


class Bounds:
    """How far each value may be from its float64 one, greatest over its numbers."""

    def __init__(self, values: dict[Value, Array]) -> None:
        self.values = values
        self.bound: dict[Value, float] = {}
        for value in values:
            self.bound[value] = spread(values[value]) if value.node is None else self.of(value)

    def of(self, value: Value) -> float:
        op, operands, step = value.op, value.inputs, spread(self.values[value])
        match op:
            case Const():
                return step
            case MaxPool() | Reshape() | Transpose():
                return self.bound[operands[0]]
            case Conv() | Dot():
                return self.products(*operands) + step
            case Add() | Sub():
                # common_shift_multipliers: the multipliers are off by less than a step of 2^-8.
                return sum(map(self.bound.__getitem__, operands)) + step * (1 + 2**-7)
            case Mul():
                (x, y), (a, b) = map(self.reach, operands), map(self.bound.__getitem__, operands)
                return a * y + b * x + a * b + step
            case Relu() | AvgPool() | Mean() | Concat():
                return max(map(self.bound.__getitem__, operands)) + step
            case Clip():  # its bounds are rounded to codes of the operand
                return self.bound[operands[0]] + spread(self.values[operands[0]]) + step
            case Softmax():  # the odds; 1 is stored as 255/256; exponentials have 22 bits
                return float(np.tanh(self.bound[operands[0]] / 2)) + 1 / 256 + 2**-16
            case _:
                return STEEPEST[type(op)] * self.bound[operands[0]] + step

    def reach(self, value: Value) -> float:
        return float(np.abs(self.values[value]).max())

    def products(self, x: Value, kernel: Value, bias: Value | None = None) -> float:
        columns = np.abs(self.values[kernel]).reshape(-1, self.values[kernel].shape[-1])
        peaks, far = columns.max(axis=0), self.reach(x) + self.bound[x]
        weights = peaks / 127 * (0.5 + 2**-12) * len(columns) * far
        scale = 2 * spread(self.values[x]) * peaks / 127
        return float((self.bound[x] * columns.sum(axis=0) + weights + scale).max())


class Network:
    """A float program that grows at random, and the numbers of its only input."""

    def __init__(self, draw: Draw) -> None:
        self.draw, self.rng = draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        size, middle = 10.0 ** draw(st.integers(-3, 2)), draw(st.sampled_from([0, 0, 4, -4]))
        self.x = (self.rng.normal(middle, 1, (2, 4, 4, 2)) * size).astype(np.float32)
        self.graph = qir.Graph("float", [("x", qir.TensorType(self.x.shape, qir.DType.F32))])
        self.last = self.graph.inputs[0]

    @property
    def channels(self) -> int:
        return self.last.type.known_shape[-1]

    def emit(self, op: Op, *operands: Value) -> Value:
        return self.graph.at_end().emit(op, *operands)

    def const(self, *shape: int) -> Value:
        array = self.rng.normal(0, 1, shape).astype(np.float32)
        return self.graph.at_end().const(array, "k")


def conv(net):
    window = net.draw(st.sampled_from([(1, 1), (2, 3), (3, 3)]))
    groups = net.draw(st.sampled_from([1, net.channels]))
    kernel = net.const(*window, net.channels // groups, groups)
    biases = [net.const(groups)] if net.draw(st.booleans()) else []
    return net.emit(Conv(padding="same", groups=groups), net.last, kernel, *biases)


def dot(net):
    return net.emit(Dot(), net.last, net.const(net.channels, 2))


def residual(net):
    return net.emit(
        Add(), net.last, net.emit(Dot(), net.last, net.const(net.channels, net.channels))
    )


def softmax(net):
    pooled = net.emit(Mean((1, 2), keep_axes=True), net.last)
    return net.emit(Softmax(3), net.emit(Dot(), pooled, net.const(net.channels, 4)))


def with_constant(net):
    op = net.draw(st.sampled_from([Add(), Sub(), Mul()]))
    return net.emit(op, net.last, net.const(net.channels))


def with_itself(net):
    op = net.draw(st.sampled_from([Add(), Mul(), Concat(3)]))
    return net.emit(op, net.last, net.emit(Tanh(), net.last))


def unary(net):
    batch, height, width, channels = net.last.type.known_shape
    moves = Transpose((0, 2, 1, 3)), Reshape((batch, height * width, 1, channels))
    pools = MaxPool((2, 2), padding="same"), AvgPool((2, 2), padding="same")
    functions = (Tanh(), Logistic(), Silu(), Gelu(), HardSwish())
    op = net.draw(st.sampled_from([Relu(), Clip(-0.5, 1.0), *functions, *pools, *moves]))
    return net.emit(op, net.last)


LAYERS = [conv, conv, dot, residual, softmax, with_constant, with_itself, unary, unary, unary]


@st.composite
def networks(draw, most):
    """A float program, and the input that the ranges of all its values are of."""
    net = Network(draw)
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=most)):
        net.last = layer(net)
    net.graph.set_outputs([net.last])
    for value, array in run_all(net.graph, net.x).items():
        if not value.is_constant:
            value.range = Interval.of(array.min(), array.max())
    return Case(net.graph, (net.x,))


@given(networks(most=1) | networks(most=4), st.sampled_from(["float", "i8", "u8"]))
def test_outputs_stay_within_what_the_steps_allow(case, outputs):
    graph, (x,) = case.graph, case.inputs
    integer = qir.optimize(graph, f"quantize(outputs={outputs}), {INTEGER}")
    explained = qir.explain(integer)
    assert all("scale ratio" in line.reason for line in explained.floats), explained
    (stored,) = qir.evaluate(integer, x)
    code = integer.outputs[0].type.quant
    found = stored if code is None else code.decode(stored)
    values = run_all(graph, x, precision=np.float64)
    (output,) = graph.outputs
    bound = Bounds(values).bound[output]
    assert np.abs(found - values[output]).max() <= bound, case.shown()


def test_a_product_that_sums_over_the_batch_stays_float() -> None:
    """Nothing bounds its sums, as the batch may have any size."""
    data = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
    graph = qir.from_jax(lambda x: (x @ x.T) @ jnp.tanh(x), data, batch="B")
    integer = qir.quantize(graph, [data])
    products = [node for node in integer.nodes if isinstance(node.op, Dot)]
    assert [node.output.type.is_float for node in products] == [False, True]
    assert products[1].note == "it sums over the named dimension B, so that no sum is bounded"


def test_a_bias_that_no_accumulator_holds_beside_computed_products_stays_float() -> None:
    text = """graph @f(%x: f32[2,2], %k: f32[2,2]) {{
  %large = const [0.0, {}] : f32[2]
  %y = dot(%x, %k, %large) : f32[2,2]
  return %y
}}"""
    x, k = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, -1], [2, 0.5]], np.float32)
    # The product of the steps, 4/255 by 3/255, holds biases below about 2^31 of it, 4e5.
    (line,) = qir.explain(qir.quantize(qir.parse(text.format(1e9)), [(x, k)])).floats
    assert line.reason == "its sum has no room for the bias %large"
    held = qir.quantize(qir.parse(text.format(1e5)), [(x, k)], accuracy_check=False)
    assert not qir.explain(held).floats


def test_a_function_of_a_range_that_no_scale_brings_its_sum_to_stays_float() -> None:
    kernel = np.ones((4, 4), np.float32)
    data = np.array([[1, 2, 3, 4], [1e-16, 0, 0, 0]], np.float32)

    def function(x):
        y = x @ kernel
        return jnp.expm1(y[1:]), y

    integer = qir.quantize(qir.from_jax(function, data), [data], accuracy_check=False)
    # The clip keeps it to the range that it was seen in.
    assert {line.op for line in qir.explain(integer).floats} == {"clip", "expm1"}
    found = qir.evaluate(integer, data)[0]
    np.testing.assert_allclose(found, np.full_like(found, 1e-16), rtol=0, atol=1e-16)


def test_weights_are_coded_for_a_result_whose_scale_varies() -> None:
    text = """graph @f(%x: f32[2,3,1,4]) {
  %k = const [[2.0], [1.0], [1.5], [0.5]] : f32[4,1]
  %y = dot(%x, %k) : f32[2,3,1,1]
  %z = dot(%y, %y) {batch = 2} : f32[2,3,1,1]
  return %z
}"""
    sizes = np.array([64, 1, 1 / 64], np.float32).reshape(1, 3, 1, 1)
    x = np.random.default_rng(5).uniform(1, 2, (2, 3, 1, 4)).astype(np.float32) * sizes
    integer = qir.quantize(qir.parse(text), [x])
    operand = [node.inputs[0].type.quant for node in integer.nodes if isinstance(node.op, Dot)][1]
    assert operand is not None
    assert not operand.per_tensor
    assert integer.accuracy is not None
    assert not integer.accuracy.inaccurate
