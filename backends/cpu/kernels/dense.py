"""The code of sums over all channels.

A task copies what its rows multiply into scratch, as the dot instruction reads it; padding and
strides end there. Then tiles of a few rows and one panel are summed in registers, and the epilogue
finishes several of them at a time. Nothing but the block is ever copied: there is no im2col of the
whole tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qir.backends.cpu.emitter import I1, I8, I32, I64, LlvmValue, vector
from qir.backends.cpu.epilogue import Finisher, Valid
from qir.backends.cpu.kernel import Body, KernelCode, SharedFunction, code
from qir.backends.cpu.kernels.tiles import TileSums
from qir.backends.native.kernels.dense import AT_ONCE, AXES, WINDOW, DenseKernel

SUMS = TileSums()

FINISHED_TILES = 4
"""Tiles that are summed before their rows are finished: the end of a loop over the rows of a single
tile is costly to predict."""


@code(DenseKernel)
class DenseCode(KernelCode, DenseKernel):
    """The code of `DenseKernel`."""

    @property
    def shared(self) -> tuple[SharedFunction, ...]:
        """The sums of tiles."""
        return (SUMS,)

    def write(self, e: Body) -> None:
        """Copies the rows of a task, and sums tile after tile."""
        build = e.build
        block_rows, ranges = e.parameter("block_rows"), e.parameter("ranges")
        first = build.mul(build.sdiv(e.task, ranges), block_rows)
        count = e.smallest(build.sub(e.parameter("rows"), first), block_rows)
        (self._copy_windows if self.windowed else self._copy_pixels)(e, first, count)

        panels = e.parameter("range_panels")
        start = build.mul(build.srem(e.task, ranges), panels)
        stop = e.smallest(build.add(start, panels), e.parameter("panels"))
        tiles = _Tiles(self, e)
        with e.loop(stop, start=start) as panel:
            tiles.write_panel(e, panel.index, first, count)

    def _copy_pixels(self, e: Body, first: LlvmValue, count: LlvmValue) -> None:
        pixel, length, row_bytes = (
            e.parameter("pixel"),
            e.parameter("length"),
            e.parameter("row_bytes"),
        )
        source = e.at(e.tensor("x"), e.build.mul(first, pixel))
        with e.loop(count, carried=[source, e.scratch]) as row:
            x, place = row.values
            self._copy(e, x, place, length)
            row.carry(e.at(x, pixel), e.at(place, row_bytes))

    def _copy_windows(self, e: Body, first: LlvmValue, count: LlvmValue) -> None:
        """Copies what rows multiply: run after run of places in one line of the result."""
        build, number = e.build, e.number
        given = {
            name: e.parameter(name)
            for name in (*WINDOW, "images_bytes", "fill", "length", "pixel", "row_bytes")
        }
        left, at = first, []
        for axis in reversed(AXES):
            at.append(build.srem(left, given[f"places_{axis}"]))
            left = build.sdiv(left, given[f"places_{axis}"])
        begin, *outer = at
        width = given["places_width"]
        runs = build.sdiv(build.sub(build.add(build.add(begin, count), width), number(1)), width)
        with e.loop(runs, carried=[left, *reversed(outer), begin, number(0), e.scratch]) as run:
            image, z, y, x, done, place = run.values
            rows = e.smallest(build.sub(width, x), build.sub(count, done))
            self._copy_run(e, given, (image, z, y, x), rows, place)
            following, carry = [], number(1)
            for at_axis, axis in ((y, "height"), (z, "depth")):
                grown = build.add(at_axis, carry)
                over = build.icmp_signed("==", grown, given[f"places_{axis}"])
                following.append(build.select(over, number(0), grown))
                carry = build.zext(over, I64)
            end = e.at(place, build.mul(rows, given["row_bytes"]))
            run.carry(
                build.add(image, carry), *reversed(following), number(0), build.add(done, rows), end
            )

    def _copy_run(
        self,
        e: Body,
        given: Mapping[str, LlvmValue],
        at: Sequence[LlvmValue],
        rows: LlvmValue,
        place: LlvmValue,
    ) -> None:
        """Copies what rows in one line of the result multiply, one line of the windows at a time.

        Args:
            e: Where to write.
            given: The parameters of the windows.
            at: Image, depth, height and width of the first place.
            rows: Number of places.
            place: Where the first row goes.
        """
        build, number = e.build, e.number
        image, *corner = at
        for index, axis in enumerate(AXES):
            start = build.mul(corner[index], given[f"stride_{axis}"])
            corner[index] = build.sub(start, given[f"before_{axis}"])
        fill = e.splat(build.trunc(given["fill"], I8), AT_ONCE)
        span = build.mul(given["window_width"], given["length"])
        step = build.mul(given["pixel"], given["dilation_width"])
        adjacent = build.icmp_signed("==", step, given["length"])
        reach = build.mul(build.sub(given["window_width"], number(1)), given["dilation_width"])
        last = build.sub(given["size_width"], reach)
        stride = given["stride_width"]

        def places_before(x: LlvmValue) -> LlvmValue:
            """Returns how many of the places have windows that begin before x."""
            behind = build.sub(build.add(build.sub(x, corner[2]), stride), number(1))
            return e.greatest(e.smallest(build.sdiv(behind, stride), rows), number(0))

        first = places_before(number(0))
        stop = e.greatest(places_before(last), first)
        furthest = build.add(corner[2], build.mul(build.sub(stop, number(1)), stride))
        furthest = build.mul(furthest, given["pixel"])
        short = build.and_(adjacent, build.icmp_signed("<=", span, number(AT_ONCE)))
        source = e.at(e.tensor("x"), build.mul(image, given["images_bytes"]))
        line_bytes = build.mul(span, number(e.target.activation_bytes))
        with e.loop(given["window_depth"], carried=[place, corner[0]]) as depth:
            place_d, z = depth.values
            inside_z = build.icmp_unsigned("<", z, given["size_depth"])
            plane = e.at(source, build.mul(z, given["bytes_depth"]))
            with e.loop(given["window_height"], carried=[place_d, corner[1]]) as height:
                place_h, y = height.values
                inside = build.and_(inside_z, build.icmp_unsigned("<", y, given["size_height"]))
                line = e.at(plane, build.mul(y, given["bytes_height"]))
                vectors = build.and_(short, inside)
                vectors = build.and_(vectors, self._readable(e, e.at(line, furthest)))
                skipped, resumed = (build.select(vectors, end, number(0)) for end in (first, stop))
                with e.loop(resumed, start=skipped) as row:
                    x = build.add(corner[2], build.mul(row.index, stride))
                    loaded = e.load(vector(I8, AT_ONCE), line, build.mul(x, given["pixel"]))
                    target = e.at(place_h, build.mul(row.index, given["row_bytes"]))
                    e.store(e.target.converted(e, loaded, self.unsigned), target)
                begin = build.select(
                    build.icmp_signed("==", skipped, number(0)), resumed, number(0)
                )
                others = build.sub(rows, build.sub(resumed, skipped))
                with e.loop(others, carried=[begin]) as row:
                    (index,) = row.values
                    target = e.at(place_h, build.mul(index, given["row_bytes"]))
                    x = build.add(corner[2], build.mul(index, stride))
                    whole = build.and_(adjacent, build.icmp_signed(">=", x, number(0)))
                    whole = build.and_(whole, build.icmp_signed("<", x, last))
                    with e.otherwise(inside) as (then, other):
                        with then, e.otherwise(whole) as (at_once, by_tap):
                            with at_once:
                                pixel = e.at(line, build.mul(x, given["pixel"]))
                                self._copy(e, pixel, target, span)
                            with by_tap:
                                self._copy_taps(e, given, line, x, target, fill)
                        with other:
                            self._fill(e, target, span, fill)
                    following = build.add(index, number(1))
                    jump = build.icmp_signed("==", following, skipped)
                    row.carry(build.select(jump, resumed, following))
                height.carry(e.at(place_h, line_bytes), build.add(y, given["dilation_height"]))
            depth.carry(height.values[0], build.add(z, given["dilation_depth"]))

    def _copy_taps(
        self,
        e: Body,
        given: Mapping[str, LlvmValue],
        line: LlvmValue,
        left: LlvmValue,
        place: LlvmValue,
        fill: LlvmValue,
    ) -> None:
        build = e.build
        size = build.mul(given["length"], e.number(e.target.activation_bytes))
        with e.loop(given["window_width"], carried=[place, left]) as tap:
            at, x = tap.values
            inside = build.icmp_unsigned("<", x, given["size_width"])
            with e.otherwise(inside) as (then, other):
                with then:
                    self._copy(e, e.at(line, build.mul(x, given["pixel"])), at, given["length"])
                with other:
                    self._fill(e, at, given["length"], fill)
            tap.carry(e.at(at, size), build.add(x, given["dilation_width"]))

    def _copy(self, e: Body, source: LlvmValue, place: LlvmValue, length: LlvmValue) -> None:
        """Copies bytes into scratch."""
        readable = self._readable(e, source)

        def read(at: LlvmValue | int, lanes: int) -> LlvmValue:
            return e.load(vector(I8, lanes) if lanes else I8, source, at)

        self._put(e, place, length, readable, read)

    def _readable(self, e: Body, source: LlvmValue) -> LlvmValue:
        """Returns whether a whole vector may be read; the tensor may end sooner."""
        end = e.at(e.tensor("x"), e.build.sub(e.parameter("x_bytes"), e.number(AT_ONCE)))
        return e.build.icmp_unsigned("<=", source, end)

    def _fill(self, e: Body, place: LlvmValue, length: LlvmValue, fill: LlvmValue) -> None:
        self._put(e, place, length, e.number(1, I1), lambda at, lanes: fill)

    def _put(
        self, e: Body, place: LlvmValue, length: LlvmValue, readable: LlvmValue, read: Any
    ) -> None:
        """Converts bytes into scratch, from where the order of rows lets whole vectors be written.

        Args:
            e: Where to write.
            place: Where they go; `SLACK_BYTES` behind them are written later, or not read.
            length: Number of bytes.
            readable: Whether a whole vector can be read though there are fewer bytes.
            read: Returns some of them: (offset, how many, or 0 for a scalar).
        """
        build, number = e.build, e.number
        size = number(e.target.activation_bytes)

        def put(at: LlvmValue, lanes: int) -> None:
            value = e.target.converted(e, read(at, lanes), self.unsigned)
            e.store(value, place, build.mul(at, size))

        with e.otherwise(build.icmp_signed(">=", length, number(AT_ONCE))) as (long, short):
            with long:
                whole = build.and_(length, number(-AT_ONCE))
                with e.loop(whole, step=AT_ONCE) as loop:
                    put(loop.index, AT_ONCE)
                with e.when(build.icmp_signed("!=", whole, length)):
                    put(build.sub(length, number(AT_ONCE)), AT_ONCE)
            with short, e.otherwise(readable) as (at_once, one_by_one):
                with at_once:
                    put(number(0), AT_ONCE)
                with one_by_one, e.loop(length) as loop:
                    put(loop.index, 0)


class _Tiles:
    """Sums, finishes and stores tiles.

    Args:
        kernel: The kernel.
        e: Its body.
    """

    def __init__(self, kernel: DenseKernel, e: Body) -> None:
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

    def write_panel(self, e: Body, panel: LlvmValue, first: LlvmValue, count: LlvmValue) -> None:
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
        e: Body,
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
