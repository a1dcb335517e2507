"""Codes of values that are far larger at some positions than at others, and of queries and keys."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.numbers.interval import Interval
from qir.observe.channels import observe_channels
from qir.ops import Div, Dot, Mul
from qir.passes.shared.positions import spread
from qir.passes.shared.scores import is_two_sided
from qir.types import Affine, Array

LENGTH, WIDTH = 32, 16
OUTPUT = np.random.default_rng(1).normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)


def reals(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def quantized(function: Any, *shape: int) -> qir.Graph:
    samples = [reals(seed, *shape) for seed in range(4)]
    graph = qir.from_jax(function, samples[0])
    return qir.quantize(graph, samples, accuracy_check=False)


def averaged(x: jax.Array, seen: Array) -> jax.Array:
    """Attention whose scores are alike, so that each row is a mean of what it sees."""
    scores = jnp.where(seen, 0.01 * (x @ x.swapaxes(-1, -2)), -1e9)
    return jax.nn.softmax(scores, -1) @ x


def bits_of_quotient(graph: qir.Graph) -> int:
    (node,) = (node for node in graph.nodes if isinstance(node.op, Div))
    assert node.output.type.quant is not None
    return node.output.type.quant.storage.bits


@pytest.mark.parametrize(
    ("seen", "bits"), [(np.tri(LENGTH, dtype=bool), 16), (np.ones((LENGTH, LENGTH), bool), 8)]
)
def test_means_of_ever_more_rows_have_more_bits_where_a_product_reads_them(
    seen: Array, bits: int
) -> None:
    graph = quantized(lambda x: averaged(x, seen) @ OUTPUT, 2, LENGTH, WIDTH)
    assert bits_of_quotient(graph) == bits


def test_what_others_read_too_stays_in_eight_bits() -> None:
    def function(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        context = averaged(x, np.tri(LENGTH, dtype=bool))
        return context @ OUTPUT, jnp.tanh(context)

    assert bits_of_quotient(quantized(function, 2, LENGTH, WIDTH)) == 8


def test_the_spread_is_the_mean_of_the_decibels_below_the_whole() -> None:
    array = np.ones((2, 3, 4, 5), np.float32)
    array[:, :, 1:] = 0.1
    found = spread(observe_channels(array, (1, 2)))
    # A mean square of (1 + 3/100) / 4 beside one position at 0 dB and three at -20.
    assert found == pytest.approx(10 * np.log10(1.03 / 4) + 15, abs=1e-4)
    array[:, :, 1:] = 0
    assert spread(observe_channels(array, (1, 2))) == 0


def test_the_factors_of_scores_reach_as_far_to_either_side() -> None:
    graph = quantized(lambda x: averaged(x, np.ones((LENGTH, LENGTH), bool)), 2, LENGTH, WIDTH)
    products = [node for node in graph.nodes if isinstance(node.op, Dot)]
    code = products[0].inputs[0].type.quant
    assert isinstance(code, Affine)
    assert np.all(code.zero_points == 0)


@pytest.mark.parametrize(
    ("low", "high", "two_sided"),
    [(-3, 4, True), (-4, 3, True), (-2, 4, True), (-1, 4, False), (0, 4, False), (0, 0, False)],
)
def test_a_range_far_to_one_side_stays(low: float, high: float, two_sided: bool) -> None:
    assert is_two_sided(Interval.of(low, high)) is two_sided


def test_what_is_turned_is_not_rounded_to_eight_bits_before() -> None:
    angles = np.linspace(0, 3, LENGTH * WIDTH // 2).reshape(LENGTH, -1)
    cosine, sine = np.float32(np.cos(angles)), np.float32(np.sin(angles))

    def function(x: jax.Array) -> jax.Array:
        left, right = jnp.split((x @ OUTPUT).reshape(2, LENGTH, WIDTH), 2, -1)
        return left * cosine - right * sine

    graph = quantized(function, 2, LENGTH, WIDTH)
    operands = [x.type for node in graph.nodes if isinstance(node.op, Mul) for x in node.inputs]
    assert operands
    for type in operands:
        assert type.quant is not None
        assert type.quant.storage.bits == 16
