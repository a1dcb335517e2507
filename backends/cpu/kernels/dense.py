"""The code of sums over all channels.

A task copies what its rows multiply into scratch, as the dot instruction reads it; padding and
strides end there. Then tiles of a few rows and one panel are summed in registers, and the epilogue
finishes several of them at a time. Nothing but the block is ever copied: there is no im2col of the
whole tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qir.backends.cpu.emitter import I32, LlvmValue, vector
from qir.backends.cpu.epilogue import Finisher, Valid
from qir.backends.cpu.kernel import KernelBody, KernelCode, SharedFunction, kernel_code
from qir.backends.cpu.kernels.rows import RowCopies
from qir.backends.cpu.kernels.tiles import TileSums
from qir.backends.native.kernels.dense import DenseKernel

SUMS = TileSums()

FINISHED_TILES = 4
"""Tiles that are summed before their rows are finished: the end of a loop over the rows of a single
tile is costly to predict."""


@kernel_code(DenseKernel)
class DenseCode(KernelCode, DenseKernel):
    """The code of `DenseKernel`."""

    @property
    def shared(self) -> tuple[SharedFunction, ...]:
        """The sums of tiles."""
        return (SUMS,)

    def write(self, e: KernelBody) -> None:
        """Copies the rows of a task, and sums tile after tile."""
        build = e.build
        block_rows, ranges = e.parameter("block_rows"), e.parameter("ranges")
        first = build.mul(build.sdiv(e.task, ranges), block_rows)
        count = e.smallest(build.sub(e.parameter("rows"), first), block_rows)
        RowCopies(e, self.unsigned).write(first, count, windowed=self.windowed)

        panels = e.parameter("range_panels")
        start = build.mul(build.srem(e.task, ranges), panels)
        stop = e.smallest(build.add(start, panels), e.parameter("panels"))
        tiles = _Tiles(self, e)
        with e.loop(stop, start=start) as panel:
            tiles.write_panel(e, panel.index, first, count)


class _Tiles:
    """Sums, finishes and stores tiles.

    Args:
        kernel: The kernel.
        e: Its body.
    """

    def __init__(self, kernel: DenseKernel, e: KernelBody) -> None:
        self.kernel = kernel
        self.target = e.target
        names = ("row_bytes", "groups", "columns", "out_pixel", "residual_pixel")
        self.sizes = [e.parameter(name) for name in names]
        self.weights = e.tensor("weights")
        self.tables = {name: e.tensor(name) for name in kernel.epilogue.tables}
        self.out = e.tensor("out")
        self.residual = e.tensor("residual") if kernel.epilogue.residual else None
        self.summed = e.reserve(4 * self.target.columns * self.target.rows * FINISHED_TILES)
        self.finisher = Finisher(e, kernel.epilogue, self.target.columns, cut=True)

    def write_panel(
        self, e: KernelBody, panel: LlvmValue, first: LlvmValue, count: LlvmValue
    ) -> None:
        """Writes the tiles of all rows of a task in one panel."""
        build, number, target = e.build, e.number, self.target
        row_bytes, groups, columns, out_pixel, residual_pixel = self.sizes
        left = build.mul(panel, number(target.columns))
        valid = e.smallest(build.sub(columns, left), number(target.columns))
        whole = build.icmp_signed("==", valid, number(target.columns))
        size = build.mul(groups, number(target.columns * target.group))
        weights = e.at(self.weights, build.mul(panel, size))
        tables = self.finisher.tables(self.tables, left)
        begin = build.mul(left, number(self.kernel.epilogue.size))
        out = e.at(self.out, build.add(build.mul(first, out_pixel), begin))
        ends, pitches = [out], [out_pixel]
        if self.residual is not None:
            ends.append(e.at(self.residual, build.add(build.mul(first, residual_pixel), left)))
            pitches.append(residual_pixel)
        summed, most = number(4 * target.columns), target.rows * FINISHED_TILES
        with e.loop(count, step=most, carried=[e.scratch, *ends]) as chunk:
            activations, *ends = chunk.values
            height = e.smallest(build.sub(count, chunk.index), number(most))
            SUMS.call(e, height, activations, row_bytes, weights, groups, self.summed, summed)
            with e.loop(height, carried=[self.summed, *ends]) as row:
                self._finish(e, tables, row.values, Valid(valid, whole))
                row.carry(*map(e.at, row.values, [summed, *pitches]))
            chunk.carry(
                *map(
                    e.at, chunk.values, (build.mul(height, step) for step in [row_bytes, *pitches])
                )
            )

    def _finish(
        self,
        e: KernelBody,
        tables: Mapping[str, LlvmValue],
        pointers: Sequence[LlvmValue],
        valid: Valid,
    ) -> None:
        """Writes what becomes of the sums of one row: at pointers to sums, out and residual."""
        lanes = self.target.lanes
        sums, out, *residual = pointers
        totals = [
            e.load(vector(I32, lanes), sums, 4 * lanes * index, align=16)
            for index in range(self.target.vectors)
        ]
        stored = self.finisher.finished(tables, totals, residual[0] if residual else None, valid)
        self.finisher.store(stored, out, valid)
