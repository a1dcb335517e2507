"""Networks with attention and norms in plain JAX, of seeded weights, one for each architecture.

Matrices are normal with the variance of one by the number of inputs, gammas lie around 1 and betas
around 0, so that activations have the spread that they have in networks as they are initialised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qir.types import Array
from tests.models import minilm

Inputs: TypeAlias = tuple[Array, ...]


@dataclass(frozen=True)
class Network:
    """A function of arrays and what it is called with.

    Args:
        function: The network, its weights closed over.
        inputs: Draws a batch for a seed.
    """

    function: Callable[..., Any]
    inputs: Callable[[int], Inputs]


class Weights:
    """Draws weights one after another."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int, size: float = 1.0) -> jax.Array:
        return jnp.asarray(self.rng.normal(0, size, shape), jnp.float32)

    def dense(self, inputs: int, outputs: int) -> jax.Array:
        return self.normal(inputs, outputs, size=inputs**-0.5)

    def norm(self, width: int) -> tuple[jax.Array, jax.Array]:
        """Gamma and beta."""
        return 1 + self.normal(width, size=0.1), self.normal(width, size=0.1)

    def attention(self, width: int, keys: int | None = None) -> dict[str, jax.Array]:
        """Matrices of queries, keys, values and the output; `keys` is the width of the middle."""
        keys = keys or width
        shapes = {"q": (width, width), "k": (width, keys), "v": (width, keys), "o": (width, width)}
        return {name: self.dense(*shape) for name, shape in shapes.items()}


def tokens(seed: int, batch: int, length: int, vocabulary: int) -> Array:
    return np.random.default_rng(seed).integers(0, vocabulary, (batch, length)).astype(np.int32)


