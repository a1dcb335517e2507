"""Recurrent models by the default pipeline: integers inside of loops, and how near they are."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from tests.models.accuracy import LEAST, Figures, decibels, measure, wide_products
from tests.models.recurrent import HIDDEN, RECURRENT, TIME, WIDTH, sequences
from tests.models.transformers import Network

FAST = ("linen OptimizedLSTMCell", "linen GRUCell", "equinox GRUCell")

BATCHES = range(1, 33)
"""What models are calibrated on. Fewer batches, of two sequences each, leave others that reach
beyond their ranges, where what is added up layer by layer is cut off: 23 dB instead of 33."""

RECURRENT_MODELS = [
    name for name in RECURRENT if name not in ("keras masked", "greedy decoder", "solver")
]


def measured(network: Network) -> Figures:
    samples = [network.inputs(seed) for seed in BATCHES]
    return measure(network.function, samples, network.inputs(100))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in RECURRENT_MODELS
    ],
)
def test_a_recurrent_model_is_integer_inside_of_its_loops(name: str) -> None:
    figures = measured(RECURRENT[name]())
    assert not figures.floats
    assert not wide_products(figures.graph)
    assert figures.differing == 0
    assert figures.decibels >= LEAST, str(figures)


def lstm(x: jax.Array, rolled: bool) -> jax.Array:
    rng = np.random.default_rng(0)
    into, again = (
        np.asarray(rng.normal(size=(size, 4 * HIDDEN)) / size**0.5, np.float32)
        for size in (WIDTH, HIDDEN)
    )

    def step(state: Any, row: jax.Array) -> tuple[Any, jax.Array]:
        c, h = state
        i, f, g, o = jnp.split(row @ into + h @ again, 4, axis=-1)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h

    state = (jnp.zeros((x.shape[0], HIDDEN)),) * 2
    rows = x.swapaxes(0, 1)
    if rolled:
        stacked: jax.Array = lax.scan(step, state, rows)[1]
        return stacked
    found = []
    for row in rows:
        state, h = step(state, row)
        found.append(h)
    return jnp.stack(found)


@pytest.mark.slow
def test_an_lstm_in_a_scan_is_as_near_as_its_trips_one_by_one() -> None:
    rolled, unrolled = (
        measured(Network(lambda x, rolled=rolled: lstm(x, rolled), sequences))
        for rolled in (True, False)
    )
    assert any(node.op.name == "scan" for node in rolled.graph.nodes)
    assert sum(node.op.name == "dot" for node in unrolled.graph.nodes) > TIME
    assert rolled.decibels >= unrolled.decibels - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pipeline", "least"), [("w8", 35), ("w8-dynamic", 35), ("w8a16", 35), ("w16a16", 60)]
)
def test_other_pipelines_reach_into_loops(pipeline: str, least: float) -> None:
    network = RECURRENT["linen GRUCell"]()
    x = network.inputs(20)
    graph = qir.from_jax(network.function, *x)
    samples = [network.inputs(seed) for seed in range(1, 9)]
    made = qir.quantize(graph, samples, pipeline=pipeline, accuracy_check=False)
    wanted, found = (np.asarray(qir.evaluate(each, *x)[0], np.float64) for each in (graph, made))
    noise = np.square(wanted - found).mean()
    assert 10 * np.log10(np.square(wanted).mean() / noise) >= least


@pytest.mark.slow
def test_a_decoder_mostly_chooses_the_tokens_that_floats_choose() -> None:
    """Tokens are fed back, so that one choice between near scores decides all that follow.

    What decibels a whole batch keeps says nothing then; states stay near where tokens agree.
    """
    network = RECURRENT["greedy decoder"]()
    graph = qir.from_jax(network.function, *network.inputs(0))
    samples = [network.inputs(seed) for seed in BATCHES]
    integer = qir.quantize(graph, samples, accuracy_check=False)
    assert not qir.explain(integer).floats
    rows: list[float] = []
    for seed in range(100, 140):
        inputs = network.inputs(seed)
        wanted, found = (np.asarray(qir.evaluate(each, *inputs)[0]) for each in (graph, integer))
        rows += decibels(wanted, found).tolist()
    assert np.mean(np.array(rows) >= 20) >= 0.75
