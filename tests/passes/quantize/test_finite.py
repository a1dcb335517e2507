"""Nothing that is finite in float becomes infinite or NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run
from qir.ir import Graph
from qir.ops import (
    Abs,
    Add,
    Div,
    Dot,
    Exp,
    L2Norm,
    LayerNorm,
    Log,
    Mean,
    Mul,
    Pow,
    Reciprocal,
    Relu,
    Reverse,
    RmsNorm,
    Rsqrt,
    Sqrt,
    Square,
    Sub,
    Tanh,
)
from qir.types import Array, DType, TensorType
from tests.strategies.base import Draw, generator

UNARY = [Abs(), Exp(), Log(), Reciprocal(), Relu(), Rsqrt(), Sqrt(), Square(), Tanh()]
BINARY = [Add(), Sub(), Mul(), Div(), Pow()]
SIZE = 6


@st.composite
def programs(draw: Draw) -> tuple[Graph, Array]:
    """Draws a network of functions that are not finite everywhere, and numbers for it."""
    rng = generator(draw)
    graph = Graph("functions")
    builder = graph.at_end()
    values = [graph.add_input("x", TensorType((4, SIZE), DType.F32))]
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["unary", "unary", "binary", "shifted", "mixed", "norm"]))
        operand = draw(st.sampled_from(values[-3:]))
        if kind == "unary":
            made = builder.emit(draw(st.sampled_from(UNARY)), operand)
        elif kind == "binary":
            other = draw(st.sampled_from(values))
            made = builder.emit(draw(st.sampled_from(BINARY)), operand, other)
        elif kind == "shifted":
            number = builder.const(np.float32(rng.normal(0, 2)), "number")
            made = builder.emit(draw(st.sampled_from(BINARY)), operand, number)
        elif kind == "norm":
            mean = builder.emit(Mean((1,), True), operand)
            squares = builder.emit(Mean((1,), True), builder.emit(Square(), operand))
            variance = builder.emit(Sub(), squares, builder.emit(Square(), mean))
            root = builder.emit(draw(st.sampled_from([Sqrt(), Rsqrt(), Log()])), variance)
            made = builder.emit(Div(), builder.emit(Sub(), operand, mean), root)
        else:
            weights = builder.const(rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32), "weights")
            made = builder.emit(Reverse((1,)), builder.emit(Dot(), operand, weights))
        values.append(made)
    graph.set_outputs(values[-2:])
    positive = draw(st.booleans())
    data = np.exp(rng.normal(0, 2, (4, SIZE))) if positive else rng.normal(0, 2, (4, SIZE))
    return graph, data.astype(np.float32)


@pytest.mark.hypothesis
@given(programs())
def test_what_is_finite_in_float_is_finite_in_integers(case):
    graph, data = case
    assume(all(np.isfinite(found).all() for found in run(graph, data)))
    try:
        integer = qir.quantize(graph, [data], accuracy_check=False)
    except qir.QirError as error:
        assume("not finite" not in str(error))
        raise
    for found in run(integer, data):
        assert np.isfinite(found).all(), str(integer)


FUNCTIONS = {
    "log": lambda x, w: jnp.log(x @ w),
    "rsqrt": lambda x, w: jax.lax.rsqrt(x @ w),
    "div": lambda x, w: (x @ w) / (x @ w)[:, ::-1],
    "pow": lambda x, w: jnp.power(x @ w, jnp.tanh(x @ w)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_kept_op_reads_stays_where_data_was(name):
    rng = np.random.default_rng(34)
    weights = np.abs(rng.normal(0, 0.3, (16, 16))).astype(np.float32)
    # One row is so small that its code is that of 0.
    data = rng.uniform(0.5, 1, (8, 16)).astype(np.float32) * np.geomspace(1e-5, 1, 8)[:, None]
    data = data.astype(np.float32)
    keep = f"keep_float=[op:{name}]"
    pipeline = f"fold, calibrate, propagate-ranges, quantize({keep}), integer"
    graph = qir.from_jax(lambda x: FUNCTIONS[name](x, weights), data, batch="B")
    integer = qir.quantize(graph, [data], pipeline, accuracy_check=False)
    for program in (qir.compile(integer), lambda x: qir.evaluate(integer, x)):
        assert np.isfinite(np.asarray(program(data)[0])).all()


def test_the_logarithm_of_a_softmax_whose_code_reaches_0_is_finite():
    graph = qir.parse("""
        graph @g(%x: f32[2,8]) {
          %s = softmax(%x) {axis = 1} : f32[2,8]
          %l = log(%s) : f32[2,8]
          %k = const 0.00001 : f32[]
          %p = softplus(%l) : f32[2,8]
          %a = add(%p, %k) : f32[2,8]
          %d = div(%l, %a) : f32[2,8]
          return %d, %l
        }""")
    x = np.linspace(-6, 6, 16, dtype=np.float32).reshape(2, 8) ** 2
    program = qir.quantize(graph, [x], accuracy_check=False)
    assert all(np.isfinite(found).all() for found in qir.evaluate(program, x))


def test_a_divisor_on_both_sides_of_0_is_never_0():
    rng = np.random.default_rng(35)
    data = rng.normal(0, 1, (64, 16)).astype(np.float32)
    weights = rng.normal(0, 1, (16, 4)).astype(np.float32)
    keep = "fold, calibrate, propagate-ranges, quantize(keep_float=[op:div]), integer"
    graph = qir.from_jax(lambda x: (x @ weights) / jnp.tanh(x @ weights[::-1]), data, batch="B")
    integer = qir.quantize(graph, [data], keep, accuracy_check=False)
    assert np.isfinite(qir.evaluate(integer, data)[0]).all()


def of_weights(function):
    """Returns a function of a product, whose code is coarse, and a program of it with codes."""
    rng = np.random.default_rng(36)
    weights = rng.normal(0, 1, (16, 8)).astype(np.float32)
    # Rows of very different size: the least are less than a step of the code of all.
    data = rng.normal(0, 1, (64, 16)) * np.geomspace(1e-3, 1, 64)[:, None]
    data = data.astype(np.float32)
    return qir.from_jax(lambda x: function(x @ weights), data, batch="B"), data


def spread(y):
    """The variance as a difference of means, which is positive for all data."""
    return jnp.mean(y * y, -1, keepdims=True) - jnp.mean(y, -1, keepdims=True) ** 2


DIFFERENCES = {
    "sqrt": lambda y: jnp.sqrt(spread(y)),
    "rsqrt": lambda y: jax.lax.rsqrt(spread(y)),
    "log": lambda y: jnp.log(spread(y)),
    "log1p": lambda y: jnp.log1p(1e4 * spread(y) - 1),
    "pow": lambda y: jnp.power(spread(y), jnp.mean(y, -1, keepdims=True)),
    "div": lambda y: y / (y - jnp.roll(y, 1, -1)),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_is_computed_of_codes_stays_where_data_was(name):
    graph, data = of_weights(DIFFERENCES[name])
    assert np.isfinite(qir.evaluate(graph, data)[0]).all()
    keep = f"fold, calibrate, propagate-ranges, quantize(keep_float=[op:sub, op:{name}]), integer"
    integer = qir.quantize(graph, [data], keep, accuracy_check=False)
    assert any(isinstance(node.op, Sub) and node.op.to is None for node in integer.nodes)
    for program in (qir.compile(integer), lambda x: qir.evaluate(integer, x)):
        assert np.isfinite(np.asarray(program(data)[0])).all(), str(integer)


def test_a_norm_that_is_not_raised_is_finite():
    source = """
