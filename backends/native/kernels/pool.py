"""Pools over 1, 2 and 3 spatial dimensions, and reductions over an axis that is not the last."""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.native.kernel import Kernel
from qir.backends.native.kernels.cast import Stored
from qir.backends.native.kernels.dense import AXES
from qir.backends.native.kernels.reduce import Combination, bound_parameters


@dataclass(frozen=True)
class PoolKernel(Kernel):
    """The combination of the numbers in each window, for each channel.

    Attributes:
        combination: How the numbers are combined.
        to: What is stored of sums.
    """

    combination: Combination
    to: Stored = "signed"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it.

        rows, block_rows: rows of the result, in all and of a task. channels: of a pixel. ranges,
        range_channels: ranges of channels, more than one only where a row is one pixel. out_pixel:
        bytes from one pixel of the result to the next.
        term_bytes: from the terms of windows of one tap more to the next, 0 where all have the
        same.
        """
        axes = tuple(
            f"{what}_{axis}"
            for what in ("size", "places", "window", "stride", "before")
            for axis in AXES
        )
        sums = ("term_bytes",) if self.combination.how == "sum" else ()
        own = ("rows", "block_rows", "channels", "ranges", "range_channels", "out_pixel")
        return (*own, *axes, *sums, *bound_parameters(self.combination, self.to))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "out", *(("terms",) if self.combination.how == "sum" else ()))
