"""Masks of attention become softmax's operand, with the numbers of the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import qir
from qir.errors import QirError
from qir.ir import Graph, Node
from qir.ops import Softmax
from qir.types import Array
from tests.frontends.agreement import agrees, op_names, uniform

T = 6
SCORES = uniform(2, T, T, low=-4, high=4)
CAUSAL = np.tril(np.ones((T, T), bool))
LENGTHS = np.arange(T)[None, :] < np.array([[4], [6]])
BOOLS, INTS, FLOATS = LENGTHS, LENGTHS.astype(np.int32), LENGTHS.astype(np.float32)
PADDING = np.where(LENGTHS, 0, -1e4)[:, None].astype(np.float32)
SMALLEST = float(np.finfo(np.float32).min)


def softmaxes(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op.name == "softmax"]


def is_masked(graph: Graph) -> bool:
    (node,) = softmaxes(graph)
    return len(node.inputs) == 2


CONSTANT: dict[str, Callable[[Any], Any]] = {
    "where": lambda x: jnp.where(CAUSAL, x, -1e9),
    "where, the other way": lambda x: jnp.where(~CAUSAL, SMALLEST, x),
    "where with -inf": lambda x: jnp.where(CAUSAL, x, -jnp.inf),
    "where with an array": lambda x: jnp.where(CAUSAL, x, -9e15 * jnp.ones_like(x)),
    "add": lambda x: x + np.where(CAUSAL, 0, -1e9).astype("f"),
    "add of -inf": lambda x: x + np.where(CAUSAL, 0, -np.inf).astype("f"),
    "subtract": lambda x: x - np.where(CAUSAL, 0, 1e9).astype("f"),
    "scaled behind": lambda x: jnp.where(CAUSAL, x, -1e9) * 0.125,
    "two masks": lambda x: jnp.where(CAUSAL, x, -1e9) + PADDING,
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_masks_leave_nothing(name: str) -> None:
    graph = agrees(lambda x: jax.nn.softmax(CONSTANT[name](x), -1), SCORES, terms=12)
    assert is_masked(graph)
    assert "select" not in op_names(graph)
    assert "add" not in op_names(graph)


def test_a_bias_beside_a_constant_mask_stays() -> None:
    bias = np.where(CAUSAL, uniform(T, T, seed=3), -1e9).astype(np.float32)
    graph = agrees(lambda x: jax.nn.softmax(x + bias, -1), SCORES, terms=12)
    assert is_masked(graph)
    assert op_names(graph) == ["add", "softmax"]


def test_a_constant_mask_of_columns_is_no_bias_of_what_computes_the_scores() -> None:
    kernel, mask = uniform(T, 4, seed=4), np.array([0, -1e9, 0, -3e38], np.float32)
    graph = agrees(lambda x: jax.nn.softmax(x @ kernel + mask, -1), SCORES, terms=12)
    assert is_masked(graph)
    assert op_names(graph) == ["dot", "softmax"]


COMPUTED: dict[str, tuple[Callable[[Any, Any], Any], Array]] = {
    "where": (lambda x, m: jnp.where(m[:, None], x, -1e9), BOOLS),
    "added bools": (lambda x, m: x + (1 - m.astype("f"))[:, None] * -1e9, BOOLS),
    "added integers": (lambda x, m: x + (1.0 - m[:, None]) * SMALLEST, INTS),
    "integers compared": (lambda x, m: jnp.where(m[:, None] > 0, x, SMALLEST), INTS),
    "added choice": (lambda x, m: x + jnp.where(m, 0.0, -1e5)[:, None], BOOLS),
    # The sum of two of the smallest numbers is -inf.
    "two masks added up": (
        lambda x, m: (
            x + (np.where(CAUSAL, 0, SMALLEST).astype("f") + (1.0 - m[:, None]) * SMALLEST)
        ),
        INTS,
    ),
    "two masks added up, bounded": (
        lambda x, m: (
            x
            + jnp.maximum(
                np.where(CAUSAL, 0, SMALLEST).astype("f") + (1.0 - m[:, None]) * SMALLEST, SMALLEST
            )
        ),
        INTS,
    ),
    "two choices added up": (
        lambda x, m: x + (jnp.where(m, 0.0, -1e9)[:, None] + jnp.where(CAUSAL, 0.0, -1e9)),
        BOOLS,
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_masks_of_bools_and_integers_leave_nothing(name: str) -> None:
    f, mask = COMPUTED[name]
    graph = agrees(lambda x, m: jax.nn.softmax(f(x, m), -1), SCORES, mask, terms=12)
    assert is_masked(graph)
    assert not {"add", "select", "mul"} & set(op_names(graph))


REAL: dict[str, Callable[[Any, Any], Any]] = {
    "added": lambda x, m: x + (1 - m)[:, None] * -1e9,
    "an input that is added": lambda x, m: x + m[:, None],
    "multiplied": lambda x, m: x * m[:, None] - 1e9 * (1 - m[:, None]),
}


def test_a_bias_that_a_mask_of_floats_is_added_to_first_is_no_part_of_the_mask() -> None:
    bias = uniform(T, T, seed=3)

    def f(x: Any, m: Any) -> Any:
        return jax.nn.softmax(0.5 * x + (bias - (1.0 - m[:, None]) * 1e9), -1)

    graph = agrees(f, SCORES, FLOATS, terms=12)
    (greater,) = (node for node in graph.nodes if node.op.name == "greater")
    assert greater.output.type.shape == (2, 1, T)
    assert is_masked(graph)


@pytest.mark.parametrize("name", REAL)
def test_masks_of_floats_keep_what_they_add(name: str) -> None:
    graph = agrees(lambda x, m: jax.nn.softmax(REAL[name](x, m), -1), SCORES, FLOATS, terms=12)
    assert is_masked(graph)
    assert "add" in op_names(graph)


@pytest.mark.parametrize(("fill", "rows"), [(-1e9, "uniform"), (-1e4, "unmasked")])
def test_a_row_that_an_addend_masks_whole_is_as_in_float(fill: float, rows: str) -> None:
    mask = np.where(np.arange(T)[:, None] == 1, fill, 0).astype(np.float32)
    graph = qir.from_jax(lambda x: jax.nn.softmax(x + mask, -1), SCORES)
    (node,) = softmaxes(graph)
    assert isinstance(node.op, Softmax)
    assert node.op.masked_rows == rows
    wanted = np.asarray(jax.nn.softmax(jnp.asarray(SCORES + mask), -1))
    # Scores of magnitude 1e4 or 1e9 are rounded to 2^-10 or 64 before their exponentials.
    np.testing.assert_allclose(qir.evaluate(graph, SCORES)[0], wanted, atol=2e-3)


@pytest.mark.parametrize("name", ["constant", "input", "addend"])
def test_a_row_of_minus_infinity_is_no_number_as_in_float(name: str) -> None:
    mask = np.broadcast_to(np.arange(T)[:, None] != 1, (T, T))
    functions: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "constant": (lambda x: jnp.where(mask, x, -jnp.inf), [SCORES]),
        "input": (lambda x, seen: jnp.where(seen, x, -jnp.inf), [SCORES, mask]),
        "addend": (lambda x, seen: x + jnp.where(seen, 0, -jnp.inf), [SCORES, mask]),
    }
    change, arrays = functions[name]
    graph = qir.from_jax(lambda *inputs: jax.nn.softmax(change(*inputs), -1), *arrays)
    assert is_masked(graph)
    for (found,) in (qir.evaluate(graph, *arrays), qir.compile(graph)(*arrays)):
        np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(~mask, SCORES.shape))
    with pytest.raises(QirError, match=r"NaN.*\n.*test_masks(.|\n)*masked whole by -inf; keep"):
        qir.quantize(graph, [tuple(arrays)])


def test_an_infinite_input_is_refused_with_what_to_do() -> None:
    mask = np.where(LENGTHS, 0, -np.inf)[:, None].astype(np.float32)
    graph = qir.from_jax(lambda x, m: jax.nn.softmax(x + m, -1), SCORES, mask)
    with pytest.raises(QirError, match=r"input %m in batch 0.*2 infinite(.|\n)*take -1e9 instead"):
        qir.quantize(graph, [(SCORES, mask)])


@pytest.mark.parametrize("fill", [-1e3, -20.0])
def test_numbers_that_data_has_too_stay(fill: float) -> None:
    graph = agrees(lambda x: jax.nn.softmax(jnp.where(CAUSAL, x, fill), -1), SCORES, terms=12)
    assert not is_masked(graph)


def test_where_of_softmax() -> None:
    graph = agrees(lambda x: jax.nn.softmax(x, -1, where=CAUSAL), SCORES, terms=12)
    assert op_names(graph) == ["softmax"]
    assert is_masked(graph)


SOME = np.array([[True, False, True, True, False, True], [False] * T])[:, None]


def test_rows_that_where_of_softmax_drops_whole_are_zero() -> None:
    graph = agrees(lambda x, m: jax.nn.softmax(x, -1, where=m), SCORES, SOME, terms=12)
    assert is_masked(graph)
    assert not qir.evaluate(graph, SCORES, SOME)[0][1].any()


def kept_powers(x: Any, m: Any, total: Callable[[Any], Any]) -> Any:
    shown = jnp.where(m, x, -1e30)
    powers = jnp.where(m, jnp.exp(shown - shown.max(-1, keepdims=True)), 0)
    return powers / total(powers.sum(-1, keepdims=True))


TOTALS: dict[str, Callable[[Any], Any]] = {
    "maximum": lambda total: jnp.maximum(total, 1e-6),
    "clip": lambda total: jnp.clip(total, 1e-6, None),
    "epsilon": lambda total: total + 1e-9,
}


@pytest.mark.parametrize("name", TOTALS)
def test_kept_powers_over_a_bounded_sum_are_softmax(name: str) -> None:
    graph = agrees(lambda x, m: kept_powers(x, m, TOTALS[name]), SCORES, SOME, terms=12)
    assert is_masked(graph)
    assert op_names(graph) == ["softmax", "select"]


@pytest.mark.parametrize("bound", [1.5, 3.0])
def test_a_bound_that_sums_reach_is_no_softmax(bound: float) -> None:
    graph = agrees(
        lambda x, m: kept_powers(x, m, lambda total: jnp.maximum(total, bound)),
        SCORES,
        SOME,
        terms=12,
    )
    assert not softmaxes(graph)


def test_softmax_computed_twice_over_two_axes() -> None:
    graph = agrees(lambda x: jnp.exp(x) / jnp.exp(x).sum((1, 2), keepdims=True), SCORES, terms=40)
    assert op_names(graph) == ["softmax"]


HEADS = [uniform(2, T, 3, 8, seed=seed) for seed in range(3)]
ATTENTIONS: dict[str, Callable[..., Any]] = {
    "causal": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True),
    "mask": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=CAUSAL[None, None]),
    "window": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, local_window_size=(1, 1)),
    "lengths": lambda q, k, v: jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=jnp.array([4, 6])
    ),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_of_jax_keeps_its_accuracy(name: str) -> None:
    f = ATTENTIONS[name]
    assert is_masked(qir.from_jax(f, *HEADS))
    assert_as_without_a_mask(f, lambda q, k, v: jax.nn.dot_product_attention(q, k, v), HEADS)


def test_attention_of_flax_keeps_its_accuracy() -> None:
    x = uniform(2, T, 16)
    layer = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=16)
    weights = layer.init(jax.random.key(0), x, x)
    mask = nn.make_causal_mask(np.ones((1, T)))
    assert_as_without_a_mask(
        lambda a: layer.apply(weights, a, a, mask=mask),
        lambda a: layer.apply(weights, a, a),
        [x],
    )


def assert_as_without_a_mask(
    masked: Callable[..., Any], plain: Callable[..., Any], inputs: list[Array]
) -> None:
    """The noise of 8 bits is about the same with a mask: single draws scatter by 3 dB."""
    found = []
    for f in (masked, plain):
        graph = qir.from_jax(f, *inputs)
        integer = qir.quantize(graph, data=[tuple(inputs)])
        (wanted,), (got,) = qir.evaluate(graph, *inputs), qir.evaluate(integer, *inputs)
        found.append(10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()))
    assert found[0] > found[1] - 3
    assert found[0] > 30
