"""Convolutions with windows of 3 x 3 by Winograd's transform: where it is exact, and worth it."""

from __future__ import annotations

from functools import reduce
from math import prod

import numpy as np

from qir.backends.xla.cpu.cover import Cover, Region
from qir.backends.xla.cpu.covers import dense
from qir.backends.xla.cpu.covers.dense import (
    TASK_PRODUCTS,
    Ending,
    folded_bias,
    spatial_words,
    trim,
)
from qir.backends.xla.cpu.kernels.tiles import UNROLLED
from qir.backends.xla.cpu.kernels.transforms import TRANSFORMS, Transform
from qir.backends.xla.cpu.kernels.winograd import (
    CHANNELS,
    CORNER_BYTES,
    Winograd,
    row_stride,
)
from qir.backends.xla.cpu.target import Target
from qir.ir import Node
from qir.ops import Conv
from qir.types import Array

TRANSFORMED_BYTES = 128 * 1024
"""What a task transforms at most, so that it stays in the second-level cache."""
BLOCK_PATCHES = 12
"""Least patches of a block, since each block reads the weights again."""
RANGE_PANELS = 4
"""Least panels of a range, since each range transforms its patches again."""
TASKS = 8
"""Tasks of each thread, where there is enough to do."""


def winograd(op: Conv, node: Node, end: Ending, target: Target, tile: int) -> Cover | str:
    """Covers a convolution with windows of 3 x 3 and steps of 1, and perhaps a depth.

    Args:
        op: The convolution.
        node: Its node.
        end: What follows it.
        target: The instruction set.
        tile: Places that a patch gives in each direction.
    """
    transform = TRANSFORMS[tile]
    x, kernel, *bias = node.inputs
    if reason := unfit(op, node, target) or dense.unfit(x, kernel, bias):
        return reason
    code, weight_code = x.type.quant, kernel.type.quant
    assert code is not None
    assert weight_code is not None
    point = int(code.zero_points)

    def centred() -> Array:
        # Stored in 8 bits, as unfit says: 16 are enough for the sum of nine.
        zero_points = np.asarray(weight_code.zero_points, np.int16)
        return kernel.array.astype(np.int16) - zero_points

    weights = centred()
    low, high = (bound - point for bound in code.storage.bounds)
    if reason := _overflow(weights, low, high, transform.bits):
        return reason
    *window, channels, columns = kernel.type.known_shape
    inputs = (x,) if end.residual is None else (x, end.residual)
    result = (node, *end.nodes)[-1].output
    step = target.group * UNROLLED
    tap_groups = -(-channels // step) * UNROLLED
    panels = -(-columns // target.columns)
    # The last panel overlaps the one before, so that none passes the end of a tensor.
    starts = np.minimum(np.arange(panels) * target.columns, columns - target.columns)
    order = np.add.outer(starts, np.arange(target.columns))
    tables = {
        "bias": folded_bias(weights.reshape(-1, columns), 0, bias),
        **{name: np.broadcast_to(array, columns) for name, array in end.tables.items()},
    }

    def packed(weights: Array) -> Array:
        taps = weights.reshape(-1, 9, channels, columns).swapaxes(0, 1)
        whole = np.zeros((transform.positions, taps.shape[1], 2 * tap_groups, columns), np.int16)
        whole[:, :, :channels] = _transformed(transform, taps)
        pairs = whole.reshape(transform.positions, -1, 2, columns)[..., order]
        return np.ascontiguousarray(pairs.transpose(3, 0, 1, 4, 2))

    def write(region: Region) -> None:
        shape = region.shape(x)
        spatial = spatial_words(op, shape, region.shape(node.output), window)
        planes = shape[0] * spatial["places_depth"]
        high, wide = (-(-spatial[f"places_{axis}"] // tile) for axis in ("height", "width"))
        deep = len(window) == 3
        taps = trim(spatial, "depth")
        slabs = planes if deep else 1
        slab_patches = planes * high * wide // slabs
        row_bytes = _odd_lines(min(spatial["window_depth"], spatial["size_depth"]) * 4 * tap_groups)
        products = spatial["window_depth"] * channels * columns
        block_patches, ranges = _split(
            slabs, slab_patches, panels, products, row_bytes, region, transform
        )
        position_bytes = _odd_lines(block_patches * row_bytes)
        blocks = -(-slab_patches // block_patches)
        words = {
            **spatial,
            **end.words,
            "slab_patches": slab_patches,
            "blocks": blocks,
            "block_patches": block_patches,
            "ranges": ranges,
            "range_panels": -(-panels // ranges),
            "panels": panels,
            "columns": columns,
            "patches_height": high,
            "patches_width": wide,
            "bytes_depth": prod(shape[-3:]),
            "bytes_height": prod(shape[-2:]),
            "images_bytes": prod(shape[1:]),
            "pixel": channels,
            "tap_groups": tap_groups,
            "row_bytes": row_bytes,
            "position_bytes": position_bytes,
            "out_pixel": region.pitch(result),
            "zero_point": point,
        }
        tensors = {
            "x": region.read(x),
            "fill": region.parameter(np.full(channels, point, code.storage.numpy)),
            "weights": region.parameter(packed(centred()[taps] if deep else centred())),
            **{name: region.parameter(table) for name, table in tables.items()},
            "out": region.write(result),
        }
        if end.residual is not None:
            tensors["residual"] = region.read(end.residual)
        sums_bytes = row_stride(tile, target.columns) + CORNER_BYTES
        region.plan.step(
            result.name,
            Winograd(tile, low + point == 0, end.epilogue),
            words,
            tensors,
            tasks=slabs * blocks * ranges,
            scratch=transform.positions * position_bytes + block_patches * sums_bytes,
        )

    return Cover((node, *end.nodes), inputs, write, rows_apart=True)


def unfit(op: Conv, node: Node, target: Target) -> str:
    """Returns why a convolution has no such form; nothing where it does.

    Args:
        op: The convolution.
        node: Its node.
        target: The instruction set.
    """
    x, kernel, *_ = node.inputs
    *window, channels, columns = kernel.type.known_shape
    strides, dilation, _ = op.geometry(x.type.shape[1:-1], window)
    if target.activation != "s16":
        return "an instruction set that multiplies bytes"
    if op.groups != 1:
        return "grouped"
    if len(window) < 2 or window[-2:] != [3, 3]:
        return "a window other than 3 x 3"
    if {*strides[-2:], *dilation[-2:]} != {1}:
        return "strides or dilation"
    if channels < CHANNELS or columns < target.columns:
        return "few channels"
    if len(window) == 3 and channels % (target.group * UNROLLED):
        return "channels that fill no groups"
    return ""


def _overflow(weights: Array, low: int, high: int, bits: int) -> str:
    """Returns why a sum may not come back from the transform; nothing where all do.

    Args:
        weights: Centred weights [..., columns].
        low: Least centred number of x.
        high: Greatest.
        bits: That a sum may have.
    """
    columns = weights.reshape(-1, weights.shape[-1])
    positive = np.maximum(columns, 0).sum(axis=0, dtype=np.int64)
    negative = np.minimum(columns, 0).sum(axis=0, dtype=np.int64)
    most = int((positive * high + negative * low).max())
    least = int((positive * low + negative * high).min())
    if most < 2 ** (bits - 1) and least >= -(2 ** (bits - 1)):
        return ""
    return f"sums in [{least}, {most}] exceed {bits} bits"


def _split(
    slabs: int,
    slab_patches: int,
    panels: int,
    weights: int,
    row_bytes: int,
    region: Region,
    transform: Transform,
) -> tuple[int, int]:
    """Returns how many patches a task takes, and into how many ranges the panels are split."""
    products = transform.positions * slabs * slab_patches * weights
    wanted = min(max(products // TASK_PRODUCTS, 1), TASKS * region.plan.threads)
    most = max(TRANSFORMED_BYTES // (transform.positions * row_bytes), region.target.rows)
    blocks = min(-(-wanted // slabs), slab_patches // BLOCK_PATCHES)
    blocks = max(-(-slab_patches // most), blocks)
    ranges = max(min(-(-wanted // (slabs * blocks)), panels // RANGE_PANELS), 1)
    return -(-slab_patches // blocks), -(-panels // -(-panels // ranges))


def _transformed(transform: Transform, taps: Array) -> Array:
    """Returns transformed weights [position, ...] of [tap, ...], of 16 bits."""
    matrix = reduce(lambda done, factor: factor @ done, map(np.asarray, transform.weights))
    whole = np.kron(matrix, matrix).astype(np.int16)
    found = np.zeros((len(whole), *taps.shape[1:]), np.int16)
    for position, factors in zip(found, whole, strict=True):
        for factor, tap in zip(factors, taps, strict=True):
            if factor:
                position += factor * tap
    return found


def _odd_lines(size: int) -> int:
    """Rounds bytes up to an odd number of cache lines, so that neighbours share no place in it."""
    return (-(-size // 64) | 1) * 64
