"""Recurrent models of flax, keras, equinox and plain jax, small, on smooth sequences.

A library is imported when one of its models is made, which skips the test where it is absent.
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
from jax import lax

from qir.types import Array
from tests.models.transformers import Network

BATCH, TIME, WIDTH, HIDDEN = 2, 12, 6, 8


def smooth(seed: int, *shape: int) -> Array:
    """Sequences [batch, time, …] of a few slow waves each, within [-2, 2]."""
    rng = np.random.default_rng(seed)
    batch, time, *features = shape
    at = np.arange(time).reshape(1, time, *(1,) * len(features))
    waves = [
        rng.uniform(0.3, 1, (batch, 1, *features))
        * np.sin(rng.uniform(0.1, 0.9, (batch, 1, *features)) * at + rng.uniform(0, 6))
        for _ in range(2)
    ]
    return np.asarray(np.sum(waves, axis=0), np.float32)


def sequences(seed: int) -> tuple[Array, ...]:
    return (smooth(seed, BATCH, TIME, WIDTH),)


def images(seed: int) -> tuple[Array, ...]:
    return (smooth(seed, BATCH, 5, 6, 6, 2),)


def of_linen(
    model: linen.Module, inputs: Callable[[int], tuple[Array, ...]] = sequences, **options: Any
) -> Network:
    example = inputs(0)
    weights = jax.jit(lambda *given: model.init(jax.random.key(0), *given, **options))(*example)
    return Network(lambda *given: model.apply(weights, *given, **options), inputs)


def linen_cell(cell: str, **options: Any) -> Callable[[], Network]:
    return lambda: of_linen(linen.RNN(getattr(linen, cell)(HIDDEN)), **options)


def linen_lengths() -> Network:
    lengths = np.array([TIME, 7], np.int32)
    model = linen.RNN(linen.GRUCell(HIDDEN), return_carry=True)
    return of_linen(model, seq_lengths=lengths, reverse=True, keep_order=True)


def linen_computed_lengths() -> Network:
    model = linen.RNN(linen.LSTMCell(HIDDEN))
    weights = model.init(jax.random.key(0), *sequences(0))
    return Network(
        lambda x, lengths: model.apply(weights, x, seq_lengths=lengths),
        lambda seed: (*sequences(seed), np.array([TIME - 3, 5], np.int32)),
    )


def linen_time_major() -> Network:
    model = linen.RNN(linen.OptimizedLSTMCell(HIDDEN), time_major=True, unroll=3)
    return of_linen(model, lambda seed: (smooth(seed, BATCH, TIME, WIDTH).swapaxes(0, 1),))


def linen_bidirectional() -> Network:
    forward, backward = (linen.RNN(linen.GRUCell(HIDDEN)) for _ in range(2))
    return of_linen(linen.Bidirectional(forward, backward))


class ScannedLayers(linen.Module):
    """Layers of weights that are stacked: `nn.scan` over them."""

    @linen.compact
    def __call__(self, x: jax.Array) -> Any:
        layers = linen.scan(
            ScannedLayer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return linen.Dense(3)(layers()(linen.Dense(HIDDEN)(x), None)[0])


class ScannedLayer(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + linen.tanh(linen.Dense(HIDDEN)(linen.LayerNorm()(x))), None


class RematLayers(linen.Module):
    """Layers stacked by `nn.remat_scan`, in groups that are scanned too."""

    @linen.compact
    def __call__(self, x: jax.Array) -> Any:
        return linen.remat_scan(RematLayer, lengths=(2, 2))()(linen.Dense(HIDDEN)(x))


class RematLayer(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jnp.tanh(linen.Dense(HIDDEN)(x))


def nnx_cell(cell: str) -> Callable[[], Network]:
    def make() -> Network:
        rngs = nnx.Rngs(0)
        return Network(nnx.RNN(getattr(nnx, cell)(WIDTH, HIDDEN, rngs=rngs), rngs=rngs), sequences)

    return make


def nnx_bidirectional() -> Network:
    rngs = nnx.Rngs(0)
    forward, backward = (
        nnx.RNN(nnx.LSTMCell(WIDTH, HIDDEN, rngs=rngs), rngs=rngs) for _ in range(2)
    )
    return Network(nnx.Bidirectional(forward, backward, rngs=rngs), sequences)


class NnxLayers(nnx.Module):
    """Layers of weights that are stacked: `nnx.scan` over them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stack(rngs: nnx.Rngs) -> nnx.Linear:
            return nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        self.layers = stack(rngs)

    def __call__(self, x: jax.Array) -> Any:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x: jax.Array, layer: nnx.Linear) -> jax.Array:
            return x + nnx.gelu(layer(x))

        return forward(x, self.layers)


