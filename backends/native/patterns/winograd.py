"""Convolutions with windows of 3 x 3 by Winograd's transform: where it is exact, and worth it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.dense import UNROLLED
from qir.backends.native.kernels.transforms import TRANSFORMS, Factors, Transform, product
from qir.backends.native.kernels.winograd import (
    CHANNELS,
    CORNER_BYTES,
    DEPTH,
    GEOMETRY,
    WinogradKernel,
    row_stride,
)
from qir.backends.native.pattern import Match, Placement
from qir.backends.native.patterns import dense
from qir.backends.native.patterns.dense import TASK_PRODUCTS, folded_bias, spatial_parameters, trim
from qir.backends.native.patterns.epilogue import MatchedEpilogue
from qir.ir import Node, Value
from qir.ops import Conv
from qir.types import Array, DType

TRANSFORMED_BYTES = 128 * 1024
"""What a task transforms at most, so that it stays in the second-level cache."""
BLOCK_PATCHES = 12
"""Least patches of a block, since each block reads the weights again."""
RANGE_PANELS = 4
"""Least panels of a range, since each range transforms its patches again."""
TASKS = 8
"""Tasks of each thread, where there is enough to do."""


def winograd(
    op: Conv, node: Node, epilogue: MatchedEpilogue, target: InstructionSet, tile: int
) -> Match | str:
    """Matches a convolution with windows of 3 x 3 and steps of 1, and perhaps a depth.

    Args:
        op: The convolution.
        node: Its node.
        epilogue: What follows it.
        target: The instruction set.
        tile: Places that a patch gives in each direction.
    """
    x, kernel, *bias = node.inputs
    if reason := unfit(op, node, target) or dense.unfit(x, kernel, bias):
        return reason
    code = x.type.affine
    weights, (low, high) = centred(kernel), code.storage.bounds
    transform = TRANSFORMS[tile]
    # As many numbers lie on each side. It need not stand for 0, as planes of padding are summed.
    middle = (low + high + 1) // 2
    deep = _deep(op, node) and not _overflow(weights, low - middle, high - middle, transform, True)
    centre = middle if deep else int(code.zero_points)
    if reason := _overflow(weights, low - centre, high - centre, transform, deep):
        return reason
    writer = WinogradWriter(op, node, epilogue, tile, deep, centre)
    return Match((node, *epilogue.nodes), epilogue.inputs(x), writer.write, rows_apart=True)


def centred(kernel: Value) -> Array:
    """Returns the weights as differences from their zero points."""
    code = kernel.type.affine
    # Stored in 8 bits, as unfit says: 16 are enough for the sum of nine.
    return kernel.array.astype(np.int16) - np.asarray(code.zero_points, np.int16)


@dataclass(frozen=True, eq=False)
class WinogradWriter:
    """Writes the step of a convolution by transformed patches.

    Attributes:
        op: The convolution.
        node: Its node.
        epilogue: What follows it.
        tile: Places that a patch gives in height and in width.
        deep: Whether depth is transformed too.
        centre: What is subtracted from x.
    """

    op: Conv
    node: Node
    epilogue: MatchedEpilogue
    tile: int
    deep: bool
    centre: int

    @property
    def transform(self) -> Transform:
        """The transform in height and width."""
        return TRANSFORMS[self.tile]

    def packed(self, weights: Array, target: InstructionSet) -> Array:
        """Returns weights as the kernel reads them: [panel, position, pair, column, neighbour].

        Args:
            weights: Centred weights [window, channels, columns].
            target: The instruction set.
        """
        *_, channels, columns = weights.shape
        panels = -(-columns // target.columns)
        # The last panel overlaps the one before, so that none passes the end of a tensor.
        starts = np.minimum(np.arange(panels) * target.columns, columns - target.columns)
        order = np.add.outer(starts, np.arange(target.columns))
        taps = weights.reshape(-1, 9, channels, columns)
        if self.deep:
            taps = _transformed(DEPTH.weights, taps, 0)
        lines = _transformed(self.transform.weights, taps.reshape(-1, 3, 3, channels, columns), 1)
        positions = _transformed(self.transform.weights, lines, 2)
        count, depth = self.transform.positions, 2 * _tap_groups(channels, target)
        whole = np.zeros((count, len(taps), depth, columns), np.int16)
        positions = positions.reshape(len(taps), -1, channels, columns)
        whole[:, :, :channels] = positions.swapaxes(0, 1)
        pairs = whole.reshape(count, -1, 2, columns)[..., order]
        return np.ascontiguousarray(pairs.transpose(3, 0, 1, 4, 2))

    def write(self, placement: Placement) -> None:
        """Adds the step."""
        x, kernel, *bias = self.node.inputs
        code = x.type.affine
        *window, channels, columns = kernel.type.known_shape
        weights, point, target = centred(kernel), int(code.zero_points), placement.target
        folded = folded_bias(weights.reshape(-1, columns), point - self.centre, bias)
        result = self.epilogue.result(self.node)
        shape = placement.shape(x)
        spatial = spatial_parameters(self.op, shape, placement.shape(self.node.output), window)
        depths = spatial["places_depth"]
        high, wide = (-(-spatial[f"places_{axis}"] // self.tile) for axis in ("height", "width"))
        if self.deep:
            spatial |= {"window_depth": DEPTH.size, "stride_depth": 2}
            depths = -(-depths // 2)
        elif len(window) == 3:
            weights = weights[trim(spatial, "depth")]
        slabs = shape[0] * depths if len(window) == 3 else 1
        slab_patches = shape[0] * depths * high * wide // slabs
        # Taps beyond x are left out, unless deep.
        planes = DEPTH.size if self.deep else min(spatial["window_depth"], spatial["size_depth"])
        tap_groups = _tap_groups(channels, target)
        row_bytes = _spread(planes * 4 * tap_groups)
        panels = -(-columns // target.columns)
        products = spatial["window_depth"] * channels * columns
        block_patches, ranges = _split(
            slabs, slab_patches, panels, products, row_bytes, placement, self.transform
        )
        position_bytes = _odd_lines(block_patches * row_bytes)
        blocks = -(-slab_patches // block_patches)
        parameters = {
            **{name: spatial[name] for name in GEOMETRY},
            **self.epilogue.parameters,
            "slab_patches": slab_patches,
            "blocks": blocks,
            "block_patches": block_patches,
            "ranges": ranges,
            "range_panels": -(-panels // ranges),
            "panels": panels,
            "columns": columns,
            "patches_depth": depths,
            "patches_height": high,
            "patches_width": wide,
            "bytes_depth": prod(shape[-3:]),
            "bytes_height": prod(shape[-2:]),
            "images_bytes": prod(shape[1:]),
            "pixel": channels,
            "tap_groups": tap_groups,
            "row_bytes": row_bytes,
            "position_bytes": position_bytes,
            "out_pixel": placement.pitch(result),
            "centre": self.centre,
        }
        tensors = {
            "x": placement.read(x),
            "fill": placement.constant(np.full(channels, point, code.storage.numpy)),
            "weights": placement.constant(self.packed(weights, target)),
            **{
                name: placement.constant(table)
                for name, table in self.epilogue.columns(folded).items()
            },
            "out": placement.write(result),
        }
        if self.epilogue.residual is not None:
            tensors["residual"] = placement.read(self.epilogue.residual)
        sums_bytes = row_stride(self.tile, self.deep, target.columns) + CORNER_BYTES
        placement.plan.step(
            result.name,
            WinogradKernel(self.tile, self.deep, code.storage is DType.U8, self.epilogue.code),
            parameters,
            tensors,
            tasks=slabs * blocks * ranges,
            scratch=self.transform.positions * position_bytes + block_patches * sums_bytes,
        )


def _tap_groups(channels: int, target: InstructionSet) -> int:
    """Returns how many groups of activations one tap in depth has."""
    return -(-channels // (target.group * UNROLLED)) * UNROLLED


def unfit(op: Conv, node: Node, target: InstructionSet) -> str:
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


def _overflow(weights: Array, low: int, high: int, transform: Transform, deep: bool) -> str:
    """Returns why a sum may not come back from the transform; nothing where all do.

    Args:
        weights: Centred weights [..., columns].
        low: Least centred number of x.
        high: Greatest.
        transform: The transform in height and width.
        deep: Whether depth is transformed too.
    """
    if deep and int(np.abs(weights).max(initial=0)) * transform.growth**2 * DEPTH.growth >= 2**15:
        return "transformed weights that exceed 16 bits"
    bits = transform.bits - (DEPTH.places[0] if deep else 0)
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
    placement: Placement,
    transform: Transform,
) -> tuple[int, int]:
    """Returns how many patches a task takes, and into how many ranges the panels are split."""
    products = transform.positions * slabs * slab_patches * weights
    wanted = min(max(products // TASK_PRODUCTS, 1), TASKS * placement.plan.threads)
    most = max(TRANSFORMED_BYTES // (transform.positions * row_bytes), placement.target.rows)
    blocks = min(-(-wanted // slabs), slab_patches // BLOCK_PATCHES)
    blocks = max(-(-slab_patches // most), blocks)
    ranges = max(min(-(-wanted // (slabs * blocks)), panels // RANGE_PANELS), 1)
    return -(-slab_patches // blocks), -(-panels // -(-panels // ranges))


def _transformed(factors: Factors, taps: Array, axis: int) -> Array:
    """Returns transformed weights, of 16 bits: three taps become more along an axis."""
    matrix = product(factors).astype(np.int16)
    lines = np.moveaxis(taps, axis, 0)
    found = np.zeros((len(matrix), *lines.shape[1:]), np.int16)
    for line, row in zip(found, matrix, strict=True):
        for factor, tap in zip(row, lines, strict=True):
            if factor:
                line += factor * tap
    return np.moveaxis(found, 0, axis)


def _deep(op: Conv, node: Node) -> bool:
    """Whether a window's depth can be transformed, and is met by enough planes to be worth it.

    Of two planes alone each meets two of the three taps: no product would be saved.
    """
    x, kernel, *_ = node.inputs
    *window, channels, _ = kernel.type.known_shape
    depth, places = x.type.shape[1], node.output.type.shape[1]
    if len(window) < 3 or window[0] != 3 or channels % CHANNELS:
        return False
    if not isinstance(depth, int) or not isinstance(places, int) or depth < 3 or places < 3:
        return False
    strides, dilation, _ = op.geometry(x.type.shape[1:-1], window)
    return strides[0] == dilation[0] == 1


def _spread(size: int) -> int:
    """Rounds bytes of a row up to lines, such that six neighbours share no place in a cache."""
    lines = -(-size // 64)
    return 64 * (lines + (lines % 8 == 0))


def _odd_lines(size: int) -> int:
    """Rounds bytes up to an odd number of cache lines, so that neighbours share no place in it."""
    return (-(-size // 64) | 1) * 64
