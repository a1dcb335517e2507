"""Sums of each channel alone: depthwise convolutions of 1, 2 and 3 spatial dimensions.

A task takes some rows of the result and a range of blocks of 16 channels, whose lines it reads in
pairs. Rows that begin at an odd line find the same pairs, with weights of another phase. Of a
window that has one line, the pairs are neighbours in that line.
"""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.native.epilogue import Epilogue
from qir.backends.native.kernel import Kernel
from qir.backends.native.kernels.dense import AXES

CHANNELS = 16
"""Channels of a block."""
PAIR_BYTES = 4 * CHANNELS
"""Bytes of a pixel of a pair of lines in scratch."""
LINE_BYTES = 32
"""Bytes that say where a line is."""
LINE_WORDS = 3
"""Numbers that say where a line is: its distances in depth, height and width."""

GEOMETRY = tuple(
    f"{what}_{axis}" for what in ("size", "places", "stride", "before") for axis in AXES
)
"""What it reads of the geometry of the convolution."""

SIZES = (
    *GEOMETRY,
    "fill",
    "pixel",
    "group_rows",
    "groups",
    "ranges",
    "range_blocks",
    "blocks",
    "columns",
    "pieces",
    "out_pixel",
    "block_width",
    "span",
    "lines",
    "block_bytes",
    "pairs",
    "taps",
    "step",
)


@dataclass(frozen=True)
class FixedWindow:
    """A window whose size is written into the code.

    Attributes:
        pairs: Pairs of lines that a row reads.
        taps: Places of the window along the width.
        stride: Pixels between two places of the result.
        step: Pixels between two taps.
    """

    pairs: int
    taps: int
    stride: int
    step: int

    def __str__(self) -> str:
        return f"{self.pairs}x{self.taps}_{self.stride}_{self.step}"


@dataclass(frozen=True)
class DepthwiseKernel(Kernel):
    """A convolution of each channel by itself.

    Attributes:
        window: The window; None for one that the step gives.
        places: Places of a row that are summed together.
        unsigned: Whether x is unsigned bytes.
        gathered: Whether a table says which channel of x each column reads.
        narrow: Whether there are fewer columns than a block has.
        epilogue: What becomes of the sums.
    """

    window: FixedWindow | None
    places: int
    unsigned: bool
    gathered: bool
    narrow: bool
    epilogue: Epilogue

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it.

        size_…, places_…, stride_…, before_…: of x, of the result, and what leads from one to the
        other. fill: the zero point of x. pixel: channels of x. group_rows, groups: rows of a task,
        and tasks of an image along the height. blocks: of channels; ranges, range_blocks: of
        blocks. columns: channels of the result; out_pixel: bytes from one of its places to the
        next. pieces: of a row; block_width, span: the places of each, no fewer than are summed
        together, and the pixels of a line that they read. lines: pairs of lines in scratch.
        block_bytes: of the weights of a block. pairs, taps, step: as in `Window`.
        """
        return (*SIZES, *self.epilogue.parameters)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors.

        lines: for each pair, where its two lines are (`LINE_WORDS`). rows: for each row of a
        task, the offset of its weights in those of a block, then the offset of each of its pairs
        in scratch. weights: int16 [block, phase, pair, tap, channel, line]. sources: for each
        column of a block, its channel of x.
        """
        sources = ("sources",) if self.gathered else ()
        residual = ("residual",) if self.epilogue.residual else ()
        return (
            "x",
            "weights",
            "lines",
            "rows",
            *sources,
            *self.epilogue.tables,
            "out",
            *residual,
        )
