"""Sums of each channel alone: depthwise convolutions of 1, 2 and 3 spatial dimensions.

A task takes some rows of the result and a range of blocks of 16 channels. Of one block it copies
the lines that the rows read into scratch, widened to 16 bits and two lines interleaved, so that
one instruction multiplies and sums the taps of both; padding, and strides and dilations other than
those of the width, end there. Rows that begin at an odd line find the same pairs, with weights of
another phase. Of a window that has one line, the pairs are neighbours in that line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from llvmlite import ir

from qir.backends.xla.cpu.emitter import I8, I16, I32, I64, Value, vector
from qir.backends.xla.cpu.epilogue import Epilogue
from qir.backends.xla.cpu.kernel import Body, Kernel

CHANNELS = 16
"""Channels of a block."""
PAIR_BYTES = 4 * CHANNELS
"""Bytes of a pixel of a pair of lines in scratch."""
LINE_WORDS = 3
"""Numbers that say where a line is: its distances in depth, height and width."""
UNROLLED = 7
"""Places of a row that are summed together."""

_SIZES = (
    *(f"size_{axis}" for axis in ("depth", "height", "width")),
    *(f"places_{axis}" for axis in ("depth", "height", "width")),
    *(f"stride_{axis}" for axis in ("depth", "height", "width")),
    *(f"before_{axis}" for axis in ("depth", "height", "width")),
    "fill",
    "pixel",
    "group_rows",
    "groups",
    "ranges",
    "range_blocks",
    "blocks",
    "columns",
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
class Window:
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
class Depthwise(Kernel):
    """A convolution of each channel by itself.

    Attributes:
        window: The window; None for one that the step gives.
        unsigned: Whether x is unsigned bytes.
        gathered: Whether a table says which channel of x each column reads.
        narrow: Whether there are fewer columns than a block has.
        epilogue: What becomes of the sums.
    """

    window: Window | None
    unsigned: bool
    gathered: bool
    narrow: bool
    epilogue: Epilogue

    @property
    def words(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it.

        size_…, places_…, stride_…, before_…: of x, of the result, and what leads from one to the
        other. fill: the zero point of x. pixel: channels of x. group_rows, groups: rows of a task,
        and tasks of an image along the height. blocks: of channels; ranges, range_blocks: of
        blocks. columns: channels of the result. block_width, span: places that are summed after
        one copy, and the pixels of a line that they read. lines: pairs of lines in scratch.
        block_bytes: of the weights of a block. pairs, taps, step: as in `Window`.
        """
        return (*_SIZES, *self.epilogue.words)

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

    def write(self, e: Body) -> None:
        """Writes the body, up to its return."""
        _Writer(self, e).write()


