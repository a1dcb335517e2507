"""Sliding windows over channels-last tensors: what convolution and pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from qir.errors import counted
from qir.ops.op import Op
from qir.types import Array, Dim, Size, TensorType, known

Padding: TypeAlias = Literal["valid", "same"] | tuple[tuple[int, int], ...]
"""None, the least for an output of ceil(size / stride), or (before, after) for each dimension."""

Pads: TypeAlias = tuple[tuple[int, int], ...]


def per_dimension(values: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Returns one value for each spatial dimension; an empty tuple means ones."""
    return values or (1,) * count


def check_spatial(
    operation: Op, x: TensorType, window: Sequence[int], **attributes: Sequence[object] | str
) -> None:
    """Checks that an operand and the attributes agree on 1 to 3 spatial dimensions.

    Raises:
        QirError: They don't.
    """
    count = len(window)
    if not 1 <= count <= 3:
        raise operation.error(f"expected 1 to 3 spatial dimensions, got {count}")
    if x.rank != count + 2:
        raise operation.error(
            f"expected a tensor of rank {count + 2} (batch, {count} spatial, channels), got {x}"
        )
    if 0 in window:
        raise operation.error(f"expected a window of at least 1, got {list(window)}")
    for name, value in attributes.items():
        if not isinstance(value, str) and value and len(value) != count:
            raise operation.error(f"expected {counted(count, 'entry')} in {name}, got {len(value)}")


def pads(
    sizes: Sequence[Size], window: Sequence[int], strides: Sequence[int], padding: Padding
) -> Pads:
    """Returns the (before, after) padding of each spatial dimension.

    Args:
        sizes: Spatial sizes of the input.
        window: Window sizes, dilation included.
        strides: Steps between windows.
        padding: The attribute.

    Raises:
        QirError: `same` padding of a named dimension with a stride other than 1.
    """
    if padding == "valid":
        return ((0, 0),) * len(window)
    if not isinstance(padding, str):
        return padding
    found = []
    for size, extent, stride in zip(sizes, window, strides, strict=True):
        total = extent - 1
        if stride != 1:
            length = known(size, "same padding")
            total = max((-(-length // stride) - 1) * stride + extent - length, 0)
        found.append((total // 2, total - total // 2))
    return tuple(found)


def windowed(
    operation: Op,
    sizes: Sequence[Size],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pads,
) -> tuple[Size, ...]:
    """Returns the spatial sizes of the output.

    Raises:
        QirError: A window is larger than its padded input, or a named dimension changes size.
    """
    result: list[Size] = []
    for size, extent, stride, (before, after) in zip(sizes, window, strides, padding, strict=True):
        if isinstance(size, Dim):
            if stride != 1 or before + after != extent - 1:
                raise operation.error(
                    f"the window would change the size of the named dimension {size}"
                )
            result.append(size)
            continue
        room = size + before + after - extent
        if room < 0:
            raise operation.error(
                f"a window of {extent} does not fit a size of {size} with padding "
                f"{before} + {after}"
            )
        result.append(room // stride + 1)
    return tuple(result)


def dilated(window: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Returns the extents of windows whose taps stand `dilation` apart."""
    return tuple((size - 1) * step + 1 for size, step in zip(window, dilation, strict=True))


def pad_spatial(x: Array, padding: Pads, value: float) -> Array:
    """Pads the spatial dimensions of a channels-last array with one value."""
    if not any(map(any, padding)):
        return x
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=np.asarray(value).astype(x.dtype))


def sliding(
    x: Array, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Array:
    """Returns a view of all windows of a padded channels-last array.

    Returns:
        An array of shape (batch, output sizes…, channels, window sizes…).
    """
    count = len(window)
    spatial = tuple(range(1, count + 1))
    view = np.lib.stride_tricks.sliding_window_view(x, dilated(window, dilation), axis=spatial)
    steps = tuple(slice(None, None, stride) for stride in strides)
    taps = tuple(slice(None, None, step) for step in dilation)
    chosen: Array = view[(slice(None), *steps, slice(None), *taps)]
    return chosen
