"""Sums over all channels: matrix products and convolutions of 1, 2 and 3 spatial dimensions.

A task takes a block of rows (places of the result) and a range of panels (columns). It copies what
its rows multiply into scratch, row after row, as the dot instruction reads it; padding and strides
end there. Then each tile of a few rows and one panel is summed in registers, and the epilogue
stores it. Nothing but the block is ever copied: there is no im2col of the whole tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from qir.backends.xla.cpu.emitter import I8, I16, I32, I64, POINTER, VOID, Emitter, Value, vector
from qir.backends.xla.cpu.epilogue import Epilogue
from qir.backends.xla.cpu.kernel import Body, Kernel

AXES = ("depth", "height", "width")
"""Spatial dimensions; a missing one has size 1."""

_SIZES = (
    "rows",
    "block_rows",
    "ranges",
    "panels",
    "range_panels",
    "columns",
    "groups",
    "row_bytes",
    "pixel",
    "length",
    "out_pixel",
    "residual_pixel",
)
_WINDOW = tuple(
    f"{what}_{axis}"
    for what in ("size", "places", "window", "stride", "dilation", "before", "bytes")
    for axis in AXES
)


@dataclass(frozen=True)
class Dense(Kernel):
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
    def words(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it.

        rows, block_rows: places, in all and of a task. ranges, range_panels: ranges of panels, and
        panels of each. groups: of activations in a row. row_bytes: of a row in scratch. pixel,
        out_pixel, residual_pixel: bytes from one pixel to the next. length: channels of a pixel.
        Of a window: bytes_width is from one row to the next, and so on, bytes_depth of an image.
        """
        window = (*_WINDOW, "images_bytes", "fill") if self.windowed else ()
        return (*_SIZES, *window, *self.epilogue.words)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        residual = ("residual",) if self.epilogue.residual else ()
        return ("x", "weights", *self.epilogue.tables, "out", *residual)

    def write(self, e: Body) -> None:
        """Copies the rows of a task, and sums tile after tile."""
        build = e.build
        block_rows, ranges = e.word("block_rows"), e.word("ranges")
        first = build.mul(build.sdiv(e.task, ranges), block_rows)
        count = e.smallest(build.sub(e.word("rows"), first), block_rows)
        (self._copy_windows if self.windowed else self._copy_pixels)(e, first, count)

        panels = e.word("range_panels")
        start = build.mul(build.srem(e.task, ranges), panels)
        stop = e.smallest(build.add(start, panels), e.word("panels"))
        tiles = _Tiles(self, e)
        with e.loop(stop, start=start) as panel:
            tiles.write_panel(e, panel.index, first, count)

    def _copy_pixels(self, e: Body, first: Value, count: Value) -> None:
        pixel, length, row_bytes = e.word("pixel"), e.word("length"), e.word("row_bytes")
        source = e.at(e.tensor("x"), e.build.mul(first, pixel))
        with e.loop(count, carried=[source, e.scratch]) as row:
            x, place = row.values
            self._copy(e, x, place, length)
            row.carry(e.at(x, pixel), e.at(place, row_bytes))

    def _copy_windows(self, e: Body, first: Value, count: Value) -> None:
        build, number = e.build, e.number
        word = {
            name: e.word(name) for name in (*_WINDOW, "images_bytes", "fill", "length", "pixel")
        }
        places = [word[f"places_{axis}"] for axis in AXES]
        left, at = first, []
        for size in reversed(places):
            at.append(build.srem(left, size))
            left = build.sdiv(left, size)
        image, start = left, list(reversed(at))
        fill = e.splat(build.trunc(word["fill"], I8), 16)
        element = e.target.activation_bytes
        span = build.mul(word["window_width"], word["length"])
        step = build.mul(word["pixel"], word["dilation_width"])
        adjacent = build.icmp_signed("==", step, word["length"])
        with e.loop(count, carried=[image, *start, e.scratch]) as row:
            image, *at, place = row.values
            corner = [
                build.sub(build.mul(at[axis], word[f"stride_{name}"]), word[f"before_{name}"])
                for axis, name in enumerate(AXES)
            ]
            x = e.at(e.tensor("x"), build.mul(image, word["images_bytes"]))
            end = build.add(
                corner[2],
                build.mul(build.sub(word["window_width"], number(1)), word["dilation_width"]),
            )
            whole = build.and_(
                adjacent,
                build.and_(
                    build.icmp_signed(">=", corner[2], number(0)),
                    build.icmp_signed("<", end, word["size_width"]),
                ),
            )
            with e.loop(word["window_depth"], carried=[place, corner[0]]) as depth:
                place_d, z = depth.values
                inside_z = build.icmp_unsigned("<", z, word["size_depth"])
                plane = e.at(x, build.mul(z, word["bytes_depth"]))
                with e.loop(word["window_height"], carried=[place_d, corner[1]]) as height:
                    place_h, y = height.values
                    inside = build.and_(inside_z, build.icmp_unsigned("<", y, word["size_height"]))
                    line = e.at(plane, build.mul(y, word["bytes_height"]))
                    with e.otherwise(inside) as (then, other):
                        with then, e.otherwise(whole) as (at_once, by_tap):
                            with at_once:
                                pixel = e.at(line, build.mul(corner[2], word["pixel"]))
                                self._copy(e, pixel, place_h, span)
                            with by_tap:
                                self._copy_taps(e, word, line, corner[2], place_h, fill)
                        with other:
                            self._fill(e, place_h, span, fill)
                    height.carry(
                        e.at(place_h, build.mul(span, number(element))),
                        build.add(y, word["dilation_height"]),
                    )
                depth.carry(height.values[0], build.add(z, word["dilation_depth"]))
            following = [*at]
            carry: Value = number(1)
            for axis in (2, 1, 0):
                grown = build.add(at[axis], carry)
                over = build.icmp_signed("==", grown, places[axis])
                following[axis] = build.select(over, number(0), grown)
                carry = build.zext(over, I64)
            row.carry(build.add(image, carry), *following, e.at(place, e.word("row_bytes")))

    def _copy_taps(
        self,
        e: Body,
        word: Mapping[str, Value],
        line: Value,
        left: Value,
        place: Value,
        fill: Value,
    ) -> None:
        build = e.build
        size = build.mul(word["length"], e.number(e.target.activation_bytes))
        with e.loop(word["window_width"], carried=[place, left]) as tap:
            at, x = tap.values
            inside = build.icmp_unsigned("<", x, word["size_width"])
            with e.otherwise(inside) as (then, other):
                with then:
                    self._copy(e, e.at(line, build.mul(x, word["pixel"])), at, word["length"])
                with other:
                    self._fill(e, at, word["length"], fill)
            tap.carry(e.at(at, size), build.add(x, word["dilation_width"]))

    def _copy(self, e: Body, source: Value, place: Value, length: Value) -> None:
        """Copies bytes into scratch; the last vector may overlap the one before."""
        self._put(e, place, length, lambda at, lanes: self._read(e, source, at, lanes))

    def _fill(self, e: Body, place: Value, length: Value, fill: Value) -> None:
        self._put(
            e,
            place,
            length,
            lambda at, lanes: fill if lanes else e.build.extract_element(fill, e.number(0, I32)),
        )

    def _read(self, e: Body, source: Value, at: Value, lanes: int) -> Value:
        return e.load(vector(I8, lanes) if lanes else I8, source, at)

    def _put(self, e: Body, place: Value, length: Value, read: Any) -> None:
        build, number = e.build, e.number
        size = number(e.target.activation_bytes)

        def put(at: Value, lanes: int) -> None:
            value = self._activation(e, read(at, lanes), lanes)
            e.store(value, place, build.mul(at, size))

        with e.otherwise(build.icmp_signed(">=", length, number(16))) as (long, short):
            with long:
                whole = build.and_(length, number(-16))
                with e.loop(whole, step=16) as loop:
                    put(loop.index, 16)
                with e.when(build.icmp_signed("!=", whole, length)):
                    put(build.sub(length, number(16)), 16)
            with short, e.loop(length) as loop:
                put(loop.index, 0)

    def _activation(self, e: Body, value: Value, lanes: int) -> Value:
        """Turns stored bytes into what the dot instruction reads."""
        build = e.build
        if not e.target.unsigned:
            wide = vector(I16, lanes) if lanes else I16
            return build.zext(value, wide) if self.unsigned else build.sext(value, wide)
        if self.unsigned:
            return value
        sign = e.splat(e.number(-128, I8), lanes) if lanes else e.number(-128, I8)
        return build.xor(value, sign)


