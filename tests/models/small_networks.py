"""An MLP, a CNN and a transformer block: small, of seeded weights, one for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import jax
from jax import lax

from tests.models.transformers import (
    Inputs,
    Network,
    Weights,
    attend,
    layer_norm,
    reals,
    split_heads,
    tokens,
)


def mlp() -> Network:
    """Three dense layers with biases."""
    draw = Weights()
    sizes = (128, 256, 256, 32)
    layers = [
        (draw.dense(inputs, outputs), draw.normal(outputs, size=0.1))
        for inputs, outputs in pairwise(sizes)
    ]

    def function(x: jax.Array) -> jax.Array:
        for index, (kernel, bias) in enumerate(layers):
            x = x @ kernel + bias
            x = jax.nn.relu(x) if index < len(layers) - 1 else x
        return x

    return Network(function, lambda seed: (reals(seed, 32, sizes[0]),))


def cnn() -> Network:
    """Convolutions of three by three, depthwise and pointwise, pooled into a dense layer."""
    draw = Weights(1)
    stem = draw.normal(3, 3, 3, 32, size=27**-0.5)
    depthwise = draw.normal(3, 3, 1, 32, size=1 / 3)
    pointwise = draw.normal(1, 1, 32, 64, size=32**-0.5)
    last = draw.normal(3, 3, 64, 64, size=(9 * 64) ** -0.5)
    head, bias = draw.dense(64, 10), draw.normal(10, size=0.1)

    def conv(x: jax.Array, kernel: jax.Array, groups: int = 1, stride: int = 1) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def function(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(conv(x, stem, stride=2))
        x = jax.nn.relu(conv(x, depthwise, groups=32))
        x = jax.nn.relu(conv(x, pointwise))
        x = jax.nn.relu(conv(x, last, stride=2))
        return x.mean((1, 2)) @ head + bias

    return Network(function, lambda seed: (reals(seed, 4, 16, 16, 3),))


def transformer_block() -> Network:
    """Token embeddings, attention of four heads and a gated feed-forward, both behind a norm."""
    width, hidden, length, vocabulary = 128, 256, 32, 256
    draw = Weights(2)
    table = draw.normal(vocabulary, width)
    weights = draw.attention(width)
    gate, up, down = (
        draw.dense(width, hidden),
        draw.dense(width, hidden),
        draw.dense(hidden, width),
    )
    first, second = draw.norm(width), draw.norm(width)

    def function(ids: jax.Array) -> jax.Array:
        x = table[ids]
        h = layer_norm(x, *first)
        q, k, v = (split_heads(h @ weights[name], width // 4) for name in "qkv")
        x = x + attend(q, k, v) @ weights["o"]
        h = layer_norm(x, *second)
        return x + (jax.nn.silu(h @ gate) * (h @ up)) @ down

    def inputs(seed: int) -> Inputs:
        return (tokens(seed, 2, length, vocabulary),)

    return Network(function, inputs)


NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": mlp,
    "cnn": cnn,
    "transformer": transformer_block,
}
"""The networks by name."""
