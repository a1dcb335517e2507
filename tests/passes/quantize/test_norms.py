"""Norms become integer ops with the accuracy of their result's code, whatever their operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qir.api import from_jax, quantize
from qir.backends.reference.interpreter import run
from qir.backends.xla.compile import compile_graph
from qir.ir import Graph
from qir.report.explain import explain
from qir.types import Array, DType

GAMMA = np.random.default_rng(7).uniform(0.5, 1.5, 8).astype(np.float32)

LEAST = 33.0
"""Decibels that an 8-bit code leaves of a normally distributed tensor whose greatest number is 5
standard deviations: steps of 10 / 255, noise of a step / sqrt(12), and one decibel of luck."""


def decibels(wanted: Array, found: Array) -> float:
    """The signal-to-noise ratio."""
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2)))


def quantized(function: Callable[[Any], Any], data: Sequence[Array]) -> tuple[Graph, Graph]:
    """Imports and quantizes a function."""
    graph = from_jax(function, data[0], batch="B")
    return graph, quantize(graph, data)


def ratio(function: Callable[[Any], Any], data: Sequence[Array], x: Array) -> float:
    """Returns the ratio at an input, where all ops are integer and XLA gives the reference's."""
    graph, integer = quantized(function, data)
    assert not explain(integer).floats
    (wanted,), (found,) = run(graph, x), run(integer, x)
    (computed,) = compile_graph(integer, kernels=False)(x)
    np.testing.assert_array_equal(computed, found)
    return decibels(wanted, found)


def layer(x: Any, axes: Any = -1) -> Any:
    """Layer norm."""
    mean, variance = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * GAMMA


def rms(x: Any) -> Any:
    """RMS norm."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def l2(x: Any) -> Any:
    """L2 norm."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))


@pytest.mark.parametrize("zeros", [1, 4])
@pytest.mark.parametrize("function", [layer, rms, l2])
def test_rows_of_zeros_change_nothing(function: Callable[[Any], Any], zeros: int) -> None:
    rng = np.random.default_rng(42)
    data = [rng.normal(0, 1, (16, 8)).astype(np.float32) for _ in range(4)]
    padded = [np.concatenate([batch, np.zeros((zeros, 8), np.float32)]) for batch in data]
    found = ratio(function, padded, data[0])
    assert found == ratio(function, data, data[0])
    assert found > LEAST


def test_channels_of_very_different_size() -> None:
    rng = np.random.default_rng(7)
    sizes = np.geomspace(0.01, 10, 8)
    data = [(rng.normal(0, 1, (4, 6, 6, 8)) * sizes).astype(np.float32) for _ in range(4)]

    def instance(x: Any) -> Any:
        return layer(x, (1, 2))

    assert ratio(instance, data, data[0]) > LEAST


def test_rows_of_very_different_size() -> None:
    rng = np.random.default_rng(39)
    sizes = np.exp(rng.uniform(-2.5, 2.5, (16, 1)))
    data = [(rng.normal(0, 1, (16, 8)) * sizes).astype(np.float32) for _ in range(4)]
    assert ratio(layer, data, data[0]) > LEAST


def test_gamma_stays_a_float_constant_and_the_operand_has_sixteen_bits() -> None:
    rng = np.random.default_rng(0)
    _, integer = quantized(layer, [rng.normal(0, 1, (16, 8)).astype(np.float32)])
    (norm,) = (node for node in integer.nodes if node.op.name == "layer_norm")
    x, gamma = norm.inputs
    assert x.type.dtype is DType.I16
    np.testing.assert_array_equal(gamma.array, GAMMA)


def test_the_operand_keeps_the_code_that_it_has() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.3, (8, 8)).astype(np.float32)
    data = [rng.normal(0, 1, (16, 8)).astype(np.float32) for _ in range(4)]
    _, integer = quantized(lambda x: layer(jax.nn.relu(x @ weights)), data)
    assert not explain(integer).floats
    (norm,) = (node for node in integer.nodes if node.op.name == "layer_norm")
    assert norm.inputs[0].op is not None
    assert norm.inputs[0].op.name == "requantize"


def test_gamma_that_is_computed_multiplies_behind() -> None:
    rng = np.random.default_rng(0)
    data = [rng.normal(0, 1, (16, 8)).astype(np.float32) for _ in range(4)]

    def gated(x: Any) -> Any:
        mean, variance = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * jax.nn.sigmoid(x)

    _, integer = quantized(gated, data)
    assert not explain(integer).floats


def test_sums_come_to_a_norm_as_they_are() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.3, (2, 8, 8)).astype(np.float32)
    sizes = np.exp(rng.uniform(-2.5, 2.5, (16, 1)))
    data = [(rng.normal(0, 1, (16, 8)) * sizes).astype(np.float32) for _ in range(4)]

    def block(x: Any) -> Any:
        return layer(x @ weights[0] + x) @ weights[1]

    graph, integer = quantized(block, data)
    (norm,) = (node for node in integer.nodes if node.op.name == "layer_norm")
    assert norm.inputs[0].type.dtype is DType.I32
    assert norm.inputs[0].op is not None
    assert norm.inputs[0].op.name == "add"
    (wanted,), (found,) = run(graph, data[0]), run(integer, data[0])
    (computed,) = compile_graph(integer, kernels=False)(data[0])
    np.testing.assert_array_equal(computed, found)
    # The least rows have what the operand of the first product has of them: e^-5 of 127 steps.
    assert decibels(wanted, found) > 10