graph @norm(%x: f32[64,16]) {
  %k = const : f32[16,8]
  %y = dot(%x, %k) : f32[64,8]
  %square = square(%y) : f32[64,8]
  %mean = mean(%y) {axes = [1], keep_axes = true} : f32[64,1]
  %squares = mean(%square) {axes = [1], keep_axes = true} : f32[64,1]
  %square_1 = square(%mean) : f32[64,1]
  %variance = sub(%squares, %square_1) : f32[64,1]
  %epsilon = const 1e-06 : f32[]
  %add = add(%variance, %epsilon) : f32[64,1]
  %root = sqrt(%add) : f32[64,1]
  %sub = sub(%y, %mean) : f32[64,8]
  %norm = div(%sub, %root) : f32[64,8]
  return %norm
}"""
    rng = np.random.default_rng(38)
    offsets = np.geomspace(1e-2, 10, 64)[:, None]
    data = (rng.normal(0, 1e-2, (64, 16)) + offsets).astype(np.float32)
    weights = rng.normal(0, 1, (16, 1)) + rng.normal(0, 0.1, (16, 8))
    graph = qir.parse(source, {"k": weights.astype(np.float32)})
    integer = qir.quantize(graph, [data], accuracy_check=False)
    for program in (qir.compile(integer), lambda x: qir.evaluate(integer, x)):
        assert np.isfinite(np.asarray(program(data)[0])).all(), str(integer)


@pytest.mark.parametrize("op", [LayerNorm((1,), 0.0), RmsNorm((1,), 0.0), L2Norm((1,), 0.0)])
def test_a_float_norm_of_a_row_that_codes_make_constant_is_finite(op):
    rng = np.random.default_rng(37)
    graph = Graph("norm")
    builder = graph.at_end()
    x = graph.add_input("x", TensorType((8, 16), DType.F32))
    weights = builder.const(rng.normal(0, 1, (16, 8)).astype(np.float32), "weights")
    graph.set_outputs([builder.emit(op, builder.emit(Dot(), x, weights))])
    data = (rng.normal(0, 1, (8, 16)) * np.geomspace(1e-6, 1, 8)[:, None]).astype(np.float32)
    keep = f"fold, calibrate, quantize(keep_float=[op:{op.name}]), integer"
    integer = qir.quantize(graph, [data], keep, accuracy_check=False)
    for program in (qir.compile(integer), lambda x: qir.evaluate(integer, x)):
        assert np.isfinite(np.asarray(program(data)[0])).all()


def test_what_codes_cannot_lead_out_of_is_not_clipped():
    def function(y):
        return y / jnp.sqrt(jnp.mean(y * y, -1, keepdims=True) + jnp.abs(y) + 1)

    graph, data = of_weights(function)
    keep = "fold, calibrate, quantize(keep_float=[op:sqrt, op:div, op:add]), integer"
    integer = qir.quantize(graph, [data], keep, accuracy_check=False)
    names = [node.op.name for node in integer.nodes]
    assert "sqrt" in names
    assert "clip" not in names