def of_keras(
    build: Callable[[Any], list[Any]], inputs: Callable[[int], tuple[Array, ...]] = sequences
) -> Callable[[], Network]:
    """Makes a model of layers of keras one after the other."""

    def make() -> Network:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        keras: Any = pytest.importorskip("keras")
        keras.utils.set_random_seed(0)
        (x,) = inputs(0)
        model = keras.Sequential(build(keras.layers))
        model.build(x.shape)
        trained = [variable.value for variable in model.trainable_variables]
        others = [variable.value for variable in model.non_trainable_variables]
        return Network(lambda x: model.stateless_call(trained, others, x)[0], inputs)

    return make


def keras_tokens(seed: int) -> tuple[Array, ...]:
    ids = np.random.default_rng(seed).integers(1, 20, (BATCH, TIME)).astype(np.int32)
    ids[1, TIME - 4 :] = 0
    return (ids,)


def equinox_cell(cell: str) -> Callable[[], Network]:
    def make() -> Network:
        equinox: Any = pytest.importorskip("equinox")
        layer = getattr(equinox.nn, cell)(WIDTH, HIDDEN, key=jax.random.key(0))
        zeros = jnp.zeros(HIDDEN)
        start = (zeros, zeros) if cell == "LSTMCell" else zeros

        def run(x: jax.Array) -> Any:
            def step(state: Any, part: jax.Array) -> tuple[Any, Any]:
                state = layer(part, state)
                return state, state[0] if cell == "LSTMCell" else state

            return lax.scan(step, start, x)[1]

        return Network(jax.vmap(run), sequences)

    return make


def _drawn(*shape: int, seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed).standard_normal(shape) / shape[0] ** 0.5
    return np.asarray(drawn, np.float32)


def linear_attention() -> Network:
    """Cumulative attention without softmax: the state is a matrix (Katharopoulos et al. 2020)."""
    queries, keys, values = (_drawn(WIDTH, HIDDEN, seed=seed) for seed in range(3))

    def run(x: jax.Array) -> jax.Array:
        def step(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            q, k = jax.nn.elu(row @ queries) + 1, jax.nn.sigmoid(row @ keys)
            state = 0.9 * state + k[:, :, None] * (row @ values)[:, None, :]
            return state, jnp.einsum("bi,bij->bj", q, state)

        start = jnp.zeros((x.shape[0], HIDDEN, HIDDEN))
        result: jax.Array = lax.scan(step, start, x.swapaxes(0, 1))[1]
        return result.swapaxes(0, 1)

    return Network(run, sequences)


def selective_state(scanned: bool) -> Callable[[], Network]:
    """A diagonal recurrence whose decay depends on the input (Gu and Dao 2023)."""
    decay, write, read = (_drawn(WIDTH, HIDDEN, seed=seed) for seed in range(3))

    def join(left: Any, right: Any) -> Any:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def run(x: jax.Array) -> jax.Array:
        kept = jax.nn.sigmoid(x @ decay)
        given = (1 - kept) * (x @ write)
        if not scanned:
            states: jax.Array = lax.associative_scan(join, (kept, given), axis=1)[1]
            return jnp.tanh(states) * (x @ read)

        def step(state: jax.Array, parts: Any) -> tuple[jax.Array, jax.Array]:
            state = parts[0] * state + parts[1]
            return state, jnp.tanh(state)

        moved = jax.tree.map(lambda part: part.swapaxes(0, 1), (kept, given))
        result: jax.Array = lax.scan(step, jnp.zeros(kept[:, 0].shape), moved)[1]
        return result.swapaxes(0, 1) * (x @ read)

    return lambda: Network(run, sequences)


def rwkv() -> Network:
    """Attention as a recurrence of numerators and denominators (Peng et al. 2023)."""
    keys, values, gates = (_drawn(WIDTH, WIDTH, seed=seed) for seed in range(3))
    decay = np.linspace(0.5, 0.95, WIDTH, dtype=np.float32)

    def run(x: jax.Array) -> jax.Array:
        def step(state: Any, row: jax.Array) -> tuple[Any, jax.Array]:
            weight = jnp.exp(jnp.tanh(row @ keys))
            above = decay * state[0] + weight * (row @ values)
            below = decay * state[1] + weight
            return (above, below), jax.nn.sigmoid(row @ gates) * (above / below)

        zeros = jnp.zeros((x.shape[0], WIDTH))
        result: jax.Array = lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))[1]
        return result.swapaxes(0, 1)

    return Network(run, sequences)


