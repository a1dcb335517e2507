"""Convolution and its transpose in 1, 2 and 3 spatial dimensions.

XLA's own convolution of signed bytes does not compile for CUDA, and on CPU is a naive loop for 1
and 3 spatial dimensions and for few channels, and hardly threaded for the rest. Patches and dots
are fast everywhere; on TPU, where patches cost memory traffic that its own convolution does not,
that is the faster one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.accumulate import (
    MAX_TERMS,
    Product,
    accumulation,
    dot_rows,
    row_sums,
    sums_bytes,
    sums_numbers,
)
from qir.backends.xla.codes import signed_zero_points
from qir.backends.xla.lowering import lowering, never
from qir.backends.xla.materialize import applied_apart
from qir.backends.xla.patches import Patches, Window, by_axis, by_taps, gathered
from qir.backends.xla.windows import padded, tap_slices
from qir.ir import Node
from qir.ops import Conv, ConvTranspose
from qir.ops.conv import Convolution
from qir.types import Array

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def convolution(op: Convolution, node: Node) -> Computation:
    """XLA's convolution, with float32 sums; integers wrap."""
    x, kernel, *_ = node.inputs
    element = node.output.type.dtype
    strides, dilation, padding = op.geometry(x.type.shape[1:-1], kernel.type.known_shape[:-2])
    ones = (1,) * len(strides)
    spread, steps = (strides, ones) if isinstance(op, ConvTranspose) else (ones, strides)
    multiply = partial(
        lax.conv_general_dilated,
        window_strides=steps,
        padding=padding,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=LAYOUTS[len(strides)],
        feature_group_count=op.groups,
        preferred_element_type=np.float32 if element.is_float else element.numpy,
    )

    def run(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        result = multiply(x, kernel)
        return (result if bias is None else result + bias).astype(element.numpy)

    return Computation(run, node.inputs)


def is_depthwise(op: Convolution, node: Node) -> bool:
    """Whether each channel has sums of its own."""
    return sums_bytes(op, node) and op.groups > 1 and node.inputs[1].type.shape[-2] == 1


def shifted_multiply_adds(op: Convolution, node: Node) -> Computation:
    """Depthwise: one multiply-add in int32 for each tap, on the channels side by side."""

    def product(x: jax.Array, weights: jax.Array, points: Array | None, zero: int) -> jax.Array:
        wide = weights.astype(jnp.int32) - (0 if points is None else points)
        repeats = wide.shape[-1] // x.shape[-1]
        terms = [
            _repeated(tap, repeats).astype(jnp.int32) * weight
            for tap, weight in zip(_taps(op, node, x, zero), wide, strict=True)
        ]
        acc: jax.Array = reduce(jnp.add, terms)
        return acc

    return _accumulation(op, node, product, _in_rows)


def is_grouped(op: Convolution, node: Node) -> bool:
    """Whether sums are over groups of channels."""
    return sums_bytes(op, node) and op.groups > 1 and not is_depthwise(op, node)


def grouped_patches(op: Convolution, node: Node) -> Computation:
    """The patch under each window as a row for each group, and one dot batched over the groups."""

    def pack(weights: Any) -> Any:
        terms = prod(weights.shape[:-1])
        rows = weights.reshape(terms, op.groups, weights.shape[-1] // op.groups)
        return rows.transpose(1, 0, 2)

    def product(x: jax.Array, weights: jax.Array, points: Array | None, zero: int) -> jax.Array:
        width = x.shape[-1] // op.groups
        taps = [tap.reshape(*tap.shape[:-1], op.groups, width) for tap in _taps(op, node, x, zero)]
        rows = jnp.concatenate(taps, axis=-1)
        dimensions = (((rows.ndim - 1,), (1,)), ((rows.ndim - 2,), (0,)))
        acc = lax.dot_general(rows, weights, dimensions, preferred_element_type=jnp.int32)
        acc = jnp.moveaxis(acc, 0, -2)
        if points is not None:
            along_outputs = np.broadcast_to(points, acc.shape[-2] * acc.shape[-1])
            acc = acc - row_sums(rows) * along_outputs.reshape(acc.shape[-2:])
        return acc.reshape(*acc.shape[:-2], acc.shape[-2] * acc.shape[-1])

    return _accumulation(op, node, product, pack)


def is_dense(op: Convolution, node: Node) -> bool:
    """Whether each sum is over all channels."""
    return sums_bytes(op, node) and op.groups == 1


def is_pointwise(op: Convolution, node: Node) -> bool:
    """Whether each sum is over the channels of one place."""
    *window, _, _ = node.inputs[1].type.known_shape
    *_, padding = op.geometry(node.inputs[0].type.shape[1:-1], window)
    return is_dense(op, node) and prod(window) == 1 and not any(map(any, padding))


def pointwise(op: Convolution, node: Node) -> Computation:
    """One dot; with strides, of the places that remain."""

    def product(x: jax.Array, weights: jax.Array, points: Array | None, zero: int) -> jax.Array:
        (places,) = _taps(op, node, x, zero)
        return dot_rows(places, weights, points)

    return _accumulation(op, node, product, _in_rows)


def has_patches(op: Convolution, node: Node) -> bool:
    """Whether each sum is over all channels, and the patches are not just the operand."""
    *window, _, _ = node.inputs[1].type.known_shape
    strides, *_ = op.geometry(node.inputs[0].type.shape[1:-1], window)
    return is_dense(op, node) and not (is_pointwise(op, node) and max(strides) == 1)


def has_known_patches(op: Convolution, node: Node) -> bool:
    """Whether there are patches, and the spatial sizes are numbers."""
    sizes = node.inputs[0].type.shape[1:-1]
    return has_patches(op, node) and all(isinstance(size, int) for size in sizes)


def has_pixels(op: Convolution, node: Node) -> bool:
    """Whether a pixel is long enough to be worth an index, or patches are small."""
    *window, channels, _ = node.inputs[1].type.known_shape
    return channels >= 16 or prod(window) <= 9


def gathered_patches(op: Convolution, node: Node) -> Computation:
    """The patch under each window as a row, by a gather of pixels on CPU, and one dot."""
    return _patch_product(op, node, gathered)


def patches_by_axis(op: Convolution, node: Node) -> Computation:
    """The patch under each window as a row, one axis after the other on CPU, and one dot."""
    return _patch_product(op, node, by_axis)


def patches(op: Convolution, node: Node) -> Computation:
    """The patch under each window as a row (im2col), tap by tap, and one dot."""
    return _patch_product(op, node, by_taps)


def has_a_fast_convolution(op: Convolution, node: Node) -> bool:
    """Whether XLA's convolution of these signed bytes is more than a naive loop on CPU."""
    kernel = node.inputs[1].type
    if not is_dense(op, node) or kernel.rank != 4 or kernel.dtype.bits > 8:
        return False
    return not np.any(signed_zero_points(kernel))


def direct_convolution(op: Convolution, node: Node) -> Computation:
    """XLA's convolution of signed bytes on CPU; as `patches` elsewhere."""
    return _patch_product(op, node, None)


def _patch_product(op: Convolution, node: Node, on_cpu: Patches | None) -> Computation:
    """Builds a dot of patches.

    Args:
        op: The convolution.
        node: Its node.
        on_cpu: How patches are built on CPU; None for XLA's convolution instead.
    """
    *window, channels, _ = node.inputs[1].type.known_shape
    strides, *_ = op.geometry(node.inputs[0].type.shape[1:-1], window)
    # A TPU pads few channels to 128. In two dimensions rows of strided patches cost less than that.
    thin = len(window) == 2 and max(strides) > 1 and channels <= 8

    def product(x: jax.Array, weights: jax.Array, points: Array | None, zero: int) -> jax.Array:
        rows = partial(patch_dot, op, node, points=points, zero=zero)
        direct = partial(direct_product, op, node, zero=zero)
        variants = {"cpu": direct if on_cpu is None else partial(rows, patches=on_cpu)}
        if points is None and weights.shape[0] <= MAX_TERMS:
            variants |= {"cuda": partial(rows, multiple=4), "tpu": rows if thin else direct}
        acc: jax.Array = lax.platform_dependent(x, weights, **variants, default=rows)
        return acc

    return _accumulation(op, node, product, _in_rows)


def patch_dot(
    op: Convolution,
    node: Node,
    x: jax.Array,
    weights: jax.Array,
    points: Array | None = None,
    patches: Patches = by_taps,
    multiple: int = 1,
    zero: int = 0,
) -> jax.Array:
    """Multiplies the patch under each window with the weights.

    Args:
        op: The convolution.
        node: Its node.
        x: Signed bytes, channels last.
        weights: Signed bytes, a row for each number of a patch.
        points: Zero points of the weights, or None for 0.
        patches: How patches are built.
        multiple: Zeros lengthen the rows to a multiple of this. Rows that are no multiple of 4
            bytes make the matrix product of CUDA load single bytes.
        zero: The byte of x that stands for 0.
    """
    rows = patches(*_framed(op, node, x, zero))
    spare = -weights.shape[0] % multiple
    if spare:
        rows = jnp.concatenate([rows, jnp.zeros((*rows.shape[:-1], spare), x.dtype)], axis=-1)
        weights = jnp.pad(weights, ((0, spare), (0, 0)))
    return dot_rows(rows, weights, points)


def direct_product(
    op: Convolution, node: Node, x: jax.Array, weights: jax.Array, zero: int
) -> jax.Array:
    """Convolves as `patch_dot` does, by XLA's convolution of signed bytes."""
    z, window = _framed(op, node, x, zero)
    kernel = weights.reshape(*window.sizes, x.shape[-1], weights.shape[-1])
    return lax.conv_general_dilated(
        z,
        kernel,
        window.strides,
        [(0, 0)] * len(window.sizes),
        rhs_dilation=window.dilation,
        dimension_numbers=LAYOUTS[len(window.sizes)],
        preferred_element_type=np.dtype(np.int32),
    )


def _accumulation(op: Convolution, node: Node, product: Product, pack: Any) -> Computation:
    return accumulation(node, tuple(range(node.inputs[1].type.rank - 1)), product, pack)


def _in_rows(weights: Any) -> Any:
    """Returns weights with a row for each number of a patch."""
    return weights.reshape(prod(weights.shape[:-1]), weights.shape[-1])


def _taps(op: Convolution, node: Node, x: jax.Array, zero: int) -> Iterator[jax.Array]:
    """Yields what each tap meets of signed bytes, padded with the one that stands for 0."""
    z, window = _framed(op, node, x, zero)
    return tap_slices(z, window.sizes, window.strides, window.dilation)


def _framed(op: Convolution, node: Node, x: jax.Array, zero: int) -> tuple[jax.Array, Window]:
    """Returns x padded with the byte that stands for 0, and the window over it."""
    operand, kernel, *_ = node.inputs
    sizes = kernel.type.known_shape[:-2]
    strides, dilation, padding = op.geometry(operand.type.shape[1:-1], sizes)
    window = Window(sizes, strides, dilation)

    def frame(x: jax.Array) -> jax.Array:
        if not isinstance(op, ConvTranspose):
            return padded(x, padding, zero)
        between = [(*sides, stride - 1) for sides, stride in zip(padding, strides, strict=True)]
        return lax.pad(x, np.asarray(zero, x.dtype), [(0, 0, 0), *between, (0, 0, 0)])

    if isinstance(op, ConvTranspose):
        window = Window(sizes, (1,) * len(sizes), dilation)
    return applied_apart(frame, x) if window.taps > 1 else frame(x), window


def _repeated(x: jax.Array, count: int) -> jax.Array:
    return x if count == 1 else jnp.repeat(x, count, axis=-1)


lowering(Conv, legal=sums_numbers)(convolution)
lowering(Conv, legal=is_depthwise)(shifted_multiply_adds)
lowering(Conv, legal=is_grouped)(grouped_patches)
lowering(Conv, legal=is_pointwise)(pointwise)
lowering(Conv, legal=has_known_patches, preferred=has_pixels)(gathered_patches)
lowering(Conv, legal=has_patches)(patches_by_axis)
lowering(Conv, legal=has_patches, preferred=never)(patches)
lowering(Conv, legal=has_a_fast_convolution, preferred=never)(direct_convolution)
