"""Trains a GRU that reads strips of digits column by column, and quantizes it inside of its scan.

Recognizers of speech read frames of a spectrum; here a frame is a column of scikit-learn's
handwritten digits, six of which stand side by side, and after each digit the model says which one
it was. What the GRU carries from column to column gets a code too.
"""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import qir

Params = dict[str, jax.Array]
DIGITS, COLUMNS, UNITS = 6, 8, 64
STEPS, BATCH, SEED = 1500, 64, 0


def init(key: jax.Array) -> Params:
    """Returns weights by Glorot's rule."""
    shapes = {"input": (8, 3 * UNITS), "state": (UNITS, 3 * UNITS), "output": (UNITS, 10)}
    keys = jax.random.split(key, len(shapes))
    params: Params = {}
    for part, (name, shape) in zip(keys, shapes.items(), strict=True):
        params[f"{name}_kernel"] = jax.random.normal(part, shape) * np.sqrt(2 / sum(shape))
        params[f"{name}_bias"] = jnp.zeros(shape[-1])
    return params


def gru(params: Params, strips: jax.Array) -> jax.Array:
    """Maps strips [batch, time, 8] in [0, 1] to logits [batch, digits, 10]."""

    def trip(state: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = column @ params["input_kernel"] + params["input_bias"]
        h = state @ params["state_kernel"] + params["state_bias"]
        reset, update = (
            jax.nn.sigmoid(x[:, part : part + UNITS] + h[:, part : part + UNITS])
            for part in (0, UNITS)
        )
        new = jnp.tanh(x[:, 2 * UNITS :] + reset * h[:, 2 * UNITS :])
        state = (1 - update) * new + update * state
        return state, state

    columns = jnp.transpose(strips, (1, 0, 2))
    _, states = jax.lax.scan(trip, jnp.zeros((strips.shape[0], UNITS)), columns)
    # What the model knows when a digit has gone by.
    last = jnp.transpose(states[COLUMNS - 1 :: COLUMNS], (1, 0, 2))
    return last @ params["output_kernel"] + params["output_bias"]


def draw(
    images: np.ndarray, labels: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Puts digits side by side: returns strips [count, time, 8] and labels [count, digits]."""
    chosen = generator.integers(0, len(images), (count, DIGITS))
    strips = images[chosen].transpose(0, 1, 3, 2).reshape(count, DIGITS * COLUMNS, 8)
    return strips, labels[chosen]


def train(images: np.ndarray, labels: np.ndarray) -> Params:
    """Trains with Adam on the cross entropy of every digit."""
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, STEPS))
    params = init(jax.random.key(SEED))
    state = optimizer.init(params)

    @jax.jit
    def step(params: Params, state: Any, x: jax.Array, y: jax.Array) -> tuple[Params, Any]:
        def loss(params: Params) -> jax.Array:
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(gru(params, x), y))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return cast(Params, optax.apply_updates(params, updates)), state

    generator = np.random.default_rng(SEED)
    for _ in range(STEPS):
        params, state = step(params, state, *draw(images, labels, BATCH, generator))
    return params


def main() -> None:
    """Runs the whole story and prints it."""
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (pixels.reshape(-1, 8, 8) / 16).astype(np.float32)
    generator = np.random.default_rng(SEED)
    order = generator.permutation(len(images))
    known, unknown = np.split(order, [len(images) * 3 // 4])
    params = train(images[known], labels[known])

    strips, wanted = draw(images[unknown], labels[unknown], 500, generator)
    graph = qir.from_jax(lambda x: gru(params, x), strips[:1], batch="B", name="strip")
    calibration = [draw(images[known], labels[known], 32, generator)[0] for _ in range(8)]
    integer = qir.quantize(graph, calibration)
    program = qir.compile(integer)

    float_logits = np.asarray(jax.jit(gru)(params, strips))
    int8_logits = np.asarray(program(strips)[0])
    (reference,) = qir.evaluate(integer, strips)
    print(integer)
    print()
    print(qir.explain(integer))
    print()
    for name, logits in (("float", float_logits), ("int8", int8_logits)):
        right = logits.argmax(-1) == wanted
        print(f"{name:5}  digits {right.mean():.2%}   whole strips {right.all(axis=1).mean():.2%}")
    different = np.count_nonzero(int8_logits != reference)
    print(f"exactness  {different} of {reference.size} numbers differ from the reference")


if __name__ == "__main__":
    main()
