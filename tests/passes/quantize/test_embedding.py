"""Tables of embeddings: coded by row, stored once with the kernel that is tied to them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

import qir
from qir.ops import Const, Embedding
from qir.types import Array, DType

ROWS, WIDTH = 200, 16


def table() -> Array:
    """A table with a row of zeros and one that is 50 times as large as the others."""
    numbers = np.random.default_rng(11).normal(0, 1, (ROWS, WIDTH)).astype(np.float32)
    numbers[0] = 0
    numbers[7] *= 50
    return numbers


IDS = np.random.default_rng(12).integers(0, ROWS, (6, 10)).astype(np.int32)
HIDDEN = np.random.default_rng(13).normal(0, 0.25, (WIDTH, WIDTH)).astype(np.float32)
TABLE = jnp.asarray(table())
EVEN = TABLE.at[7].multiply(1 / 50)


def decibels(exact: ArrayLike, found: ArrayLike) -> float:
    exact, found = (np.asarray(array, np.float64) for array in (exact, found))
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def lookups(graph: qir.Graph) -> list[qir.Node]:
    return [node for node in graph.nodes if isinstance(node.op, Embedding)]


def quantized(model: Callable[..., Any], recipe: str = "w8a8") -> qir.Graph:
    graph = qir.from_jax(model, IDS, batch="B")
    # Weights of 4 bits make noise: what of it is right is the tests' own matter.
    return qir.quantize(graph, [IDS], recipe, accuracy_check="i4" not in recipe)


@pytest.mark.parametrize("storage", ["i8", "i4"])
def test_every_row_has_all_the_steps_of_its_storage(storage):
    recipe = f"fold, calibrate, propagate-ranges, quantize(weights={storage}), integer"
    (lookup,) = lookups(quantized(lambda ids: jnp.tanh(TABLE[ids] @ HIDDEN), recipe))
    rows = lookup.inputs[0]
    assert rows.type.dtype is DType(storage)
    assert rows.type.quant is not None
    assert rows.type.quant.axis == 0
    assert lookup.output.type.dtype is DType.I8
    peaks = np.abs(rows.array.astype(int)).max(axis=1)
    assert peaks[0] == 0
    assert np.all(peaks[1:] == DType(storage).bounds[1])


def test_rows_that_leave_as_floats_keep_the_steps_of_their_own_scale():
    integer = quantized(lambda ids: TABLE[ids])
    every = np.arange(ROWS, dtype=np.int32).reshape(-1, 10)
    (found,) = qir.evaluate(integer, every)
    exact = table()
    steps = np.abs(exact).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(found.reshape(exact.shape) - exact) <= steps * (0.5 + 2**-12))
    assert lookups(integer)[0].inputs[0].type.dtype is DType.I8


def test_means_over_a_bag_of_rows_are_exact_sums():
    integer = quantized(lambda ids: EVEN[ids].mean(1) @ HIDDEN)
    assert qir.explain(integer).floats == ()
    (lookup,) = lookups(integer)
    (mean,) = lookup.output.users
    assert mean.op.name == "mean"
    assert mean.output.type.dtype is DType.I32
    exact = np.asarray(EVEN[IDS].mean(1) @ HIDDEN)
    assert decibels(exact, qir.evaluate(integer, IDS)[0]) > 30


TIED = {
    "transposed": lambda ids: jnp.tanh(EVEN[ids] @ HIDDEN) @ EVEN.T,
    "einsum": lambda ids: jnp.einsum("btd,vd->btv", jnp.tanh(EVEN[ids] @ HIDDEN), EVEN),
    "scaled": lambda ids: jnp.tanh((EVEN[ids] * 5.7) @ HIDDEN) @ EVEN.T,
    "scaled head": lambda ids: jax.nn.relu(EVEN[ids] @ HIDDEN) @ EVEN.T * 0.3,
    "residual": lambda ids: (lambda h: h + jnp.tanh(h @ HIDDEN))(EVEN[ids] * 5.7) @ EVEN.T,
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_table_is_stored_once(name, tmp_path):
    model = TIED[name]
    graph = qir.from_jax(model, IDS, batch="B")
    integer = qir.quantize(graph, [IDS])
    assert qir.explain(integer).floats == ()
    exact = jax.jit(model)(IDS)
    (found,) = qir.evaluate(integer, IDS)
    assert decibels(exact, found) > 28
    for program, width in ((graph, 4), (integer, 1)):
        held = qir.to_program(program).arrays.values()
        assert [array.shape for array in held if array.size == ROWS * WIDTH] == [(ROWS, WIDTH)]
        cost = qir.summary(program)
        assert cost.parameters < ROWS * WIDTH + WIDTH * WIDTH + 300
        scales = 0 if width == 4 else 4 * 2 * ROWS  # of rows, and of the columns that they are
        assert cost.parameter_bytes < width * (ROWS * WIDTH + WIDTH * WIDTH) + scales + 1200
        qir.save(program, tmp_path / "tied.qir")
        loaded = qir.load(tmp_path / "tied.qir")
        assert loaded == program
        assert np.array_equal(qir.evaluate(loaded, IDS)[0], qir.evaluate(program, IDS)[0])
    assert np.array_equal(np.asarray(qir.compile(integer)(IDS)[0]), found)


def test_a_factor_that_nothing_else_takes_goes_into_the_kernel_that_is_tied():
    integer = quantized(lambda ids: jnp.tanh(EVEN[ids] @ HIDDEN) @ EVEN.T * 0.3)
    assert integer.outputs[0].op is not None
    assert integer.outputs[0].inputs[0].type.dtype is DType.I32


def test_rows_enter_a_wide_sum_in_its_code():
    places = np.linspace(-1, 1, 10 * WIDTH, dtype=np.float32).reshape(10, WIDTH)
    integer = quantized(lambda ids: jax.nn.standardize(EVEN[ids] + places))
    (lookup,) = lookups(integer)
    (add,) = lookup.output.users
    assert add.op.name == "add"
    assert lookup.output.type.dtype is add.output.type.dtype is DType.I32
    sums = integer.extract(integer.inputs, [add.output])
    (stored,) = qir.evaluate(sums, IDS)
    assert add.output.type.quant is not None
    exact = np.asarray(EVEN)[IDS] + places
    steps = np.abs(np.asarray(EVEN)).max(axis=1)[IDS][..., None] / 127
    wide = 2 * float(add.output.type.quant.scale.array)
    assert np.all(np.abs(add.output.type.quant.decode(stored) - exact) <= steps * 0.501 + wide)
    assert np.array_equal(np.asarray(qir.compile(sums)(IDS)[0]), stored)


def test_a_table_in_an_argument_of_weights_is_tied_too():
    def model(weights, ids):
        return jnp.tanh(weights["embed"][ids] @ HIDDEN) @ weights["embed"].T

    weights = {"embed": np.asarray(EVEN)}
    graph = qir.from_jax(model, weights, IDS, weight_argnums=0, batch="B")
    integer = qir.quantize(graph, [IDS])
    large = [array for array in qir.to_program(integer).arrays.values() if array.ndim == 2]
    assert sorted(array.shape for array in large) == [(WIDTH, WIDTH), (ROWS, WIDTH)]


def test_a_factor_of_rows_leaves_the_table_as_it_is():
    integer = quantized(TIED["residual"])
    (lookup,) = lookups(integer)
    assert isinstance(lookup.op, Embedding)
    assert lookup.op.factor == np.float32(5.7)
    numbers = [node.output for node in integer.nodes if isinstance(node.op, Const)]
    kernel = next(value for value in numbers if value.type.shape == (WIDTH, ROWS))
    assert np.array_equal(kernel.array, lookup.inputs[0].array.T)


def test_rows_to_which_only_0_was_ever_added_are_normed_as_rows() -> None:
    def normed(ids: jax.Array, x: jax.Array) -> jax.Array:
        y = jnp.add(EVEN[ids], jax.nn.relu(-jnp.abs(x @ HIDDEN)))
        return (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-3)

    x = np.random.default_rng(14).normal(0, 1, (*IDS.shape, WIDTH)).astype(np.float32)
    integer = qir.quantize(qir.from_jax(normed, IDS, x), [(IDS, x)])
    assert not qir.explain(integer).floats
    assert decibels(normed(jnp.asarray(IDS), jnp.asarray(x)), qir.evaluate(integer, IDS, x)[0]) > 30


def test_rows_that_a_softmax_reads_beside_a_move_come_straight_from_the_table() -> None:
    def function(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.nn.softmax(EVEN[ids]), jnp.tanh(EVEN[ids][1:])

    integer = qir.quantize(qir.from_jax(function, IDS), [IDS])
    assert not qir.explain(integer).floats
    assert {node.output.type.dtype for node in lookups(integer)} == {DType.I8, DType.I16}
