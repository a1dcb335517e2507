"""Sliding windows over channels-last arrays, by slices: what convolution and pooling share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from qir.ops.windows import Pads, dilated


def padded(x: jax.Array, padding: Pads, value: float) -> jax.Array:
    """Pads the spatial dimensions of a channels-last array with one value."""
    if not any(map(any, padding)):
        return x
    sides = [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]
    return lax.pad(x, np.asarray(value).astype(x.dtype), sides)


def places(size: Any, extent: int, stride: int) -> Any:
    """Returns how many windows fit a padded size, which may be symbolic where the stride is 1."""
    return size - extent + 1 if stride == 1 else (size - extent) // stride + 1


def slice_along(x: jax.Array, axis: int, start: int, count: int, stride: int) -> jax.Array:
    """Returns `count` slices along an axis, `stride` apart."""
    limit = start + count if stride == 1 else start + (count - 1) * stride + 1
    return lax.slice_in_dim(x, start, limit, stride, axis)


def tap_slices(
    x: jax.Array, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Iterator[jax.Array]:
    """Yields what each tap of the window meets of a padded array, in row-major order.

    Returns:
        Arrays of shape (batch, output sizes…, channels).
    """
    extents = dilated(window, dilation)
    counts = [places(*sizes) for sizes in zip(x.shape[1:-1], extents, strides, strict=True)]
    for tap in np.ndindex(*window):
        chosen = x
        for axis, (index, step, count, stride) in enumerate(
            zip(tap, dilation, counts, strides, strict=True), start=1
        ):
            chosen = slice_along(chosen, axis, index * step, count, stride)
        yield chosen


def reduce_windows(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    reduce: Callable[[jax.Array, int], jax.Array],
) -> jax.Array:
    """Reduces every window of a padded array, one axis after the other.

    Args:
        x: A channels-last array.
        window: Window sizes.
        strides: Steps between windows.
        combine: Combines two arrays elementwise; associative.
        reduce: `reduce(array, axis)` does the same along an axis, which it keeps.
    """
    for axis, (extent, stride) in enumerate(zip(window, strides, strict=True), start=1):
        size: Any = x.shape[axis]
        count = places(size, extent, stride)
        if isinstance(size, int) and count == 1:
            whole = lax.slice_in_dim(x, 0, extent, axis=axis)
            x = whole if extent == 1 else reduce(whole, axis)
            continue
        slices = [slice_along(x, axis, tap, count, stride) for tap in range(extent)]
        x = slices[0]
        for more in slices[1:]:
            x = combine(x, more)
    return x