class _Tiles:
    """The functions that sum a tile, one for each number of rows.

    Args:
        kernel: The kernel.
        e: Its body.
    """

    def __init__(self, kernel: Dense, e: Body) -> None:
        self.kernel = kernel
        self.target = e.target
        self.residual = bool(kernel.epilogue.residual)
        self.words = {name: e.word(name) for name in kernel.epilogue.words}
        names = ("row_bytes", "groups", "columns", "out_pixel", "residual_pixel")
        self.sizes = [e.word(name) for name in names]
        self.weights = e.tensor("weights")
        self.tables = [e.tensor(name) for name in kernel.epilogue.tables]
        self.out = e.tensor("out")
        self.other = e.tensor("residual") if self.residual else None
        self.scratch = e.scratch
        self.functions = [self._define(e.module, rows) for rows in range(1, self.target.rows + 1)]

    def write_panel(self, e: Body, panel: Value, first: Value, count: Value) -> None:
        """Writes the tiles of all rows of a task in one panel."""
        build, number, target = e.build, e.number, self.target
        row_bytes, groups, columns, out_pixel, residual_pixel = self.sizes
        left = build.mul(panel, number(target.columns))
        stored = 1 if self.kernel.epilogue.stores_bytes else 4
        valid = e.smallest(build.sub(columns, left), number(target.columns))
        size = build.mul(groups, number(target.columns * target.group))
        weights = e.at(self.weights, build.mul(panel, size))
        tables = [e.at(table, build.mul(left, number(4))) for table in self.tables]
        out = e.at(
            self.out, build.add(build.mul(first, out_pixel), build.mul(left, number(stored)))
        )
        moving = [self.scratch, out]
        steps = [row_bytes, out_pixel]
        if self.other is not None:
            moving.append(e.at(self.other, build.add(build.mul(first, residual_pixel), left)))
            steps.append(residual_pixel)

        # Tiles of nearly equal height: a last one of a single row would cost as much as a full one.
        most = number(target.rows)
        tiles = build.sdiv(build.add(count, number(target.rows - 1)), most)
        least = build.sdiv(count, tiles)
        taller = build.srem(count, tiles)
        with e.loop(tiles, carried=moving) as tile:
            more = build.icmp_signed("<", tile.index, taller)
            height = build.add(least, build.zext(more, I64))
            after = e.function.append_basic_block("after")
            switch = build.switch(height, after)
            for rows, function in enumerate(self.functions, start=1):
                block = e.function.append_basic_block(f"rows{rows}")
                switch.add_case(number(rows), block)
                build.position_at_end(block)
                build.call(
                    function,
                    [*tile.values, weights, *tables, valid, *self.sizes, *self.words.values()],
                )
                build.branch(after)
            build.position_at_end(after)
            tile.carry(
                *(
                    e.at(pointer, build.mul(step, height))
                    for pointer, step in zip(tile.values, steps, strict=True)
                )
            )

    def _define(self, module: ir.Module, rows: int) -> ir.Function:
        """Writes the function that sums, finishes and stores a tile."""
        pointers = 3 + self.residual + len(self.tables)
        types = [POINTER] * pointers + [I64] * (1 + len(self.sizes) + len(self.words))
        name = f"{self.kernel.symbol}_rows_{rows}"
        function = ir.Function(module, ir.FunctionType(VOID, types), name)
        function.linkage = "internal"
        e = Emitter(function)
        given = iter(e.arguments)
        activations, out = next(given), next(given)
        residual = next(given) if self.residual else None
        weights = next(given)
        tables = {name: next(given) for name in self.kernel.epilogue.tables}
        valid = next(given)
        row_bytes, groups, _, out_pixel, residual_pixel = (next(given) for _ in self.sizes)
        words = dict(zip(self.words, given, strict=True))

        if residual is not None:
            residual, residual_pixel = self._staged(e, rows, residual, residual_pixel, valid)
        totals = self._sum(e, rows, activations, row_bytes, weights, groups)
        count = self.target.vectors
        stored = [
            self.kernel.epilogue.apply(
                e,
                words,
                tables,
                totals[row * count : (row + 1) * count],
                None
                if residual is None
                else e.at(residual, e.build.mul(residual_pixel, e.number(row))),
            )
            for row in range(rows)
        ]
        self._store(e, stored, out, out_pixel, valid)
        e.build.ret_void()
        return function

    def _staged(
        self, e: Emitter, rows: int, residual: Value, pixel: Value, valid: Value
    ) -> tuple[Value, Value]:
        """Returns where whole vectors of the residual may be read, and the bytes between rows.

        Behind the last columns of the last row the tensor may end.
        """
        width = self.target.columns
        whole = e.build.icmp_signed("==", valid, e.number(width))
        space = e.reserve(rows * width)
        with e.when(e.build.not_(whole)):
            for row in range(rows):
                source = e.at(residual, e.build.mul(pixel, e.number(row)))
                with e.loop(valid) as loop:
                    byte = e.load(I8, source, loop.index)
                    e.store(byte, e.at(space, row * width), loop.index)
        return (
            e.build.select(whole, residual, space),
            e.build.select(whole, pixel, e.number(width)),
        )

    def _sum(
        self,
        e: Emitter,
        rows: int,
        activations: Value,
        row_bytes: Value,
        weights: Value,
        groups: Value,
    ) -> list[Value]:
        target = self.target
        width = target.lanes * target.group
        zero = ir.Constant(vector(I32, target.lanes), [0] * target.lanes)
        places = [e.at(activations, e.build.mul(row_bytes, e.number(row))) for row in range(rows)]
        with e.loop(
            groups, step=UNROLLED, carried=[weights, *([zero] * rows * target.vectors)]
        ) as group:
            pointer, *totals = group.values
            offset = e.build.shl(group.index, e.number(2))
            for part in range(UNROLLED):
                columns = [
                    target.weights(e, pointer, (part * target.vectors + index) * width)
                    for index in range(target.vectors)
                ]
                for row in range(rows):
                    pair = target.activations(e, e.at(places[row], offset), 4 * part)
                    for index in range(target.vectors):
                        place = row * target.vectors + index
                        totals[place] = target.dot(e, totals[place], pair, columns[index])
            group.carry(e.at(pointer, UNROLLED * target.vectors * width), *totals)
        return group.values[1:]

    def _store(
        self, e: Emitter, rows: Sequence[Sequence[Value]], out: Value, pixel: Value, valid: Value
    ) -> None:
        build, target = e.build, self.target
        whole = build.icmp_signed("==", valid, e.number(target.columns))
        size = 1 if self.kernel.epilogue.stores_bytes else 4
        row_size = target.columns * size
        with e.otherwise(whole) as (at_once, staged):
            with at_once:
                for row, parts in enumerate(rows):
                    place = e.at(out, build.mul(pixel, e.number(row)))
                    self._put(e, parts, place, row_size)
            with staged:
                space = e.reserve(row_size)
                bytes_ = build.mul(valid, e.number(size))
                for row, parts in enumerate(rows):
                    self._put(e, parts, space, row_size)
                    place = e.at(out, build.mul(pixel, e.number(row)))
                    with e.loop(bytes_) as loop:
                        e.store(e.load(I8, space, loop.index), place, loop.index)

    def _put(self, e: Emitter, parts: Sequence[Value], place: Value, row_size: int) -> None:
        for index, part in enumerate(parts):
            e.store(part, place, index * (row_size // len(parts)))


UNROLLED = 2
"""Groups that a round of the innermost loop sums; rows are filled up to a multiple."""