def greedy_decoder() -> Network:
    """Tokens that are fed back until one of them is 0 or there are enough."""
    table, recurrent, head = _drawn(10, HIDDEN), _drawn(HIDDEN, HIDDEN), _drawn(HIDDEN, 10, seed=3)

    def run(x: jax.Array) -> jax.Array:
        def step(state: Any) -> Any:
            count, h, token = state
            h = jnp.tanh(h @ recurrent + jnp.asarray(table)[token])
            return count + 1, h, jnp.argmax(h @ head, axis=-1).astype(jnp.int32)

        def goes_on(state: Any) -> Any:
            return (state[0] < 9) & jnp.any(state[2] != 0)

        start = (jnp.int32(0), x.mean(1) @ _drawn(WIDTH, HIDDEN), jnp.ones(x.shape[0], jnp.int32))
        result: jax.Array = lax.while_loop(goes_on, step, start)[1]
        return result

    return Network(run, sequences)


def horner() -> Network:
    """A polynomial by Horner's rule."""
    coefficients = np.linspace(-1, 1, 7, dtype=np.float32)

    def run(x: jax.Array) -> jax.Array:
        given = jnp.asarray(coefficients)
        result: jax.Array = lax.fori_loop(
            0, len(coefficients), lambda i, y: y * jnp.tanh(x) + given[i], jnp.zeros_like(x)
        )
        return result

    return Network(run, sequences)


def solver() -> Network:
    """The fixed point of a layer (Bai et al. 2019), by as many steps as it takes."""
    kernel = 0.4 * _drawn(WIDTH, WIDTH)

    def run(x: jax.Array) -> jax.Array:
        def step(state: Any) -> Any:
            z, _ = state
            new = jnp.tanh(z @ kernel + x)
            return new, jnp.max(jnp.abs(new - z))

        start = (jnp.zeros_like(x), jnp.float32(1))
        result: jax.Array = lax.while_loop(lambda state: state[1] > 1e-2, step, start)[0]
        return result

    return Network(run, sequences)


RECURRENT: Mapping[str, Callable[[], Network]] = {
    "linen LSTMCell": linen_cell("LSTMCell"),
    "linen OptimizedLSTMCell": linen_cell("OptimizedLSTMCell"),
    "linen SimpleCell": linen_cell("SimpleCell"),
    "linen GRUCell": linen_cell("GRUCell"),
    "linen MGUCell": linen_cell("MGUCell"),
    "linen ConvLSTMCell": lambda: of_linen(
        linen.RNN(linen.ConvLSTMCell(3, kernel_size=(3, 3))), images
    ),
    "linen lengths": linen_lengths,
    "linen computed lengths": linen_computed_lengths,
    "linen time major": linen_time_major,
    "linen Bidirectional": linen_bidirectional,
    "linen scan over layers": lambda: of_linen(ScannedLayers()),
    "linen remat_scan": lambda: of_linen(RematLayers()),
    "nnx LSTMCell": nnx_cell("LSTMCell"),
    "nnx OptimizedLSTMCell": nnx_cell("OptimizedLSTMCell"),
    "nnx GRUCell": nnx_cell("GRUCell"),
    "nnx SimpleCell": nnx_cell("SimpleCell"),
    "nnx Bidirectional": nnx_bidirectional,
    "nnx scan over layers": lambda: Network(NnxLayers(nnx.Rngs(0)), sequences),
    "keras LSTM": of_keras(lambda layers: [layers.LSTM(HIDDEN), layers.Dense(3)]),
    "keras GRU": of_keras(lambda layers: [layers.GRU(HIDDEN, return_sequences=True)]),
    "keras SimpleRNN": of_keras(lambda layers: [layers.SimpleRNN(HIDDEN)]),
    "keras ConvLSTM2D": of_keras(lambda layers: [layers.ConvLSTM2D(3, 3, padding="same")], images),
    "keras Bidirectional": of_keras(
        lambda layers: [
            layers.Bidirectional(layers.LSTM(HIDDEN, return_sequences=True)),
            layers.GRU(HIDDEN),
        ]
    ),
    "keras masked": of_keras(
        lambda layers: [layers.Embedding(20, WIDTH, mask_zero=True), layers.LSTM(HIDDEN)],
        keras_tokens,
    ),
    "equinox GRUCell": equinox_cell("GRUCell"),
    "equinox LSTMCell": equinox_cell("LSTMCell"),
    "linear attention": linear_attention,
    "selective state, scan": selective_state(scanned=True),
    "selective state, associative scan": selective_state(scanned=False),
    "rwkv": rwkv,
    "greedy decoder": greedy_decoder,
    "horner": horner,
    "solver": solver,
}
"""How to make each model."""
