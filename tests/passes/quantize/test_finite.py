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
    Log,
    Mul,
    Pow,
    Reciprocal,
    Relu,
    Reverse,
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
        kind = draw(st.sampled_from(["unary", "unary", "binary", "shifted", "mixed"]))
        operand = draw(st.sampled_from(values[-3:]))
        if kind == "unary":
            made = builder.emit(draw(st.sampled_from(UNARY)), operand)
        elif kind == "binary":
            other = draw(st.sampled_from(values))
            made = builder.emit(draw(st.sampled_from(BINARY)), operand, other)
        elif kind == "shifted":
            number = builder.const(np.float32(rng.normal(0, 2)), "number")
            made = builder.emit(draw(st.sampled_from(BINARY)), operand, number)
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


def test_a_divisor_on_both_sides_of_0_is_never_0():
    rng = np.random.default_rng(35)
    data = rng.normal(0, 1, (64, 16)).astype(np.float32)
    weights = rng.normal(0, 1, (16, 4)).astype(np.float32)
    keep = "fold, calibrate, propagate-ranges, quantize(keep_float=[op:div]), integer"
    graph = qir.from_jax(lambda x: (x @ weights) / jnp.tanh(x @ weights[::-1]), data, batch="B")
    integer = qir.quantize(graph, [data], keep, accuracy_check=False)
    assert np.isfinite(qir.evaluate(integer, data)[0]).all()
