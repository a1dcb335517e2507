"""clip-scores: masks that are numbers like scores keep the range of the scores narrow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.ir import Graph
from qir.ops import Clip

CAUSAL = np.tril(np.ones((8, 8), bool))
SCORES = [np.random.default_rng(seed).normal(0, 2, (4, 8, 8)).astype("f") for seed in range(3)]


def masked(fill: float) -> Graph:
    def model(x: Any) -> Any:
        return jax.nn.softmax(jnp.where(CAUSAL, x, fill), -1)

    return qir.from_jax(model, SCORES[0])


def clips(graph: Graph) -> list[Clip]:
    return [node.op for node in graph.nodes if isinstance(node.op, Clip)]


@pytest.mark.parametrize("fill", [-100.0, -1000.0])
def test_scores_are_clipped_16_below_the_least_row_maximum(fill: float) -> None:
    graph = masked(fill)
    found = qir.optimize(graph, "clip-scores", data=SCORES)
    least = min(float(np.where(CAUSAL, x, fill).max(-1).min()) for x in SCORES)
    (clip,) = clips(found)
    assert clip.low == pytest.approx(least - 16, abs=1e-5)
    for x in SCORES:
        (wanted,), (got,) = qir.evaluate(graph, x), qir.evaluate(found, x)
        np.testing.assert_allclose(got, wanted, atol=8 * np.exp(-16))


def test_a_mask_of_minus_100_costs_nothing() -> None:
    figures = []
    for fill in (-100.0, -1e9):
        graph = masked(fill)
        integer = qir.quantize(graph, data=SCORES)
        (wanted,), (got,) = qir.evaluate(graph, SCORES[0]), qir.evaluate(integer, SCORES[0])
        figures.append(10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()))
    # The range reaches from 16 below to the greatest score, up to three times that of the scores.
    assert figures[0] > figures[1] - 20 * np.log10(3)
    assert figures[0] > 25


def test_what_is_no_mask_stays() -> None:
    assert not clips(qir.optimize(masked(-10.0), "clip-scores", data=SCORES))
    assert not clips(qir.optimize(masked(-100.0), "clip-scores"))
    context = qir.Context()
    once = qir.optimize(masked(-100.0), "clip-scores", data=iter(SCORES), context=context)
    assert not clips(once)
    assert "expected data that can be read twice" in context.diagnostics[0]
