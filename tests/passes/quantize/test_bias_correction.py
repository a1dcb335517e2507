"""Biases take in what rounding the weights costs on average, as far as that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from qir.ops import Conv, ConvTranspose, Dot
from qir.passes.shared.bias_correction import added_within, lost_by_rounding
from qir.types import Array
from tests.models.accuracy import decibels

PLAIN = "calibrate, propagate-ranges, quantize(correct_bias=false), check-overflow"
CORRECTED = "calibrate, propagate-ranges, quantize, check-overflow"


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def parts_of(real: Array) -> Callable[[slice], Array]:
    """Returns what gives the numbers of some outputs."""
    return lambda part: real[..., part]


def test_a_dot_loses_the_errors_times_the_means():
    weights, rounded = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, 2.0], [3.0, 4.25]])
    lost = lost_by_rounding(Dot(), weights, parts_of(rounded), np.array([3.0, 8.0]), np.zeros(2))
    assert lost is not None
    assert np.array_equal(lost, [0.5 * 3, -0.25 * 8])


def test_a_product_without_outputs_or_terms_loses_nothing():
    for shape in ((4, 0), (0, 4)):
        weights = np.zeros(shape, np.float32)
        nothing = np.zeros(shape[0])
        assert lost_by_rounding(Dot(), weights, parts_of(weights), nothing, nothing) is None


def test_an_output_of_a_group_meets_the_channels_of_the_group():
    # Two groups of two channels and one output each; two taps.
    weights = np.arange(8, dtype=np.float64).reshape(2, 2, 2)
    means = np.array([1.0, 2.0, 4.0, 8.0])
    lost = lost_by_rounding(
        Conv(groups=2), weights, parts_of(np.zeros_like(weights)), means, np.zeros(4)
    )
    assert lost is not None
    assert np.array_equal(lost, [(0 + 4) * 1 + (2 + 6) * 2, (1 + 5) * 4 + (3 + 7) * 8])


def test_zeros_between_the_numbers_of_a_transpose_count_as_zeros():
    weights = np.ones((2, 2, 1, 1))
    op = ConvTranspose(strides=(2, 4))
    lost = lost_by_rounding(
        op, weights, parts_of(np.zeros_like(weights)), np.array([6.0]), np.zeros(1)
    )
    assert lost is not None
    assert np.array_equal(lost, [4 * 6 / 8])


@pytest.mark.parametrize(("mean", "helps"), [(0.3, False), (0.4, True)])
def test_a_mean_that_is_small_beside_the_spread_is_left(mean, helps):
    # 0.3^2 and 0.4^2 lie on both sides of a tenth of the variance.
    one = np.ones((1, 1))
    lost = lost_by_rounding(Dot(), one, parts_of(0 * one), np.array([mean]), np.ones(1))
    assert (lost is not None) == helps


def test_batches_of_products_have_no_bias_of_their_own():
    one = np.ones((2, 1, 1))
    assert lost_by_rounding(Dot(batch=1), one, parts_of(0 * one), np.ones(1), np.zeros(1)) is None


def test_a_bias_leaves_the_products_their_room_but_keeps_what_it_had():
    correction, bias = np.array([5.0, 5.0, -5.0]), np.array([1.0, 20.0, -4.0])
    assert np.array_equal(added_within(correction, bias, np.full(1, 8.0)), [6, 20, -8])
    assert np.array_equal(added_within(correction, None, np.full(1, 4.0)), [4, 4, -4])


def error_means(function: Any, data: Array) -> tuple[Array, Array]:
    """The mean error of each output channel, without and with correction, over the data."""
    graph = qir.from_jax(function, data)
    exact = np.asarray(function(data)).astype(np.float64)
    plain, corrected = (
        qir.evaluate(qir.quantize(graph, [data], pipeline, accuracy_check=False), data)[0]
        for pipeline in (PLAIN, CORRECTED)
    )
    axes = tuple(range(exact.ndim - 1))
    return (plain - exact).mean(axis=axes), (corrected - exact).mean(axis=axes)


@pytest.mark.parametrize("bias", [None, draw(6, seed=3)])
def test_outputs_of_data_with_a_mean_are_right_on_average(bias):
    weights = draw(64, 6)

    def function(x):
        y = jnp.maximum(x, 0) @ weights
        return y if bias is None else y + bias

    x = draw(512, 64, seed=1) + 1
    _, corrected = error_means(function, x)
    # The rest: x in steps of a 255th of its range, an error of variance s^2 / 12 for each number,
    # of which 512 are averaged, and half a unit of the bias, s times a step of the weights.
    step = float(np.maximum(x, 0).max()) / 255
    rounding = step * np.sqrt(np.square(weights).sum(axis=0) / 12 / len(x))
    unit = step * np.abs(weights).max(axis=0) / 127
    assert np.all(np.abs(corrected) <= 5 * rounding + unit / 2)


def test_a_depthwise_convolution_without_a_bias_gets_one():
    weights = draw(3, 3, 1, 8)

    def function(x):
        y = jnp.maximum(x, 0)
        return lax.conv_general_dilated(
            y, jnp.asarray(weights), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=8,
        )  # fmt: skip

    x = draw(64, 5, 6, 8, seed=2) + 1
    graph = qir.from_jax(function, x)
    integer = qir.quantize(graph, [x], CORRECTED)
    (conv,) = (node for node in integer.nodes if isinstance(node.op, Conv))
    bias = conv.inputs[2]
    assert bias.type.shape == (8,)
    code = conv.inputs[1].type.quant
    assert code is not None
    errors = (weights - conv.inputs[1].real).astype(np.float64).sum(axis=(0, 1, 2))
    wanted = errors * np.maximum(x, 0).astype(np.float64).mean(axis=(0, 1, 2))
    assert bias.type.quant is not None
    # All places are seen, so that what is left is the rounding of the bias and of the means.
    unit = bias.type.quant.scale.array.astype(np.float64)
    assert np.all(np.abs(bias.real - wanted) <= unit * 0.51)
    (found,) = qir.compile(integer)(x)
    assert np.array_equal(np.asarray(found), qir.evaluate(integer, x)[0])


def test_parts_of_a_split_product_are_corrected_too():
    large, small = draw(256, 16, seed=1) * 5 + 50, draw(256, 64, seed=2) * 0.05 + 0.5
    weights = np.concatenate([draw(16, 8) * 0.01, draw(64, 8)])

    def function(a, b):
        return jnp.concatenate([a, b], axis=1) @ weights

    graph = qir.from_jax(function, large, small)
    exact = np.asarray(function(large, small))
    ratios = []
    for quantize in ("quantize(correct_bias=false)", "quantize"):
        recipe = f"calibrate, split-concats, propagate-ranges, {quantize}, check-overflow"
        integer = qir.quantize(graph, [(large, small)], recipe)
        assert sum(isinstance(node.op, Dot) for node in integer.nodes) == 2
        (found,) = qir.evaluate(integer, large, small)
        ratios.append(decibels(exact.reshape(-1), found.reshape(-1)))
    # The means are ten times the spread, so that nearly all that the weights lose is their mean.
    assert ratios[1] > ratios[0] + 6


def test_a_bias_that_fills_the_accumulator_does_not_overflow_by_its_correction():
    # Weights that all round to 0 in units that a large bias asks for.
    weights = np.full((512, 2), 1e-9, np.float32)
    bias = np.array([1000.0, -1000.0], np.float32)
    x = np.abs(draw(8, 512)) + 1
    integer = qir.quantize(qir.from_jax(lambda x: x @ weights + bias, x), [x], CORRECTED)
    exact = np.broadcast_to(bias, (8, 2))
    np.testing.assert_allclose(qir.evaluate(integer, x)[0], exact, rtol=2**-7)