def reals(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def padding(seed: int, batch: int, length: int) -> Array:
    """A mask of sequences that fill a quarter to the whole of the length, int32[batch, length]."""
    lengths = np.random.default_rng(seed + 1000).integers(length // 4, length + 1, (batch, 1))
    return (np.arange(length) < lengths).astype(np.int32)


def layer_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5) * gamma + beta


def rms_norm(x: jax.Array, gamma: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * gamma


def split_heads(x: jax.Array, width: int) -> jax.Array:
    """[B, T, heads * width] -> [B, heads, T, width]."""
    return x.reshape(*x.shape[:2], -1, width).swapaxes(1, 2)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: Any = 0.0) -> jax.Array:
    """Attention of heads [B, heads, T, width]; returns [B, T, heads * width]."""
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5 + bias
    context = (jax.nn.softmax(scores, -1) @ v).swapaxes(1, 2)
    return context.reshape(*context.shape[:2], -1)


def causal_bias(length: int) -> jax.Array:
    kept = np.tri(length, dtype=bool)
    return jnp.where(kept, 0.0, jnp.finfo(jnp.float32).min)


def rotated(x: jax.Array) -> jax.Array:
    """Rotary embedding of positions (Su et al. 2021) of [B, heads, T, width], as Llama has it."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[-2]), 10000.0 ** (-np.arange(half) / half))
    cosine, sine = np.float32(np.cos(angles)), np.float32(np.sin(angles))
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], -1)


def llama(padded: bool = False) -> Network:
    """RoPE, grouped queries, SwiGLU, RMS norm, a causal mask (Touvron et al. 2023)."""
    width, hidden, head, groups, length, vocabulary = 128, 320, 16, 4, 64, 256
    draw = Weights()
    table = draw.normal(vocabulary, width)
    layers = [
        (
            draw.attention(width, width // groups),
            [draw.dense(width, hidden), draw.dense(width, hidden), draw.dense(hidden, width)],
            [draw.norm(width)[0] for _ in range(2)],
        )
        for _ in range(3)
    ]
    last, output = draw.norm(width)[0], draw.dense(width, vocabulary)

    def function(ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = table[ids]
        kept: Any = np.tri(length, dtype=bool)[None, None]
        if mask is not None:
            kept = jnp.logical_and(kept, mask[:, None, None, :] == 1)
        for weights, (gate, up, down), (first, second) in layers:
            h = rms_norm(x, first)
            q, k, v = (split_heads(h @ weights[name], head) for name in "qkv")
            q, k = rotated(q), rotated(k)
            k, v = (jnp.repeat(part, groups, axis=1) for part in (k, v))
            scores = q @ k.swapaxes(-1, -2) / head**0.5
            scores = jnp.where(kept, scores, jnp.finfo(jnp.float32).min)
            context = (jax.nn.softmax(scores, -1) @ v).swapaxes(1, 2).reshape(x.shape)
            x = x + context @ weights["o"]
            h = rms_norm(x, second)
            x = x + (jax.nn.silu(h @ gate) * (h @ up)) @ down
        return rms_norm(x, last) @ output

    def inputs(seed: int) -> Inputs:
        ids = tokens(seed, 2, length, vocabulary)
        return (ids, padding(seed, 2, length)) if padded else (ids,)

    return Network(function, inputs)


def bert() -> Network:
    """A post-norm encoder with a padding mask: that of MiniLM, small and of random weights."""
    width, hidden, vocabulary, length = 192, 384, 256, 64
    draw = Weights()
    weights = {
        "embeddings.word_embeddings.weight": draw.normal(vocabulary, width),
        "embeddings.position_embeddings.weight": draw.normal(length, width, size=0.2),
        "embeddings.token_type_embeddings.weight": draw.normal(2, width, size=0.1),
    }

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = draw.norm(width)

    def dense(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = draw.dense(inputs, outputs).T
        weights[f"{name}.bias"] = draw.normal(outputs, size=0.1)

    norm("embeddings.LayerNorm")
    for index in range(3):
        layer = f"encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{layer}.attention.{part}", width, width)
        dense(f"{layer}.intermediate.dense", width, hidden)
        dense(f"{layer}.output.dense", hidden, width)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    return Network(
        lambda ids, mask: minilm.encode(arrays, ids, mask, layers=3),
        lambda seed: (tokens(seed, 4, length, vocabulary), padding(seed, 4, length)),
    )


def t5() -> Network:
    """Unscaled scores with a learned bias of relative positions, RMS norm (Raffel et al. 2020)."""
    width, hidden, head, length = 128, 256, 16, 64
    draw = Weights()
    distances = np.arange(length)[:, None] - np.arange(length)[None]
    bias = draw.normal(2 * length - 1, width // head)[distances + length - 1].transpose(2, 0, 1)
    layers = [
        (
            # T5 leaves out the division of the scores: its queries are drawn small instead.
            draw.attention(width) | {"q": draw.dense(width, width) * head**-0.5},
            [draw.dense(width, hidden), draw.dense(hidden, width)],
            [draw.norm(width)[0] for _ in range(2)],
        )
        for _ in range(3)
    ]

    def function(x: jax.Array, mask: jax.Array) -> jax.Array:
        hidden_bias = (1.0 - mask[:, None, None, :]) * -1e9
        for weights, (up, down), (first, second) in layers:
            h = rms_norm(x, first)
            q, k, v = (split_heads(h @ weights[name], head) for name in "qkv")
            scores = q @ k.swapaxes(-1, -2) + (bias + hidden_bias)
            context = (jax.nn.softmax(scores, -1) @ v).swapaxes(1, 2).reshape(x.shape)
            x = x + context @ weights["o"]
            x = x + jax.nn.relu(rms_norm(x, second) @ up) @ down
        return x

    return Network(
        function,
        lambda seed: (
            reals(seed, 2, length, width),
            padding(seed, 2, length).astype(np.float32),
        ),
    )


def swin() -> Network:
    """Attention in shifted windows with a position bias and the mask of -100 (Liu et al. 2021)."""
    side, window, width, head = 16, 8, 64, 16
    draw = Weights()
    shift = window // 2
    region: Any = np.zeros((side, side))
    for index, part in enumerate((slice(0, -window), slice(-window, -shift), slice(-shift, None))):
        region[part] += 3 * index
        region[:, part] += index
    region = windows(region[None, :, :, None], window)[..., 0]
    apart = np.where(region[:, None, :] != region[:, :, None], -100.0, 0.0).astype(np.float32)
    layers = [
        (
            draw.dense(width, 3 * width),
            draw.dense(width, width),
            draw.normal(width // head, window**2, window**2, size=0.5),
            [draw.dense(width, 4 * width), draw.dense(4 * width, width)],
            [draw.norm(width), draw.norm(width)],
        )
        for _ in range(2)
    ]

    def function(x: jax.Array) -> jax.Array:
        for index, (qkv, output, bias, (up, down), (first, second)) in enumerate(layers):
            h = layer_norm(x, *first)
            moved = shift * index
            h = windows(jnp.roll(h, (-moved, -moved), (1, 2)), window)
            q, k, v = (split_heads(part, head) for part in jnp.split(h @ qkv, 3, -1))
            added = bias
            if index:
                added = bias + jnp.tile(apart, (len(x), 1, 1))[:, None]
            y = attend(q, k, v, added) @ output
            y = y.reshape(len(x), side // window, side // window, window, window, width)
            y = y.swapaxes(2, 3).reshape(x.shape)
            x = x + jnp.roll(y, (moved, moved), (1, 2))
            x = x + jax.nn.gelu(layer_norm(x, *second) @ up, approximate=False) @ down
        return x

    return Network(function, lambda seed: (reals(seed, 2, side, side, width),))


def windows(x: Any, size: int) -> Any:
    """Cuts [B, H, W, C] into windows [B * number, size * size, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(-1, size * size, channels)


def graph_attention() -> Network:
    """Two layers over a dense adjacency matrix (Veličković et al. 2018)."""
    nodes, width, head = 96, 64, 16
    draw = Weights()
    layers = [
        (draw.dense(width, width), draw.normal(2, width // head, head, size=head**-0.5))
        for _ in range(2)
    ]

    def function(x: jax.Array, adjacent: jax.Array) -> jax.Array:
        for weights, vectors in layers:
            h = (x @ weights).reshape(nodes, -1, head)
            source, target = (jnp.einsum("nhd,hd->hn", h, vector) for vector in vectors)
            scores = jax.nn.leaky_relu(source[:, :, None] + target[:, None, :], 0.2)
            scores = jnp.where(adjacent, scores, -1e9)
            context = jnp.einsum("hij,jhd->ihd", jax.nn.softmax(scores, -1), h)
            x = jax.nn.elu(context.reshape(nodes, width))
        return x

    def inputs(seed: int) -> Inputs:
        edges = np.random.default_rng(seed + 1000).random((nodes, nodes)) < 0.08
        return reals(seed, nodes, width), edges | edges.T | np.eye(nodes, dtype=bool)

    return Network(function, inputs)


def decoding_step() -> Network:
    """One token after a cache of keys and values that is an input; returns the new ones too."""
    width, head, length = 128, 16, 64
    draw = Weights()
    norm, after = draw.norm(width), draw.norm(width)
    weights = draw.attention(width)
    up, down = draw.dense(width, 4 * width), draw.dense(4 * width, width)

    def function(
        x: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, ...]:
        h = layer_norm(x, *norm)
        q, k, v = (split_heads(h @ weights[name], head) for name in "qkv")
        k, v = jnp.concatenate([keys, k], 2), jnp.concatenate([values, v], 2)
        kept = jnp.concatenate([mask == 1, jnp.ones((len(x), 1), bool)], 1)
        bias = jnp.where(kept[:, None, None, :], 0.0, -1e9)
        x = x + attend(q, k, v, bias) @ weights["o"]
        x = x + jax.nn.gelu(layer_norm(x, *after) @ up) @ down
        return x, k, v

    return Network(
        function,
        lambda seed: (
            reals(seed, 16, 1, width),
            reals(seed + 1, 16, width // head, length, head),
            reals(seed + 2, 16, width // head, length, head),
            padding(seed, 16, length),
        ),
    )


def conformer() -> Network:
    """Half feed-forwards, attention, a gated convolution over time (Gulati et al. 2020)."""
    width, head, length, kernel = 96, 24, 64, 15
    draw = Weights()
    layers = [
        {
            "norms": [draw.norm(width) for _ in range(6)],
            "first": (draw.dense(width, 4 * width), draw.dense(4 * width, width)),
            "last": (draw.dense(width, 4 * width), draw.dense(4 * width, width)),
            "attention": draw.attention(width),
            "gated": draw.dense(width, 2 * width),
            "depthwise": draw.normal(kernel, 1, width, size=kernel**-0.5),
            "point": draw.dense(width, width),
        }
        for _ in range(2)
    ]

    def function(x: jax.Array, mask: jax.Array) -> jax.Array:
        bias = jnp.where(mask[:, None, None, :] == 1, 0.0, -jnp.inf)
        for layer in layers:
            weights: Any = layer
            norms = weights["norms"]
            up, down = weights["first"]
            x = x + 0.5 * (jax.nn.silu(layer_norm(x, *norms[0]) @ up) @ down)
            h = layer_norm(x, *norms[1])
            q, k, v = (split_heads(h @ weights["attention"][name], head) for name in "qkv")
            x = x + attend(q, k, v, bias) @ weights["attention"]["o"]
            value, gate = jnp.split(layer_norm(x, *norms[2]) @ weights["gated"], 2, -1)
            h = jax.lax.conv_general_dilated(
                value * jax.nn.sigmoid(gate),
                weights["depthwise"],
                (1,),
                "SAME",
                dimension_numbers=("NWC", "WIO", "NWC"),
                feature_group_count=width,
            )
            x = x + jax.nn.silu(layer_norm(h, *norms[3])) @ weights["point"]
            up, down = weights["last"]
            x = x + 0.5 * (jax.nn.silu(layer_norm(x, *norms[4]) @ up) @ down)
            x = layer_norm(x, *norms[5])
        return x

    return Network(function, lambda seed: (reals(seed, 2, length, width), padding(seed, 2, length)))


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "llama": llama,
    "llama, padded": lambda: llama(padded=True),
    "bert": bert,
    "t5": t5,
    "swin": swin,
    "graph attention": graph_attention,
    "decoding step": decoding_step,
    "conformer": conformer,
}
