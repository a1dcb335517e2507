"""Tiles: the sums of a few rows and one panel of columns in registers."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from qir.backends.cpu.emitter import I32, I64, POINTER, VOID, LlvmEmitter, LlvmValue, vector
from qir.backends.cpu.target import LlvmInstructionSet
from qir.backends.native.kernels.dense import UNROLLED

AHEAD = 2048
"""Bytes of weights that are asked for before they are read. They are summed with six rows in about
the time that memory takes, some 100 ns; the processor itself asks no further than to the end of a
page."""
LINE = 64
"""Bytes of a line of a cache."""
_TYPES = [POINTER, I64, POINTER, I64, POINTER, I64]


@dataclass(frozen=True)
class TileSums:
    """A function that sums products in tiles; kernels share its code, the longest to make.

    Attributes:
        weight_bytes: Bytes of a weight: 1, or 2 where the dot instruction reads as many.
    """

    weight_bytes: int = 1

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"qir_tile_sums_{self.weight_bytes}"

    def call(
        self,
        e: LlvmEmitter,
        rows: LlvmValue,
        activations: LlvmValue,
        row_bytes: LlvmValue,
        weights: LlvmValue,
        groups: LlvmValue,
        sums: LlvmValue,
        sums_bytes: LlvmValue,
    ) -> None:
        """Sums rows, tile after tile.

        Args:
            e: Where to write.
            rows: Number of rows, at least one.
            activations: Pointer to the first row.
            row_bytes: Bytes from one row to the next.
            weights: Pointer to the weights of the panel: [group, column, neighbour].
            groups: Groups that are summed.
            sums: Where to put the sums, each row's columns as int32; aligned to 32 bytes.
            sums_bytes: Bytes from the sums of one row to those of the next, a multiple of 32.
        """
        function = e.external(self.symbol, VOID, [*_TYPES, I64])
        e.build.call(function, [activations, row_bytes, weights, groups, sums, sums_bytes, rows])

    def define(self, module: ir.Module, target: LlvmInstructionSet) -> None:
        """Writes the function into a module.

        Rows are divided into tiles of nearly equal height: one row costs as much as a full tile.
        """
        e = LlvmEmitter(ir.Function(module, ir.FunctionType(VOID, [*_TYPES, I64]), self.symbol))
        build = e.build
        *arguments, rows = e.arguments
        activations, row_bytes, weights, groups, sums, sums_bytes = arguments
        by_height = self._define_choice(module, target)
        most = e.number(target.rows)
        tiles = build.sdiv(build.add(rows, e.number(target.rows - 1)), most)
        least, taller = build.sdiv(rows, tiles), build.srem(rows, tiles)
        above = build.add(least, e.number(1))
        with e.when(build.icmp_signed(">", taller, e.number(0))):
            build.call(by_height, [*arguments, taller, above])
        done = build.mul(taller, above)
        rest = e.at(activations, build.mul(done, row_bytes))
        sums = e.at(sums, build.mul(done, sums_bytes))
        left = build.sub(tiles, taller)
        build.call(by_height, [rest, row_bytes, weights, groups, sums, sums_bytes, left, least])
        build.ret_void()

    def _define_choice(self, module: ir.Module, target: LlvmInstructionSet) -> ir.Function:
        """Writes the function that sums a number of tiles of one height."""
        type = ir.FunctionType(VOID, [*_TYPES, I64, I64])
        function = ir.Function(module, type, f"{self.symbol}_by_height")
        function.linkage = "internal"
        e = LlvmEmitter(function)
        *arguments, height = e.arguments
        none = function.append_basic_block("none")
        switch = e.build.switch(height, none)
        for number in range(1, target.rows + 1):
            block = function.append_basic_block(f"rows{number}")
            switch.add_case(e.number(number), block)
            e.build.position_at_end(block)
            e.build.call(self._define(module, target, number), arguments)
            e.build.ret_void()
        e.build.position_at_end(none)
        e.build.ret_void()
        return function

    def _define(self, module: ir.Module, target: LlvmInstructionSet, height: int) -> ir.Function:
        """Writes the function for tiles of one height."""
        type = ir.FunctionType(VOID, [*_TYPES, I64])
        function = ir.Function(module, type, f"{self.symbol}_rows_{height}")
        function.linkage = "internal"
        e = LlvmEmitter(function)
        activations, row_bytes, weights, groups, sums, sums_bytes, tiles = e.arguments
        load = target.weights if self.weight_bytes == 1 else target.wide_weights
        width = target.lanes * target.group * self.weight_bytes
        zero = ir.Constant(vector(I32, target.lanes), [0] * target.lanes)
        with e.loop(tiles, carried=[activations, sums]) as tile:
            activations, sums = tile.values
            places = [
                e.opaque(e.at(activations, e.build.mul(row_bytes, e.number(row))))
                for row in range(height)
            ]
            with e.loop(
                groups, step=UNROLLED, carried=[weights, *([zero] * height * target.vectors)]
            ) as group:
                pointer, *totals = group.values
                offset = e.build.shl(group.index, e.number(2))
                for line in range(0, UNROLLED * target.vectors * width, LINE):
                    e.prefetch(pointer, AHEAD + line)
                for part in range(UNROLLED):
                    columns = [
                        load(e, pointer, (part * target.vectors + index) * width)
                        for index in range(target.vectors)
                    ]
                    for row in range(height):
                        pair = target.activations(e, e.at(places[row], offset), 4 * part)
                        for index in range(target.vectors):
                            place = row * target.vectors + index
                            totals[place] = target.dot(e, totals[place], pair, columns[index])
                group.carry(e.at(pointer, UNROLLED * target.vectors * width), *totals)
            for row in range(height):
                place = e.at(sums, e.build.mul(sums_bytes, e.number(row)))
                for index in range(target.vectors):
                    total = group.values[1 + row * target.vectors + index]
                    e.store(total, place, 4 * target.lanes * index, min(4 * target.lanes, 32))
            rows = e.number(height)
            tile.carry(
                e.at(activations, e.build.mul(row_bytes, rows)),
                e.at(sums, e.build.mul(sums_bytes, rows)),
            )
        e.build.ret_void()
        return function
