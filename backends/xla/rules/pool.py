"""Pooling over sliding windows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.computation import Computation, Parameter
from qir.backends.xla.codes import code_of, steps
from qir.backends.xla.lowering import coded, floating, lowering, plain
from qir.backends.xla.materialize import applied_apart
from qir.backends.xla.requantize import no_form, rescaling
from qir.backends.xla.windows import padded, reduce_windows
from qir.ir import Node
from qir.numbers.rounding import rounding_mode
from qir.ops import AvgPool, MaxPool
from qir.types import Array


@lowering(MaxPool)
def max_pool(op: MaxPool, node: Node) -> Computation:
    """Slices and maximum in the stored type; XLA's windowed reduction of bytes is slow."""
    strides, padding = op.geometry(node.inputs[0].type.shape[1:-1])
    dtype = node.output.type.dtype
    least = np.iinfo(dtype.numpy).min if dtype.is_integer else -np.inf

    def run(x: jax.Array) -> jax.Array:
        framed = applied_apart(lambda x: padded(x, padding, least), x)
        return reduce_windows(framed, op.window, strides, jnp.maximum, _maximum_along)

    return Computation(run, node.inputs)


@lowering(AvgPool, legal=plain)
def avg_pool(op: AvgPool, node: Node) -> Computation:
    """The sum of each window over the count of its taps."""

    def run(x: jax.Array) -> jax.Array:
        return _window_sums(op, node, x) / _counts(op, x.shape[1:-1]).astype(x.dtype)

    return floating(node, run)


def _sums(op: AvgPool, node: Node) -> bool:
    return coded(op, node) and op.to is None


@lowering(AvgPool, legal=_sums)
def exact_window_sum(op: AvgPool, node: Node) -> Computation:
    """Exact sums in int32."""
    code = code_of(node.inputs[0].type)
    return Computation(lambda x: _window_sums(op, node, steps(x, code)), node.inputs)


def _means(op: AvgPool, node: Node) -> bool:
    return op.to is not None and rounding_mode(op.rounding).has_machine_form


def _no_form(op: AvgPool, node: Node) -> str:
    return no_form(f"avg_pool %{node.output.name}", op.rounding, code_of(node.output.type).range)


@lowering(AvgPool, legal=_means, why_not=_no_form)
def rounded_window_mean(op: AvgPool, node: Node) -> Computation:
    """Exact sums in int32, each rounded with a multiplier that holds the count of its taps."""
    x_type, code = node.inputs[0].type, code_of(node.output.type)

    def run(x: jax.Array) -> jax.Array:
        sums = _window_sums(op, node, steps(x, code_of(x_type)))
        # Known while tracing, where named dimensions have their sizes.
        multiplier = op.multipliers(x_type, _counts(op, x.shape[1:-1]))
        rescale, factors = rescaling(node.output.name, multiplier, code, code.range, op.rounding)
        arrays = (factor.array if isinstance(factor, Parameter) else factor for factor in factors)
        return rescale(sums, *map(jnp.asarray, arrays))

    return Computation(run, node.inputs)


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