class _Writer:
    """Writes one kernel.

    Args:
        kernel: The kernel.
        e: Its body.
    """

    def __init__(self, kernel: Depthwise, e: Body) -> None:
        self.kernel = kernel
        self.e = e
        self.build = e.build
        self.word = {name: e.word(name) for name in kernel.words}
        self.tensor = {name: e.tensor(name) for name in kernel.tensors}
        self.vectors = CHANNELS // e.target.lanes
        self.fill = e.reserve(CHANNELS)
        self.staged = e.reserve(PAIR_BYTES)
        self.staged_residual = e.reserve(CHANNELS)

    def write(self) -> None:
        e, build, word = self.e, self.build, self.word
        e.store(e.splat(build.trunc(word["fill"], I8), CHANNELS), self.fill)
        left, part = self._divided(e.task, word["ranges"])
        outer, group = self._divided(left, word["groups"])
        image, depth = self._divided(outer, word["places_depth"])
        row = build.mul(group, word["group_rows"])
        rows = e.smallest(build.sub(word["places_height"], row), word["group_rows"])
        corner = [
            build.sub(build.mul(at, word[f"stride_{axis}"]), word[f"before_{axis}"])
            for at, axis in ((depth, "depth"), (row, "height"))
        ]
        image_lines = build.mul(image, word["size_depth"])
        first = build.add(build.mul(outer, word["places_height"]), row)
        start = build.mul(part, word["range_blocks"])
        stop = e.smallest(build.add(start, word["range_blocks"]), word["blocks"])
        with e.loop(stop, start=start) as block:
            column = build.mul(block.index, e.number(CHANNELS))
            if not self.kernel.narrow:
                column = e.smallest(column, build.sub(word["columns"], e.number(CHANNELS)))
            width = word["places_width"]
            block_width = word["block_width"]
            blocks = build.sdiv(build.add(width, build.sub(block_width, e.number(1))), block_width)
            with e.loop(blocks) as piece:
                x = build.mul(piece.index, block_width)
                count = e.smallest(build.sub(width, x), block_width)
                self._copy(image_lines, corner, x, block.index, column)
                self._rows(block.index, column, first, rows, x, count)

    def _divided(self, value: Value, divisor: Value) -> tuple[Value, Value]:
        return self.build.sdiv(value, divisor), self.build.srem(value, divisor)

    def _copy(
        self, image_lines: Value, corner: Sequence[Value], x: Value, block: Value, column: Value
    ) -> None:
        """Copies all pairs of lines of one block of channels and some places."""
        e, build, word = self.e, self.build, self.word
        number = e.number
        left = build.sub(build.mul(x, word["stride_width"]), word["before_width"])
        line_bytes = build.mul(word["span"], number(PAIR_BYTES))
        channel = number(0) if self.kernel.gathered else column
        sources = (
            e.at(self.tensor["sources"], build.mul(block, number(8 * CHANNELS)))
            if self.kernel.gathered
            else None
        )
        with e.loop(word["lines"], carried=[self.tensor["lines"], e.scratch]) as pair:
            table, place = pair.values
            lines = [
                self._line(table, index, image_lines, corner, left, channel) for index in range(2)
            ]
            (_, _, low, high), (_, _, other_low, other_high) = lines
            begin = e.smallest(e.greatest(low, other_low), word["span"])
            end = e.smallest(e.smallest(high, other_high), word["span"])
            end = e.greatest(end, begin)

            with e.loop(begin) as loop:
                parts = [self._edge(line, loop.index, sources) for line in lines]
                self._put(parts, place, loop.index)
            with e.loop(
                end,
                start=begin,
                carried=[e.at(line, build.mul(begin, step)) for line, step, *_ in lines],
            ) as loop:
                pixels = loop.values
                self._put([self._pixel(pixel, sources) for pixel in pixels], place, loop.index)
                loop.carry(
                    *(e.at(pixel, step) for pixel, (_, step, *_) in zip(pixels, lines, strict=True))
                )
            with e.loop(word["span"], start=end) as loop:
                parts = [self._edge(line, loop.index, sources) for line in lines]
                self._put(parts, place, loop.index)
            pair.carry(e.at(table, 16 * LINE_WORDS), e.at(place, line_bytes))

    def _line(
        self,
        table: Value,
        index: int,
        image_lines: Value,
        corner: Sequence[Value],
        left: Value,
        channel: Value,
    ) -> _Line:
        """Returns where a line begins, its step, and the first and last place that is inside.

        A line that lies in the padding has the step 0.
        """
        e, build, word = self.e, self.build, self.word
        z, y, x = (
            build.add(base, e.load(I64, table, 8 * (LINE_WORDS * index + axis), align=8))
            for axis, base in enumerate((*corner, left))
        )
        inside = build.and_(
            build.icmp_unsigned("<", z, word["size_depth"]),
            build.icmp_unsigned("<", y, word["size_height"]),
        )
        line = build.add(build.mul(build.add(image_lines, z), word["size_height"]), y)
        at = build.add(build.mul(line, word["size_width"]), x)
        there = e.at(self.tensor["x"], build.add(build.mul(at, word["pixel"]), channel))
        low = e.greatest(build.neg(x), e.number(0))
        high = build.sub(word["size_width"], x)
        if self.kernel.gathered:
            return there, word["pixel"], build.select(inside, low, word["span"]), high
        return (
            build.select(inside, there, self.fill),
            build.select(inside, word["pixel"], e.number(0)),
            low,
            high,
        )

    def _pixel(self, pixel: Value, sources: Value | None) -> Value:
        """Loads the channels of one pixel."""
        e = self.e
        bytes_ = vector(I8, CHANNELS)
        if sources is None:
            return e.load(bytes_, pixel)
        value: Value = ir.Constant(bytes_, ir.Undefined)
        for lane in range(CHANNELS):
            channel = e.load(I64, sources, 8 * lane, align=8)
            value = e.build.insert_element(value, e.load(I8, pixel, channel), e.number(lane, I32))
        return value

    def _edge(self, line: _Line, at: Value, sources: Value | None) -> Value:
        """Loads the channels of one pixel, or the zero point where it lies outside of x."""
        e, build = self.e, self.build
        begin, step, low, high = line
        inside = build.and_(build.icmp_signed(">=", at, low), build.icmp_signed("<", at, high))
        pixel = e.at(begin, build.mul(at, step))
        if sources is None:
            return self._pixel(build.select(inside, pixel, self.fill), None)
        with e.otherwise(inside) as (then, other):
            with then:
                found = self._pixel(pixel, sources)
                after_found = build.block
            with other:
                fill = e.load(vector(I8, CHANNELS), self.fill)
                after_fill = build.block
        value = build.phi(found.type)
        value.add_incoming(found, after_found)
        value.add_incoming(fill, after_fill)
        return value

    def _put(self, lines: Sequence[Value], place: Value, at: Value) -> None:
        """Stores one pixel of a pair of lines, interleaved."""
        e, build = self.e, self.build
        half = CHANNELS // 2
        at = build.mul(at, e.number(PAIR_BYTES))
        widen = build.zext if self.kernel.unsigned else build.sext
        for first in (0, half):
            lanes = [first + lane // 2 + CHANNELS * (lane % 2) for lane in range(CHANNELS)]
            wide = widen(e.shuffle(lines[0], lines[1], lanes), vector(I16, CHANNELS))
            e.store(wide, place, build.add(at, e.number(4 * first)), align=32)

    def _rows(
        self, block: Value, column: Value, first: Value, rows: Value, x: Value, count: Value
    ) -> None:
        """Sums, finishes and stores some places of all rows, of one block of channels."""
        e, build, word = self.e, self.build, self.word
        number = e.number
        size = 1 if self.kernel.epilogue.stores_bytes else 4
        weights = e.at(self.tensor["weights"], build.mul(block, word["block_bytes"]))
        tables = {
            name: e.at(self.tensor[name], build.mul(block, number(4 * CHANNELS)))
            for name in self.kernel.epilogue.tables
        }
        with e.loop(rows, carried=[self.tensor["rows"]]) as row:
            (table,) = row.values
            place = build.add(build.mul(build.add(first, row.index), word["places_width"]), x)
            out = e.at(self.tensor["out"], build.mul(place, word["out_pixel"]))
            out = e.at(out, build.mul(column, number(size)))
            residual = None
            if "residual" in self.tensor:
                at = build.add(build.mul(place, word["columns"]), column)
                residual = e.at(self.tensor["residual"], at)
            places = _Places(
                e.at(weights, e.load(I64, table, align=8)), e.at(table, 8), tables, out, residual
            )
            with e.otherwise(build.icmp_signed(">=", count, number(UNROLLED))) as (many, few):
                with many, e.loop(count, step=UNROLLED) as loop:
                    self._sum(
                        places, e.smallest(loop.index, build.sub(count, number(UNROLLED))), UNROLLED
                    )
                with few, e.loop(count) as loop:
                    self._sum(places, loop.index, 1)
            row.carry(e.at(table, build.mul(build.add(word["pairs"], number(1)), number(8))))

    def _sum(self, places: _Places, at: Value, count: int) -> None:
        """Sums, finishes and stores adjacent places of a row."""
        e, build, word = self.e, self.build, self.word
        window = self.kernel.window
        stride = word["stride_width"] if window is None else e.number(window.stride)
        start = build.mul(build.mul(at, stride), e.number(PAIR_BYTES))
        totals = (
            self._looped(places, start, count)
            if window is None
            else self._unrolled(places, start, count, window)
        )
        # The tables are loaded once for all places: no store stands between.
        finished = [
            self._finished(places, build.add(at, e.number(place)), totals[place])
            for place in range(count)
        ]
        for place, stored in enumerate(finished):
            self._store(places, build.add(at, e.number(place)), stored)

    def _unrolled(
        self, places: _Places, start: Value, count: int, window: Window
    ) -> list[list[Value]]:
        e = self.e
        halves = []
        for half in range(self.vectors):
            totals: list[Value | None] = [None] * count
            for pair in range(window.pairs):
                line = e.at(self._pair(places, e.number(8 * pair)), start)
                products: dict[int, list[tuple[int, Value]]] = {}
                for tap in range(window.taps):
                    weights = self._half(
                        places.weights, PAIR_BYTES * (pair * window.taps + tap), half
                    )
                    for place in range(count):
                        pixel = place * window.stride + tap * window.step
                        products.setdefault(pixel, []).append((place, weights))
                for pixel, uses in sorted(products.items()):
                    activations = self._half(line, PAIR_BYTES * pixel, half)
                    for place, weights in uses:
                        totals[place] = e.target.sum_pairs(e, totals[place], activations, weights)
            halves.append(totals)
        return [[totals[place] for totals in halves] for place in range(count)]

    def _looped(self, places: _Places, start: Value, count: int) -> list[list[Value]]:
        e, build, word = self.e, self.build, self.word
        zero = ir.Constant(vector(I32, e.target.lanes), [0] * e.target.lanes)
        stride, step = (
            build.mul(word[name], e.number(PAIR_BYTES)) for name in ("stride_width", "step")
        )
        with e.loop(
            word["pairs"], carried=[places.weights, *([zero] * count * self.vectors)]
        ) as pair:
            offset = build.mul(pair.index, e.number(8))
            line = e.at(self._pair(places, offset), start)
            with e.loop(word["taps"], carried=[line, *pair.values]) as tap:
                pixel, weights, *totals = tap.values
                for half in range(self.vectors):
                    factors = self._half(weights, 0, half)
                    for place in range(count):
                        at = e.at(pixel, build.mul(stride, e.number(place)))
                        index = place * self.vectors + half
                        totals[index] = e.target.sum_pairs(
                            e, totals[index], self._half(at, 0, half), factors
                        )
                tap.carry(e.at(pixel, step), e.at(weights, PAIR_BYTES), *totals)
            pair.carry(*tap.values[1:])
        totals = pair.values[1:]
        return [totals[place * self.vectors : (place + 1) * self.vectors] for place in range(count)]

    def _pair(self, places: _Places, offset: Value) -> Value:
        """Returns where a pair of lines that a row reads lies in scratch."""
        e = self.e
        return e.at(e.scratch, e.load(I64, e.at(places.pairs, offset), align=8))

    def _half(self, pointer: Value, offset: int, half: int) -> Value:
        """Loads the part of a pixel, or of a tap's weights, that fills a vector."""
        lanes = self.e.target.lanes
        return self.e.load(vector(I16, 2 * lanes), pointer, offset + 4 * lanes * half, align=16)

    def _finished(self, places: _Places, at: Value, totals: Sequence[Value]) -> list[Value]:
        """Returns what becomes of the sums of one place."""
        e, word = self.e, self.word
        residual = None
        if places.residual is not None:
            residual = e.at(places.residual, e.build.mul(at, word["columns"]))
            if self.kernel.narrow:
                self._move(residual, self.staged_residual, word["columns"])
                residual = self.staged_residual
        return self.kernel.epilogue.apply(e, places.tables, totals, residual)

    def _store(self, places: _Places, at: Value, stored: Sequence[Value]) -> None:
        """Stores what became of the sums of one place."""
        e, build, narrow = self.e, self.build, self.kernel.narrow
        size = 1 if self.kernel.epilogue.stores_bytes else 4
        out = e.at(places.out, build.mul(at, self.word["out_pixel"]))
        for index, part in enumerate(stored):
            e.store(part, self.staged if narrow else out, index * (CHANNELS * size // len(stored)))
        if narrow:
            self._move(self.staged, out, build.mul(self.word["columns"], e.number(size)))

    def _move(self, source: Value, place: Value, size: Value) -> None:
        e = self.e
        with e.loop(size) as loop:
            e.store(e.load(I8, source, loop.index), place, loop.index)


_Line: TypeAlias = tuple[Value, Value, Value, Value]


@dataclass(frozen=True)
class _Places:
    """Adjacent places of a row.

    Attributes:
        weights: Pointer to the weights of the row's phase.
        pairs: Pointer to the offsets of its pairs of lines.
        tables: Pointers to the tables of the epilogue.
        out: Pointer to the first place.
        residual: Pointer to what is added to it.
    """

    weights: Value
    pairs: Value
    tables: Mapping[str, Value]
    out: Value
    residual: Value | None
