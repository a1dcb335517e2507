"""Patches: the numbers under each place of a sliding window as a row, for one matrix product.

The ways to build them differ in speed only. On CPU a gather of whole pixels is one loop that XLA
compiles once for all layers of a shape; a concatenation is compiled anew each time and has a loop
for every operand. On TPU a gather is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from qir.backends.xla.windows import places, slice_along, tap_slices
from qir.ops.windows import dilated


@dataclass(frozen=True)
class Window:
    """A window that slides over the spatial dimensions of a channels-last array.

    Args:
        sizes: Number of taps along each dimension.
        strides: Steps between its places.
        dilation: Steps between its taps.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def taps(self) -> int:
        """Number of taps."""
        return prod(self.sizes)

    def counts(self, sizes: tuple[Any, ...]) -> list[Any]:
        """Returns how many places it has over an array of these spatial sizes."""
        each = zip(sizes, dilated(self.sizes, self.dilation), self.strides, strict=True)
        return [places(*parts) for parts in each]


Patches: TypeAlias = Callable[[jax.Array, Window], jax.Array]
"""From a padded array to rows of shape (batch, places…, taps * channels), taps in row-major order.
"""


def by_taps(x: jax.Array, window: Window) -> jax.Array:
    """Concatenates what each tap meets."""
    taps = tap_slices(x, window.sizes, window.strides, window.dilation)
    return jnp.concatenate(list(taps), axis=-1)


def by_axis(x: jax.Array, window: Window) -> jax.Array:
    """Concatenates along the last dimension first, then along the one before: few slices."""
    counts = window.counts(x.shape[1:-1])
    for axis in range(len(counts), 0, -1):
        index = axis - 1
        size, step, stride = window.sizes[index], window.dilation[index], window.strides[index]
        slices = [slice_along(x, axis, tap * step, counts[index], stride) for tap in range(size)]
        x = jnp.concatenate(slices, axis=-1) if size > 1 else slices[0]
    return x


def gathered(x: jax.Array, window: Window) -> jax.Array:
    """Gathers pixels; the spatial sizes must be known numbers."""
    counts = window.counts(x.shape[1:-1])
    grid = (*counts, *window.sizes)
    index: Any = 0
    for axis, size in enumerate(x.shape[1:-1]):
        place = lax.broadcasted_iota(jnp.int32, grid, axis) * window.strides[axis]
        tap = lax.broadcasted_iota(jnp.int32, grid, len(counts) + axis) * window.dilation[axis]
        index = index * size + place + tap
    # Of a batch without images, a size of -1 could be any.
    pixels = x.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1])
    found = pixels.at[:, index].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return found.reshape(x.shape[0], *counts, window.taps * x.shape[-1])
