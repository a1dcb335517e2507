"""Trains a small CNN on handwritten digits, quantizes it and compares float, int8 and reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import qir

Params = dict[str, jax.Array]
EPOCHS, BATCH, CALIBRATION, SEED = 30, 64, 256, 0


def init(key: jax.Array) -> Params:
    """Returns He-initialized weights."""
    shapes = {
        "conv1": (3, 3, 1, 16),
        "conv2": (3, 3, 16, 32),
        "conv3": (3, 3, 32, 32),
        "dense": (32, 10),
    }
    keys = jax.random.split(key, len(shapes))
    params: Params = {}
    for part, (name, shape) in zip(keys, shapes.items(), strict=True):
        fan_in = int(np.prod(shape[:-1]))
        params[f"{name}_kernel"] = jax.random.normal(part, shape) * np.sqrt(2 / fan_in)
        params[f"{name}_bias"] = jnp.zeros(shape[-1])
    return params


def conv(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Applies a 3 by 3 convolution to images in NHWC layout."""
    y = jax.lax.conv_general_dilated(
        x, params[f"{name}_kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + params[f"{name}_bias"]


def pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of each 2 by 2 window."""
    tile = (1, 2, 2, 1)
    pooled: jax.Array = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, tile, tile, "VALID")
    return pooled


def cnn(params: Params, images: jax.Array) -> jax.Array:
    """Maps images [batch, 8, 8, 1] in [0, 1] to logits [batch, 10]."""
    x = pool(jax.nn.relu(conv(params, "conv1", images)))
    x = jax.nn.relu(conv(params, "conv2", x))
    x = jax.nn.relu(conv(params, "conv3", x) + x)
    return jnp.mean(x, axis=(1, 2)) @ params["dense_kernel"] + params["dense_bias"]


def train(images: np.ndarray, labels: np.ndarray) -> Params:
    """Trains with Adam on the cross entropy."""
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    params = init(jax.random.key(SEED))
    state = optimizer.init(params)

    @jax.jit
    def step(params: Params, state: Any, x: jax.Array, y: jax.Array) -> tuple[Params, Any]:
        def loss(params: Params) -> jax.Array:
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(cnn(params, x), y))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return cast(Params, optax.apply_updates(params, updates)), state

    generator = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        order = generator.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            params, state = step(params, state, images[chosen], labels[chosen])
    return params


def latencies(programs: dict[str, Callable[[], jax.Array]], rounds: int = 200) -> dict[str, float]:
    """Returns the median time of each program in milliseconds; the programs take turns."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            program().block_until_ready()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: median(samples) for name, samples in times.items()}


def main() -> None:
    """Runs the whole story and prints it."""
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (pixels.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    split = len(images) * 3 // 4
    order = np.random.default_rng(SEED).permutation(len(images))
    train_set, test_set = order[:split], order[split:]
    params = train(images[train_set], labels[train_set])

    graph = qir.from_jax(lambda x: cnn(params, x), images[:1], batch="B", name="digits")
    calibration = [images[train_set[start : start + 32]] for start in range(0, CALIBRATION, 32)]
    integer = qir.quantize(graph, calibration)
    try:
        program = qir.compile(integer, kernels=True)
        computed_by = "generated kernels"
    except qir.QirError as reason:
        program = qir.compile(integer)
        computed_by = f"XLA alone, which may be slower than float; {reason}"

    float_program = jax.jit(cnn)
    test_images, test_labels = images[test_set], labels[test_set]
    float_logits = np.asarray(float_program(params, test_images))
    int8_logits = np.asarray(program(test_images)[0])
    (reference,) = qir.evaluate(integer, test_images)
    float_accuracy = np.mean(float_logits.argmax(-1) == test_labels)
    int8_accuracy = np.mean(int8_logits.argmax(-1) == test_labels)
    float_bytes, int8_bytes = (
        sum(value.array.nbytes for value in each.values() if value.is_constant)
        for each in (graph, integer)
    )
    batch = jnp.asarray(test_images)
    times = latencies(
        {"float": lambda: float_program(params, batch), "int8": lambda: program(batch)[0]}
    )

    print(integer)
    print()
    count, different = f"{len(test_set)} test images", np.count_nonzero(int8_logits != reference)
    ratio = f"{float_bytes / int8_bytes:.2f} times smaller"
    print(f"accuracy   float {float_accuracy:.2%}   int8 {int8_accuracy:.2%}   on {count}")
    print(f"weights    float {float_bytes:,} bytes   int8 {int8_bytes:,} bytes ({ratio})")
    print(f"latency    float {times['float']:.3f} ms   int8 {times['int8']:.3f} ms for all {count}")
    print(f"computed   float by XLA   int8 by {computed_by}")
    print(f"exactness  {different} of {reference.size} numbers differ from the reference")


if __name__ == "__main__":
    main()
