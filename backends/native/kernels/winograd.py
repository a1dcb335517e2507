"""Convolutions with windows of 3 x 3 in fewer products, exactly (see `transforms`).

A third dimension of the window, depth, is either summed like channels, or transformed as well:
F(2, 3) makes two planes of places from four planes of pixels, with 4 products in place of 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.native.epilogue import Epilogue
from qir.backends.native.kernel import Kernel
from qir.backends.native.kernels.dense import AXES
from qir.backends.native.kernels.transforms import TRANSFORMS

CHANNELS = 16
"""Channels that are transformed at once."""

CORNER_BYTES = 8 * 4
"""Of what is noted of a patch: its first place, and its places in height, width and depth."""

DEPTH = TRANSFORMS[2]
"""The transform in depth."""

GEOMETRY = (
    *(f"places_{axis}" for axis in AXES),
    *(f"size_{axis}" for axis in AXES),
    "window_depth",
    "stride_depth",
    "dilation_depth",
    *(f"before_{axis}" for axis in AXES),
)
"""What it reads of the geometry of the convolution."""

SIZES = (
    *GEOMETRY,
    "slab_patches",
    "blocks",
    "block_patches",
    "ranges",
    "range_panels",
    "panels",
    "columns",
    "patches_depth",
    "patches_height",
    "patches_width",
    "bytes_depth",
    "bytes_height",
    "images_bytes",
    "pixel",
    "tap_groups",
    "row_bytes",
    "position_bytes",
    "out_pixel",
    "centre",
)


@dataclass(frozen=True)
class WinogradKernel(Kernel):
    """A convolution with windows of 3 x 3 and steps of 1.

    Attributes:
        tile: Places that a patch gives in height and in width.
        deep: Whether a patch gives two places in depth; otherwise one, and taps are summed.
        unsigned: Whether x is unsigned bytes.
        epilogue: What becomes of the sums.
    """

    tile: int
    deep: bool
    unsigned: bool
    epilogue: Epilogue

    @property
    def saving(self) -> float:
        """How many times fewer multiplications it needs than the op is defined by."""
        return (3 * self.tile) ** 2 / (self.tile + 2) ** 2 * (1.5 if self.deep else 1)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it.

        slab_patches: patches of a slab: of a plane where the window has depth, otherwise all.
        blocks, block_patches: blocks of a slab, each the patches of a task. ranges, range_panels:
        ranges of panels, and panels of each. columns: at least as many as a panel has; the last
        panel may overlap the one before. patches: in each direction; in depth as many as places,
        where taps are summed. window_depth, stride_depth: of a patch, where it is deep: 4 and 2.
        bytes: from one to the next. centre: what is subtracted from x: the zero point, unless deep.
        tap_groups: groups of activations for one tap in depth. row_bytes: of one number of a patch
        in scratch. position_bytes: of one number of all patches. pixel, out_pixel: channels of x,
        at least 16, and bytes from one place of the result to the next.
        """
        return (*SIZES, *self.epilogue.parameters)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors; `fill` holds a pixel of the zero point."""
        residual = ("residual",) if self.epilogue.residual else ()
        return ("x", "fill", "weights", *self.epilogue.tables, "out", *residual)


def row_stride(tile: int, deep: bool, columns: int) -> int:
    """Returns the bytes of a patch's sums in scratch, which should not displace each other.

    Args:
        tile: Places that a patch gives in height and in width.
        deep: Whether depth is transformed.
        columns: Of a panel.
    """
    return (DEPTH.size if deep else 1) * TRANSFORMS[tile].positions * 4 * columns + 64
