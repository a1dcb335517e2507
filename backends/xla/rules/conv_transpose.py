"""Transposed convolution: by phases, so that no inserted zero is multiplied, or as a convolution.

Along a dimension of stride s, the results whose places leave the same remainder r modulo s form a
phase. Tap t of dilation d meets a number of x, not a zero, only in the phase where r + t*d - low is
a multiple of s; there it moves over x by steps of 1. So each phase is a plain convolution of x with
its own taps, and every tap belongs to one phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as combinations
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla.accumulate import accumulation, dot_rows, sums_bytes, sums_numbers
from qir.backends.xla.lowering import lowering
from qir.backends.xla.rules.conv import (
    convolution,
    grouped_patches,
    is_dense,
    is_depthwise,
    is_grouped,
    patches,
    shifted_multiply_adds,
)
from qir.ir import Node
from qir.ops import ConvTranspose
from qir.types import Array


@dataclass(frozen=True)
class TransposedAxis:
    """A spatial dimension of a transposed convolution.

    Args:
        stride: Number of phases.
        more: Places of the result beyond stride times the places of x; may be negative.
        taps: For each phase its taps, as pairs of index and offset: the tap meets x[m + offset] for
            the m-th place of the phase.
    """

    stride: int
    more: int
    taps: tuple[tuple[tuple[int, int], ...], ...]

    @staticmethod
    def of(window: int, stride: int, dilation: int, padding: tuple[int, int]) -> TransposedAxis:
        """Sorts the taps of a window into phases."""
        shifts = [(tap, tap * dilation - padding[0]) for tap in range(window)]
        taps = tuple(
            tuple(
                (tap, (r + shift) // stride) for tap, shift in shifts if (r + shift) % stride == 0
            )
            for r in range(stride)
        )
        return TransposedAxis(stride, sum(padding) - (window - 1) * dilation + 1 - stride, taps)

    @property
    def rest(self) -> int:
        """Places of a phase beyond those of x."""
        return -(-self.more // self.stride)

    @property
    def padding(self) -> tuple[int, int]:
        """Places that x needs before and after it."""
        offsets = [offset for phase in self.taps for _, offset in phase]
        return max(0, -min(offsets)), max(0, max(offsets) + self.rest)


def _strided(op: ConvTranspose, node: Node) -> bool:
    return sums_bytes(op, node) and op.groups == 1 and max(op.strides, default=1) > 1


lowering(ConvTranspose, legal=sums_numbers)(convolution)


@lowering(ConvTranspose, legal=_strided)
def phases(op: ConvTranspose, node: Node) -> Computation:
    """For each phase the patch under its taps as a row, and one dot."""
    operand, kernel, *_ = node.inputs
    window = kernel.type.known_shape[:-2]
    geometry = op.geometry(operand.type.shape[1:-1], window)
    axes = [TransposedAxis.of(*parts) for parts in zip(window, *geometry, strict=True)]
    # For each phase the taps that it has in every dimension.
    taps = [
        list(combinations(*(axis.taps[r] for axis, r in zip(axes, phase, strict=True))))
        for phase in np.ndindex(*op.strides)
    ]
    order = [
        int(np.ravel_multi_index([tap for tap, _ in place], window))
        for own in taps
        for place in own
    ]

    def pack(weights: Any) -> Any:
        rows = weights.reshape(prod(weights.shape[:-2]), *weights.shape[-2:])[np.asarray(order)]
        return rows.reshape(prod(weights.shape[:-1]), weights.shape[-1])

    def product(x: jax.Array, weights: jax.Array, points: Array | None, point: int) -> jax.Array:
        sizes = [size + axis.rest for size, axis in zip(x.shape[1:-1], axes, strict=True)]
        sides = [(0, 0, 0), *((*axis.padding, 0) for axis in axes), (0, 0, 0)]
        z = lax.pad(x, np.asarray(point, x.dtype), sides)
        results, first = [], 0
        for own in taps:
            terms = len(own) * x.shape[-1]
            mine = weights[first : first + terms]
            first += terms
            met = [_shifted(z, axes, [offset for _, offset in place], sizes) for place in own]
            if own:
                acc = dot_rows(jnp.concatenate(met, axis=-1), mine, points)
            else:
                acc = jnp.zeros((x.shape[0], *sizes, weights.shape[-1]), jnp.int32)
            if point:
                # The other taps meet inserted zeros, which the zero point's correction counts too.
                others = jnp.sum(weights, 0, jnp.int32) - jnp.sum(mine, 0, jnp.int32)
                if points is not None:
                    others = others - (weights.shape[0] - terms) * points
                acc = acc + point * others
            results.append(acc)
        return _interleaved(results, axes, x.shape[1:-1])

    summed = tuple(range(kernel.type.rank - 1))
    return accumulation(node, summed, product, pack)


lowering(ConvTranspose, legal=is_depthwise)(shifted_multiply_adds)
lowering(ConvTranspose, legal=is_grouped)(grouped_patches)
lowering(ConvTranspose, legal=is_dense)(patches)


def _shifted(
    z: jax.Array, axes: Sequence[TransposedAxis], offsets: Sequence[int], sizes: Sequence[int]
) -> jax.Array:
    """Returns what a tap meets of the padded operand."""
    for place, (axis, offset, size) in enumerate(zip(axes, offsets, sizes, strict=True), start=1):
        start = axis.padding[0] + offset
        z = lax.slice_in_dim(z, start, start + size, axis=place)
    return z


def _interleaved(
    results: Sequence[jax.Array], axes: Sequence[TransposedAxis], sizes: Sequence[int]
) -> jax.Array:
    """Puts phases, in row-major order of their remainders, side by side and crops the result."""
    count = len(axes)
    batch, *places, outputs = results[0].shape
    strides = [axis.stride for axis in axes]
    stacked = jnp.stack(results, axis=1).reshape(batch, *strides, *places, outputs)
    pairs = [axis for place in range(1, count + 1) for axis in (place + count, place)]
    merged = [size * stride for size, stride in zip(places, strides, strict=True)]
    whole = stacked.transpose(0, *pairs, 2 * count + 1).reshape(batch, *merged, outputs)
    for place, (size, axis) in enumerate(zip(sizes, axes, strict=True), start=1):
        whole = lax.slice_in_dim(whole, 0, size * axis.stride + axis.more, axis=place)
    return whole
