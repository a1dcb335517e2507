"""Attention and softmax over long rows, and attention under masks, however they are written."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import qir
from qir.types import Array
from tests.models.accuracy import Figures, measure
from tests.models.transformers import padding, reals

LEAST = 25.0
LEAST_OF_ROWS = 20.0
"""Decibels of long rows, whole and by the 5th percentile of rows."""

LEAST_OF_LOGARITHMS = 28.0

SIZES = {"flat": 0.1, "peaked": 4.0}
"""Standard deviation of scores: all of a row alike, or a few that carry it."""

DEVIATIONS = (0.1, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Those of long rows: from flat to peaked, where neither many nor few carry a row too."""

FAST_ROWS = ((1024, 0.1), (1024, 2.0), (1024, 4.0))
"""Rows that every run of the tests takes."""


@pytest.mark.parametrize(
    ("length", "deviation"),
    [
        pytest.param(length, size, marks=() if (length, size) in FAST_ROWS else pytest.mark.slow)
        for length in (1024, 4096)
        for size in DEVIATIONS
    ],
)
def test_attention_over_long_rows(length, deviation):
    width = 32
    spread = np.float32(deviation**0.5)

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = q @ k.swapaxes(-1, -2) / width**0.5
        return jax.nn.softmax(scores, -1) @ v

    def inputs(seed: int) -> tuple[Array, ...]:
        q, k, v = (reals(3 * seed + part, 2, length, width) for part in range(3))
        return q[:, :64] * spread, k * spread, v

    found = measure(attention, [inputs(seed) for seed in range(1, 5)], inputs(0))
    assert_close(found, LEAST, LEAST_OF_ROWS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", [1000, 10000])
def test_softmax_over_many_classes(classes, size):
    def inputs(seed: int) -> tuple[Array, ...]:
        return (reals(seed, 32, classes) * np.float32(SIZES[size]),)

    def softmax(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x, -1)

    found = measure(softmax, [inputs(seed) for seed in range(1, 5)], inputs(0))
    assert_close(found, LEAST, LEAST_OF_ROWS)
    assert_argmax_kept(found)


@pytest.mark.parametrize("classes", [10, 1000])
def test_log_softmax_keeps_its_bits(classes):
    def inputs(seed: int) -> tuple[Array, ...]:
        return (reals(seed, 32, classes) * np.float32(3),)

    def log_softmax(x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(x, -1)

    found = measure(log_softmax, [inputs(seed) for seed in range(1, 5)], inputs(0))
    assert_close(found, LEAST_OF_LOGARITHMS, LEAST_OF_LOGARITHMS)


def assert_close(found: Figures, least: float, least_of_rows: float) -> None:
    assert found.differing == 0, str(found)
    assert found.decibels >= least, str(found)
    assert found.rows >= least_of_rows, str(found)


def assert_argmax_kept(found: Figures) -> None:
    """The class that float gives is among those that share the greatest stored number.

    Classes nearer to one another than a step of the logits' code, of 8 bits, can't be told apart;
    nothing may come out greater than the right one.
    """
    wanted, computed = found.wanted[0], found.found[0]
    right = np.take_along_axis(computed, wanted.argmax(-1)[:, None], -1)[:, 0]
    np.testing.assert_array_equal(right, computed.max(-1))


SLOW = pytest.mark.slow
BATCH, LENGTH, WIDTH, HEADS = 2, 32, 64, 4

HIDDEN = {
    "-1e4": -1e4,
    "-1e9": -1e9,
    "finfo.min": float(np.finfo(np.float32).min),
    "-inf": -np.inf,
}


def kept(mask: jax.Array | None) -> jax.Array:
    """What may be seen: with an input that of the sequence, else all that comes before."""
    causal = jnp.asarray(np.tri(LENGTH, dtype=bool))[None, None]
    return causal if mask is None else (mask == 1)[:, None, None, :]


def by_where(scores: jax.Array, seen: jax.Array, hidden: float) -> jax.Array:
    return jnp.where(seen, scores, hidden)


def by_adding(scores: jax.Array, seen: jax.Array, hidden: float) -> jax.Array:
    return scores + jnp.where(seen, 0.0, hidden)


def by_multiplying(scores: jax.Array, seen: jax.Array, hidden: float) -> jax.Array:
    return scores + (1.0 - seen.astype(jnp.float32)) * hidden


Spelling = Callable[[jax.Array, jax.Array, float], jax.Array]
SPELLINGS: dict[str, Spelling] = {
    "where": by_where,
    "add": by_adding,
    "multiply": by_multiplying,
}
MATRICES = np.random.default_rng(0).normal(0, WIDTH**-0.5, (4, WIDTH, WIDTH)).astype(np.float32)


def attention(
    x: jax.Array, change: Callable[[jax.Array], jax.Array] = lambda scores: scores
) -> jax.Array:
    query, key, value, output = MATRICES
    q, k, v = (
        (x @ matrix).reshape(BATCH, LENGTH, HEADS, -1).swapaxes(1, 2)
        for matrix in (query, key, value)
    )
    scores = change(q @ k.swapaxes(-1, -2) / (WIDTH // HEADS) ** 0.5)
    context = (jax.nn.softmax(scores, -1) @ v).swapaxes(1, 2)
    return jnp.matmul(context.reshape(BATCH, LENGTH, WIDTH), output)


def batch(seed: int, masked: bool) -> tuple[Array, ...]:
    x = reals(seed, BATCH, LENGTH, WIDTH)
    return (x, padding(seed, BATCH, LENGTH)) if masked else (x,)


def quantized(function: Callable[..., Any], masked: bool) -> Figures:
    return measure(function, [batch(seed, masked) for seed in range(1, 9)], batch(0, masked))


@cache
def without_mask() -> Figures:
    return quantized(attention, masked=False)


def assert_as_good_as_without(masked: Figures, plain: Figures) -> None:
    """A mask costs at most 1 dB."""
    assert masked.differing == 0, str(masked)
    assert masked.decibels >= plain.decibels - 1, (str(masked), str(plain))


MASKS = [
    (source, spelling, hidden)
    for source, spelling, hidden in product(("constant", "input"), SPELLINGS, HIDDEN)
    if (spelling, hidden) != ("multiply", "-inf")  # 0 * -inf is no number in float either
]
FAST = (
    ("constant", "where", "-inf"),
    ("constant", "add", "-1e4"),
    ("input", "where", "finfo.min"),
    ("input", "multiply", "-1e9"),
)
"""Masks that every run of the tests takes."""


@pytest.mark.parametrize(
    ("source", "spelling", "hidden"),
    [mask if mask in FAST else pytest.param(*mask, marks=pytest.mark.slow) for mask in MASKS],
)
def test_a_mask_costs_no_accuracy(source, spelling, hidden):
    change, number = SPELLINGS[spelling], HIDDEN[hidden]

    def masked(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return attention(x, lambda scores: change(scores, kept(mask), number))

    assert_as_good_as_without(quantized(masked, masked=source == "input"), without_mask())


@pytest.mark.parametrize(
    "fill", [pytest.param(-20.0, marks=SLOW), -100.0, pytest.param(-9e3, marks=SLOW)]
)
@pytest.mark.parametrize("spelling", ["where", "add"])
def test_a_fill_that_scores_could_have_costs_no_accuracy(spelling, fill):
    change = SPELLINGS[spelling]

    def masked(x: jax.Array, mask: jax.Array) -> jax.Array:
        return attention(x, lambda scores: change(scores, kept(mask), fill))

    assert_as_good_as_without(quantized(masked, masked=True), without_mask())


def test_graph_attention_over_an_adjacency_costs_no_accuracy():
    """Scores of pairs are sums of two numbers, leaky below 0, and hidden where no edge is."""
    generator = np.random.default_rng(5)
    edges = generator.random((LENGTH, LENGTH)) < 0.2
    np.fill_diagonal(edges, val=True)
    source, target = generator.normal(0, 0.3, (2, WIDTH)).astype(np.float32)

    def layer(x: jax.Array, seen: Any) -> jax.Array:
        h = jnp.matmul(x, MATRICES[0])
        scores = (h @ target)[:, :, None] + (h @ source)[:, None, :]
        scores = jnp.where(seen, jax.nn.leaky_relu(scores, 0.2), -1e9)
        return jax.nn.softmax(scores, -1) @ h

    plain = quantized(lambda x: layer(x, np.ones_like(edges)), masked=False)
    assert_as_good_as_without(quantized(lambda x: layer(x, edges), masked=False), plain)


def linen_attention() -> Callable[..., Any]:
    module = linen.MultiHeadDotProductAttention(HEADS)
    x = jnp.zeros((BATCH, LENGTH, WIDTH))
    variables = module.init(jax.random.key(0), x, x)
    return lambda x, mask: module.apply(variables, x, x, mask=mask)


def nnx_attention() -> Callable[..., Any]:
    module = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=nnx.Rngs(0))
    return lambda x, mask: module(x, mask=mask)


def keras_attention() -> Callable[..., Any]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras: Any = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layer = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
    layer.build((BATCH, LENGTH, WIDTH), (BATCH, LENGTH, WIDTH))
    values = [variable.value for variable in layer.trainable_variables]

    def function(x: jax.Array, mask: jax.Array | None) -> Any:
        seen = None if mask is None else jnp.broadcast_to(mask, (BATCH, 1, LENGTH, LENGTH))[:, 0]
        return layer.stateless_call(values, [], x, x, attention_mask=seen)[0]

    return function


def equinox_attention() -> Callable[..., Any]:
    equinox: Any = pytest.importorskip("equinox")
    module = equinox.nn.MultiheadAttention(HEADS, WIDTH, key=jax.random.key(0))

    def one(x: jax.Array, mask: jax.Array | None) -> Any:
        return module(x, x, x, mask=mask)

    def function(x: jax.Array, mask: jax.Array | None) -> Any:
        if mask is None:
            return jax.vmap(lambda row: one(row, None))(x)
        return jax.vmap(one)(x, jnp.broadcast_to(mask, (BATCH, 1, LENGTH, LENGTH))[:, 0])

    return function


def jax_attention() -> Callable[..., Any]:
    """`jax.nn.dot_product_attention`, of which [B, T, heads, width] is the form."""

    def function(x: jax.Array, mask: jax.Array | None) -> jax.Array:
        q, k, v = ((x @ matrix).reshape(BATCH, LENGTH, HEADS, -1) for matrix in MATRICES[:3])
        context = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return jnp.matmul(context.reshape(x.shape), MATRICES[3])

    return function


LIBRARIES = {
    "jax": jax_attention,
    "linen": linen_attention,
    "nnx": nnx_attention,
    "keras": keras_attention,
    "equinox": equinox_attention,
}


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("source", ["constant", "input"])
def test_the_mask_of_a_library_costs_no_accuracy(source, library):
    function = LIBRARIES[library]()

    def masked(x: jax.Array, mask: jax.Array | None = None) -> Any:
        return function(x, kept(mask))

    plain = quantized(lambda x: function(x, None), masked=False)
    assert_as_good_as_without(quantized(masked, masked=source == "input"), plain)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["is_causal", "bias", "key_value_seq_lengths", "window"])
def test_an_option_of_dot_product_attention_costs_no_accuracy(option):
    def called(x: jax.Array, **options: Any) -> jax.Array:
        q, k, v = ((x @ matrix).reshape(BATCH, LENGTH, HEADS, -1) for matrix in MATRICES[:3])
        context = jax.nn.dot_product_attention(q, k, v, **options)
        return jnp.matmul(context.reshape(x.shape), MATRICES[3])

    options: dict[str, dict[str, Any]] = {
        "is_causal": {"is_causal": True},
        "bias": {"bias": jnp.where(np.tri(LENGTH, dtype=bool), 0.0, -1e9)[None, None]},
        "key_value_seq_lengths": {"key_value_seq_lengths": jnp.asarray([20, 9], jnp.int32)},
        "window": {"local_window_size": (4, 4)},
    }
    plain = quantized(called, masked=False)
    masked = quantized(lambda x: called(x, **options[option]), masked=False)
    assert_as_good_as_without(masked, plain)


@pytest.mark.parametrize(
    ("spelling", "hidden"),
    [
        ("where", "finfo.min"),
        ("add", "-1e4"),
        pytest.param("where", "-1e4", marks=pytest.mark.slow),
        pytest.param("where", "-1e9", marks=pytest.mark.slow),
        pytest.param("add", "-1e9", marks=pytest.mark.slow),
        pytest.param("add", "finfo.min", marks=pytest.mark.slow),
    ],
)
def test_a_row_masked_whole_gives_what_float_gives(spelling, hidden):
    """By where, and by adding what swallows them, all scores are alike: the values' mean.

    -1e4 added keeps the differences of the scores, and float gives what no mask would give.
    """
    change, number = SPELLINGS[spelling], HIDDEN[hidden]

    def masked(x: jax.Array, mask: jax.Array) -> jax.Array:
        seen = jnp.logical_and(kept(mask), (mask == 1)[:, None, :, None])
        return attention(x, lambda scores: change(scores, seen, number))

    found = quantized(masked, masked=True)
    hidden_rows = batch(0, masked=True)[1] == 0
    assert hidden_rows.any()
    wanted, computed = found.wanted[0], found.found[0]
    assert_as_good_as_without(found, without_mask())
    noise = np.square(wanted - computed)[hidden_rows].mean()
    # What averages all values is small; its noise is that of the codes, as in every other row.
    assert noise <= 2 * np.square(wanted - computed)[~hidden_rows].mean() + 1e-12


def test_a_row_masked_whole_by_infinity_is_an_error_as_float_gives_no_number():
    """The error speaks of the row or of what it became, not of the mask's constant."""

    def masked(x: jax.Array, mask: jax.Array) -> jax.Array:
        seen = jnp.logical_and(kept(mask), (mask == 1)[:, None, :, None])
        return attention(x, lambda scores: by_where(scores, seen, -np.inf))

    graph = qir.from_jax(masked, *batch(0, masked=True))
    with pytest.raises(qir.QirError, match=r"masked|NaN"):
        qir.quantize(graph, [batch(seed, masked=True) for seed in range(1, 9)])
