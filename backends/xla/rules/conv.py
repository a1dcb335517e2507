"""Convolution and its transpose in 1, 2 and 3 spatial dimensions.

XLA's own convolution of signed bytes does not compile for CUDA, and on CPU is a naive loop for 1
and 3 spatial dimensions and for few channels. Slices and dots are fast everywhere; on TPU, where
patches cost memory traffic that its own convolution does not, that is the faster one.
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

from qir.backends.xla.accumulate import MAX_TERMS, Product, accumulation, dot_rows, row_sums
from qir.backends.xla.codes import code_of, signed_zero_points
from qir.backends.xla.lowering import Step, coded, lowering, plain
from qir.backends.xla.windows import padded, tap_slices
from qir.ir import Node
from qir.ops import Conv, ConvTranspose
from qir.ops.conv import Convolution
from qir.types import Array

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def convolution(op: Convolution, node: Node) -> Step:
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

    return Step(run, node.inputs)


def is_depthwise(op: Convolution, node: Node) -> bool:
    """Whether each channel has sums of its own."""
    return coded(op, node) and op.groups > 1 and node.inputs[1].type.shape[-2] == 1


def shifted_multiply_adds(op: Convolution, node: Node) -> Step:
    """Depthwise: one multiply-add in int32 for each tap, on the channels side by side."""

    def product(x: jax.Array, weights: jax.Array, points: Array | None) -> jax.Array:
        wide = weights.astype(jnp.int32) - (0 if points is None else points)
        repeats = wide.shape[-1] // x.shape[-1]
        terms = [
            _repeated(tap, repeats).astype(jnp.int32) * weight
            for tap, weight in zip(_taps(op, node, x), wide, strict=True)
        ]
        acc: jax.Array = reduce(jnp.add, terms)
        return acc

    return _accumulation(node, product, lambda weights: weights.reshape(-1, weights.shape[-1]))


def is_grouped(op: Convolution, node: Node) -> bool:
    """Whether sums are over groups of channels."""
    return coded(op, node) and op.groups > 1


def grouped_patches(op: Convolution, node: Node) -> Step:
    """The patch under each window as a row for each group, and one dot batched over the groups."""

    def pack(weights: Any) -> Any:
        rows = weights.reshape(-1, op.groups, weights.shape[-1] // op.groups)
        return rows.transpose(1, 0, 2)

    def product(x: jax.Array, weights: jax.Array, points: Array | None) -> jax.Array:
        taps = [tap.reshape(*tap.shape[:-1], op.groups, -1) for tap in _taps(op, node, x)]
        rows = jnp.concatenate(taps, axis=-1)
        dimensions = (((rows.ndim - 1,), (1,)), ((rows.ndim - 2,), (0,)))
        acc = lax.dot_general(rows, weights, dimensions, preferred_element_type=jnp.int32)
        acc = jnp.moveaxis(acc, 0, -2)
        if points is not None:
            along_outputs = np.broadcast_to(points, acc.shape[-2] * acc.shape[-1])
            acc = acc - row_sums(rows) * along_outputs.reshape(acc.shape[-2:])
        return acc.reshape(*acc.shape[:-2], -1)

    return _accumulation(node, product, pack)


def patches(op: Convolution, node: Node) -> Step:
    """The patch under each window as a row (im2col), and one dot; for one tap the dot alone."""
    *window, channels, _ = node.inputs[1].type.known_shape
    strides, *_ = op.geometry(node.inputs[0].type.shape[1:-1], window)
    # A TPU pads few channels to 128. In two dimensions rows of strided patches cost less than that.
    thin = len(window) == 2 and max(strides) > 1 and channels <= 8

    def product(x: jax.Array, weights: jax.Array, points: Array | None) -> jax.Array:
        if points is not None:
            return dot_rows(jnp.concatenate(list(_taps(op, node, x)), axis=-1), weights, points)
        rows = partial(patch_dot, op, node)
        if prod(window) == 1 or weights.shape[0] > MAX_TERMS:
            return rows(x, weights)
        direct = rows if thin else partial(direct_product, op, node)
        acc: jax.Array = lax.platform_dependent(
            x, weights, cuda=partial(rows, multiple=4), tpu=direct, default=rows
        )
        return acc

    return _accumulation(node, product, lambda weights: weights.reshape(-1, weights.shape[-1]))


def patch_dot(
    op: Convolution, node: Node, x: jax.Array, weights: jax.Array, multiple: int = 1
) -> jax.Array:
    """Multiplies the patch under each window with the weights.

    Args:
        op: The convolution.
        node: Its node.
        x: Signed bytes, channels last.
        weights: Signed bytes, a row for each number of a patch.
        multiple: Zeros lengthen the rows to a multiple of this. Rows that are no multiple of 4
            bytes make the matrix product of CUDA load single bytes.
    """
    taps = list(_taps(op, node, x))
    spare = -weights.shape[0] % multiple
    if spare:
        taps.append(jnp.zeros((*taps[0].shape[:-1], spare), x.dtype))
        weights = jnp.pad(weights, ((0, spare), (0, 0)))
    return dot_rows(jnp.concatenate(taps, axis=-1), weights, None)


def direct_product(op: Convolution, node: Node, x: jax.Array, weights: jax.Array) -> jax.Array:
    """Convolves as `patch_dot` does, by XLA's convolution of signed bytes."""
    z, window, strides, dilation = _framed(op, node, x)
    kernel = weights.reshape(*window, x.shape[-1], weights.shape[-1])
    return lax.conv_general_dilated(
        z,
        kernel,
        strides,
        [(0, 0)] * len(window),
        rhs_dilation=dilation,
        dimension_numbers=LAYOUTS[len(window)],
        preferred_element_type=np.dtype(np.int32),
    )


def _accumulation(node: Node, product: Product, pack: Any) -> Step:
    return accumulation(node, tuple(range(node.inputs[1].type.rank - 1)), product, pack)


def _taps(op: Convolution, node: Node, x: jax.Array) -> Iterator[jax.Array]:
    """Yields what each tap meets of signed bytes, padded with their zero point."""
    return tap_slices(*_framed(op, node, x))


def _framed(
    op: Convolution, node: Node, x: jax.Array
) -> tuple[jax.Array, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Returns x padded with its zero point, and the window, strides and dilation over it."""
    operand, kernel, *_ = node.inputs
    window = kernel.type.known_shape[:-2]
    strides, dilation, padding = op.geometry(operand.type.shape[1:-1], window)
    point = int(signed_zero_points(code_of(operand.type))[0])
    if not isinstance(op, ConvTranspose):
        return padded(x, padding, point), window, strides, dilation
    between = [(*sides, stride - 1) for sides, stride in zip(padding, strides, strict=True)]
    z = lax.pad(x, np.asarray(point, x.dtype), [(0, 0, 0), *between, (0, 0, 0)])
    return z, window, (1,) * len(window), dilation


def _repeated(x: jax.Array, count: int) -> jax.Array:
    return x if count == 1 else jnp.repeat(x, count, axis=-1)


lowering(Conv, legal=plain)(convolution)
lowering(Conv, legal=is_depthwise)(shifted_multiply_adds)
lowering(Conv, legal=is_grouped)(grouped_patches)
lowering(Conv, legal=coded)(patches)
