"""Norms are raised from every spelling, with the numbers of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qir.api import from_jax
from qir.backends.reference.interpreter import run
from qir.ir import Node
from qir.ops.normalization import Normalization
from tests.frontends.agreement import agrees, op_names, uniform

Function = Callable[[Any], Any]
ROWS = uniform(2, 6, 8)
IMAGES = uniform(2, 4, 4, 8, seed=1)
GAMMA, BETA = uniform(8, seed=2, low=0.5), uniform(8, seed=3)


def mean(x: Any, axes: Any = -1) -> Any:
    """The mean, whose axes stay."""
    return jnp.mean(x, axes, keepdims=True)


def var(x: Any, axes: Any = -1, **options: Any) -> Any:
    """The variance, whose axes stay."""
    return jnp.var(x, axes, keepdims=True, **options)


def as_keras(x: Any) -> Any:
    """X times a factor, plus an offset."""
    inverse = jax.lax.rsqrt(var(x) + 1e-3) * GAMMA
    return x * inverse + (BETA - mean(x) * inverse)


def of_squares(x: Any) -> Any:
    """The variance as a difference of two means, held to 0."""
    variance = jnp.maximum(0.0, mean(x * x) - mean(x) ** 2)
    return (x - mean(x)) * (jax.lax.rsqrt(variance + 1e-5) * GAMMA) + BETA


def groups(x: Any) -> Any:
    """Groups as an axis of their own."""
    y = x.reshape(*x.shape[:-1], 4, 2)
    y = (y - mean(y, (1, 2, 4))) / jnp.sqrt(var(y, (1, 2, 4)) + 1e-5)
    return y.reshape(x.shape) * GAMMA + BETA


def in_float32(x: Any) -> Any:
    """A norm of 16-bit floats that is computed in 32 bits."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(mean(wide**2) + 1e-6)).astype(x.dtype) * GAMMA.astype(x.dtype)


def of_module(module: Any, x: Any) -> Function:
    """A linen module as a function, whose variables are not at their initial values."""
    variables = module.init(jax.random.key(0), x)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda array: array + rng.uniform(-0.3, 0.3, array.shape).astype(np.float32), variables
    )
    return lambda y: module.apply(moved, y)


LAYER: dict[str, Function] = {
    "rsqrt": lambda x: (x - mean(x)) * jax.lax.rsqrt(var(x) + 1e-5) * GAMMA + BETA,
    "sqrt": lambda x: (x - mean(x)) / jnp.sqrt(var(x) + 1e-5) * GAMMA + BETA,
    "power": lambda x: GAMMA * (x - mean(x)) * (mean((x - mean(x)) ** 2) + 1e-5) ** -0.5,
    "keras": as_keras,
    "squares": of_squares,
    "difference": lambda x: (x - mean(x)) / jnp.sqrt(mean(x * x) - mean(x) ** 2 + 1e-6),
    "difference, axes dropped": lambda x: (
        (x - x.mean(-1)[..., None]) * ((x * x).mean(-1) - x.mean(-1) ** 2 + 1e-6)[..., None] ** -0.5
    ),
    "difference of sums": lambda x: (
        (x - x.sum(-1, keepdims=True) / 8)
        * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) / 8 - (x.sum(-1, keepdims=True) / 8) ** 2)
    ),
    "epsilon behind the root": lambda x: (x - mean(x)) / (jnp.sqrt(var(x)) + 0.1) * GAMMA + BETA,
    "bound of the deviation": lambda x: (
        (x - mean(x)) / jnp.maximum(jnp.std(x, -1)[..., None], 1e-3)
    ),
    "bound of the variance": lambda x: (x - mean(x)) * jnp.maximum(var(x), 1e-5) ** -0.5,
    "unbiased deviation": lambda x: (
        GAMMA * (x - mean(x)) / (jnp.std(x, -1, ddof=1, keepdims=True) + 1e-6) + BETA
    ),
    "unbiased": lambda x: (x - mean(x)) / jnp.sqrt(var(x, ddof=1) + 1e-5),
    "beta alone": lambda x: (x - mean(x)) / jnp.sqrt(var(x) + 1e-5) + BETA,
    "standardize": lambda x: jax.nn.standardize(x, axis=-1),
    "two axes": lambda x: (x - mean(x, (1, 2))) / jnp.sqrt(var(x, (1, 2)) + 1e-5) * GAMMA,
    "linen": of_module(nn.LayerNorm(), ROWS),
    "linen without scale": of_module(nn.LayerNorm(use_scale=False), ROWS),
    "nnx": nnx.LayerNorm(8, rngs=nnx.Rngs(0)),
    "gamma of another axis": lambda x: (x - mean(x)) / jnp.sqrt(var(x) + 1e-5) * GAMMA[:6, None],
}


@pytest.mark.parametrize("name", LAYER)
def test_layer_norm(name: str) -> None:
    assert op_names(agrees(LAYER[name], ROWS, batch="B", terms=32)) == ["layer_norm"]


