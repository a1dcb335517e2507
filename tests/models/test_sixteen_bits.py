"""Networks of 16-bit activations: XLA gives the reference's integers, near the float network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from qir.backends.xla.compile import compile_graph
from qir.types import Array, DType
from tests.models.transformers import attend, layer_norm


class Network(NamedTuple):
    """A network of weights drawn by a seed, and samples of what it takes."""

    function: Callable[[jax.Array], jax.Array]
    samples: list[Array]


def drawn(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)


def inputs(rng: np.random.Generator, *shape: int) -> list[Array]:
    return [rng.normal(0, 1, shape).astype(np.float32) for _ in range(4)]


def perceptron() -> Network:
    rng = np.random.default_rng(1)
    first, second, third = drawn(rng, 32, 64), drawn(rng, 64, 64), drawn(rng, 64, 10)
    bias = drawn(rng, 64)

    def function(x: jax.Array) -> jax.Array:
        y = jax.nn.gelu(x @ first + bias)
        return jax.nn.relu(y @ second + bias) @ third

    return Network(function, inputs(rng, 8, 32))


def convolutional() -> Network:
    rng = np.random.default_rng(2)
    stem, block, depthwise = drawn(rng, 3, 3, 3, 8), drawn(rng, 3, 3, 8, 8), drawn(rng, 3, 3, 1, 8)
    head = drawn(rng, 8, 5)

    def conv(x: jax.Array, kernel: Array, groups: int = 1) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            jnp.asarray(kernel),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def pooled(x: jax.Array, start: float, combine: Callable[..., jax.Array]) -> jax.Array:
        windows = (1, 2, 2, 1)
        found: jax.Array = lax.reduce_window(x, start, combine, windows, windows, "VALID")
        return found

    def function(x: jax.Array) -> jax.Array:
        y = jax.nn.relu(conv(x, stem))
        y = y + jax.nn.silu(conv(y, block))
        y = pooled(y, -jnp.inf, lax.max)
        y = pooled(jax.nn.relu(conv(y, depthwise, 8)), 0.0, lax.add) / 4
        return jnp.mean(y, axis=(1, 2)) @ head

    return Network(function, inputs(rng, 2, 8, 8, 3))


def transformer() -> Network:
    rng = np.random.default_rng(3)
    width, heads = 32, 4
    query, key, value, out = (drawn(rng, width, width) for _ in range(4))
    up, down = drawn(rng, width, 64), drawn(rng, 64, width)
    gamma, beta = 1 + drawn(rng, 1, width)[0], drawn(rng, 1, width)[0]

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], heads, width // heads).transpose(0, 2, 1, 3)

    def function(x: jax.Array) -> jax.Array:
        y = layer_norm(x, gamma, beta)
        mixed = attend(split(y @ query), split(y @ key), split(y @ value))
        x = x + mixed @ out
        gated = jax.nn.gelu(layer_norm(x, gamma, beta) @ up)
        return x + gated @ down

    return Network(function, inputs(rng, 2, 6, width))


NETWORKS = [perceptron, convolutional, transformer]


def sqnr(wanted: Array, found: Array) -> float:
    """The ratio of signal to error in dB."""
    noise = np.square(wanted.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / noise))


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_networks_of_16_bits_are_exact_and_near_float(
    build: Callable[[], Network],
) -> None:
    function, samples = build()
    graph = qir.from_jax(function, samples[0])
    wanted = np.asarray(function(jnp.asarray(samples[0])))
    ratios = {}
    for pipeline in ("w8a8", "w8a16", "w16a16"):
        integer = qir.quantize(graph, samples, pipeline)
        assert not qir.explain(integer).floats, qir.explain(integer)
        (expected,) = qir.evaluate(integer, samples[0])
        assert np.array_equal(compile_graph(integer)(samples[0])[0], expected), pipeline
        ratios[pipeline] = sqnr(wanted, expected)
    assert ratios["w8a16"] > ratios["w8a8"] + 3, ratios
    assert ratios["w16a16"] >= 60, ratios


def test_weights_and_activations_have_16_bits() -> None:
    function, samples = perceptron()
    integer = qir.quantize(qir.from_jax(function, samples[0]), samples, "w16a16")
    dots = [node for node in integer.nodes if node.op.name == "dot"]
    assert [[value.type.dtype for value in node.inputs[:2]] for node in dots] == [
        [DType.I16, DType.I16]
    ] * 3
    assert {node.output.type.dtype for node in dots} == {DType.I64}
    assert all(value.type.dtype is DType.I64 for node in dots for value in node.inputs[2:])
    tables = [node.inputs[1].type for node in integer.nodes if node.op.name == "lookup"]
    assert [table.shape for table in tables] == [(2**16,)]
