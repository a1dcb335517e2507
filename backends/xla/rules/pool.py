"""Pooling over sliding windows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.steps import Step
from qir.backends.xla.arithmetic import requantize_scaled
from qir.backends.xla.codes import code_of, steps
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.backends.xla.materialize import applied_apart
from qir.backends.xla.windows import padded, reduce_windows
from qir.ir import Node
from qir.numbers.rounding import ROUNDINGS
from qir.ops import AvgPool, MaxPool
from qir.types import Array


@lowering(MaxPool)
def max_pool(op: MaxPool, node: Node) -> Step:
    """Slices and maximum in the stored type; XLA's windowed reduction of bytes is slow."""
    strides, padding = op.geometry(node.inputs[0].type.shape[1:-1])
    dtype = node.output.type.dtype
    least = np.iinfo(dtype.numpy).min if dtype.is_integer else -np.inf

    def run(x: jax.Array) -> jax.Array:
        framed = applied_apart(lambda x: padded(x, padding, least), x)
        return reduce_windows(framed, op.window, strides, jnp.maximum, _maximum_along)

    return Step(run, node.inputs)


@lowering(AvgPool, legal=plain)
def avg_pool(op: AvgPool, node: Node) -> Step:
    """The sum of each window over the count of its taps."""

    def run(x: jax.Array) -> jax.Array:
        return _window_sums(op, node, x) / _counts(op, x.shape[1:-1]).astype(x.dtype)

    return floating(node, run)


@lowering(AvgPool, legal=coded)
def rescaled_window_sum(op: AvgPool, node: Node) -> Step:
    """Exact sums in int32, each rescaled by a multiplier that holds the count of its taps."""
    x_code, code = code_of(node.inputs[0].type), code_of(node.output.type)
    (low, high), dtype = code.range, code.storage.numpy

    def run(x: jax.Array) -> jax.Array:
        sums = _window_sums(op, node, steps(x, x_code))
        scale = code.scale.array * _counts(op, x.shape[1:-1]).astype(np.float64)
        factor = ROUNDINGS["fixed31"].multipliers(x_code.scale.array, scale)
        return requantize_scaled(
            sums, factor.value, factor.shift, code.zero_points, low, high, dtype
        )

    return Step(run, node.inputs)


def _window_sums(op: AvgPool, node: Node, x: jax.Array) -> jax.Array:
    strides, padding = op.geometry(node.inputs[0].type.shape[1:-1])
    return reduce_windows(padded(x, padding, 0), op.window, strides, jnp.add, _sum_along)


def _maximum_along(x: jax.Array, axis: int) -> jax.Array:
    return jnp.max(x, axis=axis, keepdims=True)


def _sum_along(x: jax.Array, axis: int) -> jax.Array:
    return jnp.sum(x, axis=axis, keepdims=True, dtype=x.dtype)


def _counts(op: AvgPool, sizes: tuple[Any, ...]) -> Array:
    """Returns the counts of taps, known while tracing unless a spatial size is symbolic."""
    if all(isinstance(size, int) for size in sizes):
        return op.counts(sizes)
    if op.padding != "valid" and not op.count_padding:
        raise op.error("the number of taps depends on a named dimension; export it at a fixed size")
    return np.asarray(np.prod(op.window))
