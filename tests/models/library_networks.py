"""Networks written with flax, keras and equinox, of the weights that these draw for a seed.

A library is imported when one of its networks is made, which skips the test where it is absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from tests.models.transformers import Network, padding, reals, tokens

WIDTH, HEADS, LENGTH, VOCABULARY = 128, 4, 64, 256


class LinenDecoder(linen.Module):
    """Pre-norm layers with a causal mask and that of padding."""

    @linen.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        x = linen.Embed(VOCABULARY, WIDTH)(ids)
        kept = linen.combine_masks(linen.make_causal_mask(ids), mask[:, None, None, :] == 1)
        for _ in range(2):
            h = linen.LayerNorm()(x)
            x = x + linen.MultiHeadDotProductAttention(HEADS)(h, h, mask=kept)
            x = x + linen.Dense(WIDTH)(linen.gelu(linen.Dense(4 * WIDTH)(linen.LayerNorm()(x))))
        return linen.Dense(VOCABULARY)(linen.LayerNorm()(x))


class Vit(linen.Module):
    """Patches of images, a class token, learned positions (Dosovitskiy et al. 2021)."""

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = linen.Conv(96, (4, 4), (4, 4))(images)
        x = x.reshape(len(x), -1, 96)
        token = self.param("token", linen.initializers.normal(1.0), (1, 1, 96))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 96)), x], 1)
        x = x + self.param("positions", linen.initializers.normal(0.2), (1, x.shape[1], 96))
        for _ in range(3):
            x = x + linen.MultiHeadDotProductAttention(6)(linen.LayerNorm()(x))
            h = linen.gelu(linen.Dense(384)(linen.LayerNorm()(x)), approximate=False)
            x = x + linen.Dense(96)(h)
        return linen.Dense(100)(linen.LayerNorm()(x)[:, 0])


class ConvNeXt(linen.Module):
    """Depthwise convolutions, layer norm, scaled branches (Liu et al. 2022)."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.LayerNorm()(linen.Conv(64, (4, 4), (4, 4))(x))
        for index in range(3):
            h = linen.LayerNorm()(linen.Conv(64, (7, 7), feature_group_count=64)(x))
            h = linen.Dense(64)(linen.gelu(linen.Dense(256)(h), approximate=False))
            x = x + h * self.param(f"scale{index}", linen.initializers.constant(0.5), (64,))
        return x


class UNet(linen.Module):
    """Group norm and silu before each convolution, as in networks of diffusion."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def block(x: jax.Array, features: int) -> jax.Array:
            h = linen.Conv(features, (3, 3))(linen.silu(linen.GroupNorm(8)(x)))
            h = linen.Conv(features, (3, 3))(linen.silu(linen.GroupNorm(8)(h)))
            return h + (x if x.shape == h.shape else linen.Conv(features, (1, 1))(x))

        top = block(linen.Conv(32, (3, 3))(x), 32)
        low = block(linen.Conv(64, (3, 3), (2, 2))(top), 64)
        up = jax.image.resize(low, (*top.shape[:3], 64), "nearest")
        y = block(jnp.concatenate([top, up], -1), 32)
        return linen.Conv(3, (3, 3))(linen.silu(linen.GroupNorm(8)(y)))


def of_linen(module: linen.Module, inputs: Callable[[int], tuple[Any, ...]]) -> Network:
    variables = module.init(jax.random.key(0), *inputs(0))
    return Network(lambda *arrays: module.apply(variables, *arrays), inputs)


def images(side: int, channels: int = 3) -> Callable[[int], tuple[Any, ...]]:
    return lambda seed: (reals(seed, 2, side, side, channels),)


def sequences(seed: int) -> tuple[Any, ...]:
    return tokens(seed, 2, LENGTH, VOCABULARY), padding(seed, 2, LENGTH)


class NnxLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.second = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.first(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.second(x))))


class NnxDecoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.table = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.layers = nnx.List([NnxLayer(rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.table(ids)
        kept = nnx.combine_masks(nnx.make_causal_mask(ids), mask[:, None, None, :] == 1)
        assert kept is not None
        for layer in self.layers:
            x = layer(x, kept)
        return self.table.attend(self.norm(x))


def keras_decoder() -> Network:
    """Two layers of `keras.layers.MultiHeadAttention` with its causal mask and one of padding."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras: Any = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    ids = keras.Input((LENGTH,), dtype="int32")
    mask = keras.Input((LENGTH,), dtype="bool")
    x = keras.layers.Embedding(VOCABULARY, WIDTH, embeddings_initializer="random_normal")(ids)
    for _ in range(2):
        attention = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        h = keras.layers.LayerNormalization()(x)
        x = x + attention(h, h, attention_mask=mask[:, None, :], use_causal_mask=True)
        h = keras.layers.Dense(4 * WIDTH, "gelu")(keras.layers.LayerNormalization()(x))
        x = x + keras.layers.Dense(WIDTH)(h)
    x = keras.layers.Dense(VOCABULARY)(keras.layers.LayerNormalization()(x))
    model = keras.Model([ids, mask], x)
    trained = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]

    def function(ids: jax.Array, mask: jax.Array) -> jax.Array:
        result: jax.Array = model.stateless_call(trained, others, [ids, mask])[0]
        return result

    def inputs(seed: int) -> tuple[Any, ...]:
        ids, mask = sequences(seed)
        return ids, mask == 1

    return Network(function, inputs)


def equinox_block(causal: bool = True) -> Network:
    """`equinox.nn.MultiheadAttention` between norms, for one sequence, mapped over the batch."""
    equinox: Any = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    attention = equinox.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
    first, second = equinox.nn.LayerNorm(WIDTH), equinox.nn.LayerNorm(WIDTH)
    up = equinox.nn.Linear(WIDTH, 4 * WIDTH, key=keys[1])
    down = equinox.nn.Linear(4 * WIDTH, WIDTH, key=keys[2])

    # It draws matrices with a third of the variance that keeps the size of activations.
    attention, up, down = jax.tree.map(
        lambda leaf: leaf * 3**0.5 if equinox.is_inexact_array(leaf) else leaf,
        (attention, up, down),
    )

    def block(x: jax.Array, mask: jax.Array) -> Any:
        h = jax.vmap(first)(x)
        kept = jnp.broadcast_to(mask[None, :] == 1, (LENGTH, LENGTH))
        if causal:
            kept = jnp.logical_and(kept, np.tri(LENGTH, dtype=bool))
        x = x + attention(h, h, h, mask=kept)
        return x + jax.vmap(lambda row: down(jax.nn.gelu(up(second(row)))))(x)

    return Network(
        jax.vmap(block), lambda seed: (reals(seed, 2, LENGTH, WIDTH), padding(seed, 2, LENGTH))
    )


LIBRARY_NETWORKS: Mapping[str, Callable[[], Network]] = {
    "linen decoder": lambda: of_linen(LinenDecoder(), sequences),
    "vit": lambda: of_linen(Vit(), images(32)),
    "convnext": lambda: of_linen(ConvNeXt(), images(32)),
    "u-net": lambda: of_linen(UNet(), images(16)),
    "nnx decoder": lambda: Network(NnxDecoder(nnx.Rngs(0)), sequences),
    "keras decoder": keras_decoder,
    "equinox, causal": equinox_block,
    "equinox, padded": lambda: equinox_block(causal=False),
}
