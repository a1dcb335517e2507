"""Logarithms of softmax, and softmax with a share that goes to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from tests.frontends.agreement import agrees, op_names, uniform

Function = Callable[[Any], Any]
X = uniform(6, 5, low=-8, high=8)
SOME = np.tril(np.ones((6, 5), bool))
DIFFERENCES = ["reduce_max", "sub", "exp", "reduce_sum", "log", "sub"]

PLAIN: dict[str, Function] = {
    "softmax": lambda x: jnp.log(jax.nn.softmax(x)),
    "over rows": lambda x: jnp.log(jax.nn.softmax(x, axis=0)),
    "over both": lambda x: jnp.log(jax.nn.softmax(x, axis=(0, 1))),
    "exponentials": lambda x: jnp.log(jnp.exp(x) / jnp.exp(x).sum(1, keepdims=True)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_logarithm_of_softmax_is_made_of_differences(name: str) -> None:
    assert op_names(agrees(PLAIN[name], X, terms=30)) == DIFFERENCES


GUARDED: dict[str, Function] = {
    "epsilon": lambda p: jnp.log(p + 1e-6),
    "bound": lambda p: jnp.log(jnp.maximum(p, 1e-6)),
    "clip": lambda p: jnp.log(jnp.clip(p, 1e-6, 1 - 1e-6)),
    "mixed with a uniform": lambda p: jnp.log(0.9 * p + 0.02),
}


@pytest.mark.parametrize("name", GUARDED)
def test_what_keeps_shares_from_0_is_computed_of_their_logarithms(name: str) -> None:
    guarded = GUARDED[name]
    graph = agrees(lambda x: guarded(jax.nn.softmax(x)), X, terms=30)
    names = op_names(graph)
    assert "softmax" not in names
    assert names[: len(DIFFERENCES)] == DIFFERENCES


@pytest.mark.parametrize("name", GUARDED)
def test_logarithms_keep_their_small_shares_on_codes(name: str) -> None:
    guarded = GUARDED[name]
    rng = np.random.default_rng(39)
    weights = rng.normal(0, 1, (32, 16)).astype(np.float32)
    data = rng.normal(0, 1, (256, 32)).astype(np.float32)
    graph = qir.from_jax(lambda x: guarded(jax.nn.softmax(x @ weights)), data, batch="B")
    (wanted,) = qir.evaluate(graph, data)
    (found,) = qir.evaluate(qir.quantize(graph, [data]), data)
    # Scores and differences are rounded to 255 steps of what they range over, with errors of
    # 0.29 steps each (a uniform one); functions of slope 1 and less add their own.
    scores = data @ weights
    step = float((scores.max(1) - scores.min(1)).max()) / 255
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 2 * step


def test_shares_that_are_read_themselves_stay_a_softmax() -> None:
    def entropy(x: Any) -> Any:
        shares = jax.nn.softmax(x)
        return -(shares * jnp.log(shares + 1e-9)).sum(-1)

    names = op_names(agrees(entropy, X, terms=30))
    assert names.count("softmax") == 1
    assert "log" in names


def test_a_logarithm_of_masked_shares_stays() -> None:
    def masked(x: Any) -> Any:
        return jnp.log(jax.nn.softmax(jnp.where(SOME, x, -1e9)) + 1e-6)

    assert op_names(agrees(masked, X, terms=30)) == ["softmax", "add", "log"]


def beside_one(x: Any) -> Any:
    """Softmax with 1 in its divisor."""
    powers = jnp.exp(x)
    return powers / (1 + powers.sum(-1, keepdims=True))


def shifted(x: Any) -> Any:
    """The same without powers that may overflow."""
    greatest = jnp.maximum(x.max(-1, keepdims=True), 0)
    powers = jnp.exp(x - greatest)
    return powers / (jnp.exp(-greatest) + powers.sum(-1, keepdims=True))


@pytest.mark.parametrize("function", [beside_one, shifted])
def test_softmax_beside_one_is_softmax_with_a_zero(function: Function) -> None:
    graph = agrees(function, X, terms=6, batch="B")
    assert op_names(graph) == ["pad", "softmax", "slice"]


def test_a_mask_stays_a_mask_beside_one() -> None:
    graph = agrees(lambda x: beside_one(jnp.where(SOME, x, -1e9)), X, terms=6)
    assert op_names(graph) == ["pad", "softmax", "slice"]
    (node,) = (node for node in graph.nodes if node.op.name == "softmax")
    assert len(node.inputs) == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.exp(x) / (2 + jnp.exp(x).sum(-1, keepdims=True)),
        lambda x: jnp.exp(x) / (1 + jnp.exp(2 * x).sum(-1, keepdims=True)),
        lambda x: jnp.exp(x - 1) / (jnp.exp(-x) + jnp.exp(x - 1).sum(-1, keepdims=True)),
    ],
)
def test_what_only_looks_like_softmax_beside_one_stays(function: Function) -> None:
    names = op_names(agrees(function, X / 4, terms=30))
    assert "softmax" not in names
