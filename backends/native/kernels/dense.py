"""Sums over all channels: matrix products and convolutions of 1, 2 and 3 spatial dimensions.

A task takes a block of rows (places of the result) and a range of panels (columns).
"""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.native.epilogue import Epilogue
from qir.backends.native.kernel import Kernel

AXES = ("depth", "height", "width")
"""Spatial dimensions; a missing one has size 1."""

UNROLLED = 2
"""Groups that a round of the innermost loop sums; rows are filled up to a multiple."""

SIZES = (
    "rows",
    "block_rows",
    "ranges",
    "panels",
    "range_panels",
    "columns",
    "groups",
    "row_bytes",
    "x_bytes",
    "pixel",
    "length",
    "out_pixel",
    "residual_pixel",
)

WINDOW = tuple(
    f"{what}_{axis}"
    for what in ("size", "places", "window", "stride", "dilation", "before", "bytes")
    for axis in AXES
)

AT_ONCE = 16
"""Bytes that are copied at once."""

SLACK_BYTES = 2 * AT_ONCE


@dataclass(frozen=True)
class DenseKernel(Kernel):
    """A matrix product of places with weights.

    Attributes:
        windowed: Whether a place is a window over spatial dimensions, rather than one pixel.
        unsigned: Whether x is unsigned bytes.
        epilogue: What becomes of the sums.
    """

    windowed: bool
    unsigned: bool
    epilogue: Epilogue

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it.

        rows, block_rows: places, in all and of a task. ranges, range_panels: ranges of panels, and
        panels of each. groups: of activations in a row. row_bytes: of a row in scratch, with
        `SLACK_BYTES` behind what is summed; unless there are windows, the next row may lie there.
        x_bytes: of the tensor, from its pointer on. pixel, out_pixel, residual_pixel: bytes from
        one pixel to the next. length: channels of a pixel. Of a window: bytes_width is from one row
        to the next, and so on, bytes_depth of an image.
        """
        window = (*WINDOW, "images_bytes", "fill") if self.windowed else ()
        return (*SIZES, *window, *self.epilogue.parameters)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        residual = ("residual",) if self.epilogue.residual else ()
        return ("x", "weights", *self.epilogue.tables, "out", *residual)