OTHERS: dict[str, tuple[str, Function, Any]] = {
    "rms": ("rms_norm", lambda x: x * jax.lax.rsqrt(mean(x**2) + 1e-6) * (1 + BETA), ROWS),
    "rms linen": ("rms_norm", of_module(nn.RMSNorm(), ROWS), ROWS),
    "rms nnx": ("rms_norm", nnx.RMSNorm(8, rngs=nnx.Rngs(0)), ROWS),
    "l2": ("l2_norm", lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), ROWS),
    "l2 eps": ("l2_norm", lambda x: x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6), ROWS),
    "l2 max": (
        "l2_norm",
        lambda x: x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12)),
        ROWS,
    ),
    "l2 max of norm": (
        "l2_norm",
        lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12),
        ROWS,
    ),
    "l2 behind the root": (
        "l2_norm",
        lambda x: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6),
        ROWS,
    ),
    "rms behind the root": ("rms_norm", lambda x: x / (jnp.sqrt(mean(x**2)) + 1e-6) * GAMMA, ROWS),
    "groups": ("group_norm", groups, IMAGES),
    "groups linen": ("group_norm", of_module(nn.GroupNorm(4), IMAGES), IMAGES),
    "groups nnx": ("group_norm", nnx.GroupNorm(8, num_groups=2, rngs=nnx.Rngs(0)), IMAGES),
    "instance linen": ("layer_norm", of_module(nn.InstanceNorm(), IMAGES), IMAGES),
    "instance, channels first": (
        "layer_norm",
        lambda x: (x - mean(x, (2, 3))) / jnp.sqrt(var(x, (2, 3)) + 1e-5) * GAMMA[:4, None, None],
        IMAGES,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_norms(name: str) -> None:
    op, function, x = OTHERS[name]
    assert op_names(agrees(function, x, batch="B", terms=64)) == [op]


def norm_of(function: Function, x: Any, **options: Any) -> Node:
    """Imports a function and returns its only norm."""
    graph = from_jax(function, x, **options)
    (node,) = (node for node in graph.nodes if isinstance(node.op, Normalization))
    return node


def test_statistics_over_the_batch() -> None:
    axes = (0, 1, 2)
    graph = agrees(
        lambda x: (x - mean(x, axes)) / jnp.sqrt(var(x, axes) + 1e-5) * GAMMA + BETA,
        IMAGES,
        terms=64,
    )
    assert op_names(graph) == ["layer_norm"]


@pytest.mark.parametrize("epsilon", [1e-12, 1e-6, 1e-3, 0.5, 100.0])
def test_epsilon_is_read_off(epsilon: float) -> None:
    added = norm_of(lambda x: x * jax.lax.rsqrt(mean(x**2) + epsilon) * GAMMA, ROWS)
    assert added.op.attributes().get("epsilon", 1e-6) == epsilon
    bound = norm_of(
        lambda x: x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), epsilon)), ROWS
    )
    assert bound.op.attributes().get("epsilon", 1e-12) == epsilon
    assert bound.op.attributes()["guard"] == "max"
    behind = norm_of(lambda x: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + epsilon), ROWS)
    assert behind.op.attributes()["guard"] == "root"
    np.testing.assert_allclose(behind.op.attributes().get("epsilon", 1e-12), epsilon**2, rtol=1e-6)


def test_gamma_and_beta_keep_their_bits() -> None:
    node = norm_of(LAYER["sqrt"], ROWS)
    assert [value.array.tolist() for value in node.inputs[1:]] == [GAMMA.tolist(), BETA.tolist()]


def test_sixteen_bit_floats() -> None:
    x = ROWS.astype(jnp.bfloat16)
    graph = from_jax(in_float32, x)
    assert [name for name in op_names(graph) if name != "cast"] == ["rms_norm"]
    (found,), wanted = run(graph, x), np.asarray(in_float32(x), np.float32)
    np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2.0**-7)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x - mean(x)) / (jnp.sqrt(var(x) + 0.2) + 0.1),  # two epsilons
        lambda x: (x - mean(x)) / jnp.sqrt(mean(x**2) + 1e-5),  # two statistics
        lambda x: jnp.sqrt(var(x)),
        lambda x: x / jnp.sqrt(mean(x**2, 1) + mean(x**2, 2)),
        lambda x: (x - mean(x)) / var(x) ** 0.25,
    ],
)
def test_what_only_looks_like_a_norm_stays(function: Function) -> None:
    names = op_names(agrees(function, ROWS, terms=64))
    assert not {"layer_norm", "rms_norm", "l2_norm", "group_norm"} & set(names)


def test_a_residual_beside_a_norm_stays() -> None:
    def block(x: Any) -> Any:
        return x + (x - mean(x)) / jnp.sqrt(var(x) + 1e-5) * GAMMA

    assert op_names(agrees(block, ROWS, terms=32)) == ["layer_norm", "add"]
