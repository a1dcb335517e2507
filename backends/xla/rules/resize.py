"""Resampling of the spatial dimensions: slices where the places are regular, else gathers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.codes import code_of, steps
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.backends.xla.materialize import stored
from qir.ir import Node
from qir.ops import ResizeLinear, ResizeNearest
from qir.types import Array

Blend: TypeAlias = Callable[[jax.Array, jax.Array, Array, int], jax.Array]
"""From the lower and the upper neighbours, the weights of the upper ones and their denominator."""


@lowering(ResizeNearest)
def resize_nearest(op: ResizeNearest, node: Node) -> Computation:
    """The nearest places along one axis after the other."""

    def run(x: jax.Array) -> jax.Array:
        for axis, after in enumerate(op.sizes, start=1):
            x = taken(x, op.places(x.shape[axis], after), axis)
        return x

    return Computation(run, node.inputs)


@lowering(ResizeLinear, legal=plain)
def resize_linear(op: ResizeLinear, node: Node) -> Computation:
    """A blend in float32 along one axis after the other."""
    return floating(node, partial(blended, op, blend=_real_blend))


@lowering(ResizeLinear, legal=coded)
def exact_blend(op: ResizeLinear, node: Node) -> Computation:
    """Exact sums with integer weights in int32."""
    code = code_of(node.inputs[0].type)
    return Computation(lambda x: blended(op, steps(stored(x), code), _integer_blend), node.inputs)


def blended(op: ResizeLinear, x: jax.Array, blend: Blend) -> jax.Array:
    """Blends neighbours along one spatial axis after the other."""
    for axis, after in enumerate(op.sizes, start=1):
        lower, upper, weights, denominator = op.taps(x.shape[axis], after)
        x_lower = taken(x, lower, axis)
        if denominator == 1:
            x = x_lower
            continue
        along = np.reshape(weights, [-1 if place == axis else 1 for place in range(x.ndim)])
        x = blend(x_lower, taken(x, upper, axis), along, denominator)
    return x


def _integer_blend(
    lower: jax.Array, upper: jax.Array, weights: Array, denominator: int
) -> jax.Array:
    share = weights.astype(np.int32)
    return lower * (np.int32(denominator) - share) + upper * share


def _real_blend(lower: jax.Array, upper: jax.Array, weights: Array, denominator: int) -> jax.Array:
    return lower + (upper - lower) * (weights / denominator).astype(np.float32)


def taken(x: jax.Array, places: Sequence[int], axis: int) -> jax.Array:
    """Returns x[places] along an axis: a slice, a repetition, or a gather of whole slices."""
    size = x.shape[axis]
    steps = set(np.diff(places).tolist())
    if len(steps) <= 1 and steps != {0} and min(steps, default=1) > 0:
        return lax.slice_in_dim(x, places[0], places[-1] + 1, min(steps, default=1), axis)
    if list(places) == np.repeat(np.arange(size), len(places) // size).tolist():
        return jnp.repeat(x, len(places) // size, axis=axis)
    return x.at[(slice(None),) * axis + (np.asarray(places, np.int32),)].get(
        mode="promise_in_bounds"
    )
