"""The code of sums of each channel alone.

Of one block of channels, a task copies the lines that its rows read into scratch, widened to 16
bits and two lines interleaved, so that one instruction multiplies and sums the taps of both;
padding, and strides and dilations other than those of the width, end there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llvmlite import ir

from qir.backends.cpu.emitter import I8, I16, I32, I64, LlvmValue, vector
from qir.backends.cpu.epilogue import Finisher, Valid
from qir.backends.cpu.kernel import KernelBody, KernelCode, SharedFunction, kernel_code
from qir.backends.cpu.kernels.lines import Line, PairCopies
from qir.backends.native.kernels.depthwise import (
    CHANNELS,
    LINE_BYTES,
    LINE_WORDS,
    PAIR_BYTES,
    DepthwiseKernel,
    FixedWindow,
)


@kernel_code(DepthwiseKernel)
class DepthwiseCode(KernelCode, DepthwiseKernel):
    """The code of `DepthwiseKernel`."""

    @property
    def shared(self) -> tuple[SharedFunction, ...]:
        """The copies of pairs of lines."""
        return (self.copies,)

    @property
    def copies(self) -> PairCopies:
        """What copies pairs of lines."""
        return PairCopies(self.unsigned, self.gathered)

    def write(self, e: KernelBody) -> None:
        """Writes the body, up to its return."""
        _DepthwiseBody(self, e).write()


class _DepthwiseBody:
    """Writes one kernel.

    Args:
        kernel: The kernel.
        e: Its body.
    """

    def __init__(self, kernel: DepthwiseCode, e: KernelBody) -> None:
        self.kernel = kernel
        self.e = e
        self.build = e.build
        self.given = {name: e.parameter(name) for name in kernel.parameters}
        self.tensor = {name: e.tensor(name) for name in kernel.tensors}
        self.vectors = CHANNELS // e.target.lanes
        self.fill = e.reserve(CHANNELS)
        self.finisher = Finisher(e, kernel.epilogue, CHANNELS, cut=kernel.narrow)
        self.valid = Valid(self.given["columns"]) if kernel.narrow else None

    def write(self) -> None:
        e, build, given = self.e, self.build, self.given
        e.store(e.splat(build.trunc(given["fill"], I8), CHANNELS), self.fill)
        left, part = self._divided(e.task, given["ranges"])
        outer, group = self._divided(left, given["groups"])
        image, depth = self._divided(outer, given["places_depth"])
        row = build.mul(group, given["group_rows"])
        rows = e.smallest(build.sub(given["places_height"], row), given["group_rows"])
        corner = [
            build.sub(build.mul(at, given[f"stride_{axis}"]), given[f"before_{axis}"])
            for at, axis in ((depth, "depth"), (row, "height"))
        ]
        image_lines = build.mul(image, given["size_depth"])
        first = build.add(build.mul(outer, given["places_height"]), row)
        start = build.mul(part, given["range_blocks"])
        stop = e.smallest(build.add(start, given["range_blocks"]), given["blocks"])
        width, block_width = given["places_width"], given["block_width"]
        pixels = build.mul(given["lines"], given["span"])
        found = e.at(e.scratch, build.mul(pixels, e.number(PAIR_BYTES)))
        # All blocks of channels of some pixels follow one another: these stay in the cache.
        with e.loop(given["pieces"]) as piece:
            x = e.smallest(build.mul(piece.index, block_width), build.sub(width, block_width))
            self._find_lines(found, image_lines, corner, x)
            with e.loop(stop, start=start) as block:
                column = build.mul(block.index, e.number(CHANNELS))
                if not self.kernel.narrow:
                    column = e.smallest(column, build.sub(given["columns"], e.number(CHANNELS)))
                channel = column
                if self.kernel.gathered:
                    sources = build.mul(block.index, e.number(8 * CHANNELS))
                    channel = e.at(self.tensor["sources"], sources)
                self.kernel.copies.call(
                    e, found, e.scratch, given["lines"], given["span"], self.fill, channel
                )
                self._rows(block.index, column, first, rows, x)

    def _divided(self, value: LlvmValue, divisor: LlvmValue) -> tuple[LlvmValue, LlvmValue]:
        return self.build.sdiv(value, divisor), self.build.srem(value, divisor)

    def _find_lines(
        self, found: LlvmValue, image_lines: LlvmValue, corner: Sequence[LlvmValue], x: LlvmValue
    ) -> None:
        """Stores where each line is that the task reads at some places.

        One in the padding is a pixel that has no next one, or, where channels are gathered, a line
        that ends before it begins.
        """
        e, build, given = self.e, self.build, self.given
        left = build.sub(build.mul(x, given["stride_width"]), given["before_width"])
        lines = build.mul(given["lines"], e.number(2))
        with e.loop(lines, carried=[self.tensor["lines"], found]) as line:
            table, found = line.values
            z, y, x = (
                build.add(base, e.load(I64, table, 8 * axis, align=8))
                for axis, base in enumerate((*corner, left))
            )
            inside = build.and_(
                build.icmp_unsigned("<", z, given["size_depth"]),
                build.icmp_unsigned("<", y, given["size_height"]),
            )
            row = build.add(build.mul(build.add(image_lines, z), given["size_height"]), y)
            at = build.add(build.mul(row, given["size_width"]), x)
            there = e.at(self.tensor["x"], build.mul(at, given["pixel"]))
            high = e.smallest(build.sub(given["size_width"], x), given["span"])
            if self.kernel.gathered:
                high = build.select(inside, high, e.number(0))
            Line(
                build.select(inside, there, self.fill),
                build.select(inside, given["pixel"], e.number(0)),
                e.smallest(e.greatest(build.neg(x), e.number(0)), given["span"]),
                high,
            ).store(e, found)
            line.carry(e.at(table, 8 * LINE_WORDS), e.at(found, LINE_BYTES))

    def _rows(
        self, block: LlvmValue, column: LlvmValue, first: LlvmValue, rows: LlvmValue, x: LlvmValue
    ) -> None:
        """Sums, finishes and stores some places of all rows, of one block of channels."""
        e, build, given = self.e, self.build, self.given
        number = e.number
        size = self.kernel.epilogue.size
        weights = e.at(self.tensor["weights"], build.mul(block, given["block_bytes"]))
        tables = self.finisher.tables(self.tensor, build.mul(block, number(CHANNELS)))
        with e.loop(rows, carried=[self.tensor["rows"]]) as row:
            (table,) = row.values
            place = build.add(build.mul(build.add(first, row.index), given["places_width"]), x)
            out = e.at(self.tensor["out"], build.mul(place, given["out_pixel"]))
            out = e.at(out, build.mul(column, number(size)))
            residual = None
            if "residual" in self.tensor:
                at = build.add(build.mul(place, given["columns"]), column)
                residual = e.at(self.tensor["residual"], at)
            places = _Places(
                e.at(weights, e.load(I64, table, align=8)), e.at(table, 8), tables, out, residual
            )
            count = self.kernel.places
            last = build.sub(given["block_width"], number(count))
            with e.loop(given["block_width"], step=count) as loop:
                self._sum(places, e.smallest(loop.index, last), count)
            row.carry(e.at(table, build.mul(build.add(given["pairs"], number(1)), number(8))))

    def _sum(self, places: _Places, at: LlvmValue, count: int) -> None:
        """Sums, finishes and stores adjacent places of a row."""
        e, build, given = self.e, self.build, self.given
        window = self.kernel.window
        stride = given["stride_width"] if window is None else e.number(window.stride)
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
            pixel = build.mul(build.add(at, e.number(place)), given["out_pixel"])
            self.finisher.store(stored, e.at(places.out, pixel), self.valid)

    def _unrolled(
        self, places: _Places, start: LlvmValue, count: int, window: FixedWindow
    ) -> list[list[LlvmValue]]:
        e = self.e
        halves = []
        for half in range(self.vectors):
            totals: list[LlvmValue | None] = [None] * count
            for pair in range(window.pairs):
                line = e.at(self._pair(places, e.number(8 * pair)), start)
                products: dict[int, list[tuple[int, LlvmValue]]] = {}
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

    def _looped(self, places: _Places, start: LlvmValue, count: int) -> list[list[LlvmValue]]:
        e, build, given = self.e, self.build, self.given
        zero = ir.Constant(vector(I32, e.target.lanes), [0] * e.target.lanes)
        stride, step = (
            build.mul(given[name], e.number(PAIR_BYTES)) for name in ("stride_width", "step")
        )
        with e.loop(
            given["pairs"], carried=[places.weights, *([zero] * count * self.vectors)]
        ) as pair:
            offset = build.mul(pair.index, e.number(8))
            line = e.at(self._pair(places, offset), start)
            with e.loop(given["taps"], carried=[line, *pair.values]) as tap:
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

    def _pair(self, places: _Places, offset: LlvmValue) -> LlvmValue:
        """Returns where a pair of lines that a row reads lies in scratch."""
        e = self.e
        return e.at(e.scratch, e.load(I64, e.at(places.pairs, offset), align=8))

    def _half(self, pointer: LlvmValue, offset: int, half: int) -> LlvmValue:
        """Loads the part of a pixel, or of a tap's weights, that fills a vector."""
        lanes = self.e.target.lanes
        return self.e.load(vector(I16, 2 * lanes), pointer, offset + 4 * lanes * half, align=16)

    def _finished(
        self, places: _Places, at: LlvmValue, totals: Sequence[LlvmValue]
    ) -> list[LlvmValue]:
        """Returns what becomes of the sums of one place."""
        e, residual = self.e, places.residual
        if residual is not None:
            residual = e.at(residual, e.build.mul(at, self.given["columns"]))
        return self.finisher.finished(places.tables, totals, residual, self.valid)


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

    weights: LlvmValue
    pairs: LlvmValue
    tables: Mapping[str, LlvmValue]
    out: LlvmValue
    residual: LlvmValue | None
