"""Rows that dense kernels multiply, copied into scratch: pixels, or windows of pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qir.backends.cpu.emitter import I1, I8, I64, LlvmValue, vector
from qir.backends.cpu.kernel import KernelBody
from qir.backends.native.kernels.dense import AT_ONCE, AXES, WINDOW

Read = Callable[[LlvmValue, int], LlvmValue]
"""Returns some bytes: (offset, how many, or 0 for a scalar)."""


@dataclass(frozen=True)
class RowCopies:
    """Copies what the rows of a task multiply, as the dot instruction reads it.

    Attributes:
        e: The body of the kernel.
        unsigned: Whether the bytes are unsigned.
    """

    e: KernelBody
    unsigned: bool

    def write(self, first: LlvmValue, count: LlvmValue, *, windowed: bool) -> None:
        """Copies rows.

        Args:
            first: The first row.
            count: Number of the rows.
            windowed: Whether a row is a window of pixels, not one.
        """
        (self._write_windows if windowed else self._write_pixels)(first, count)

    def _write_pixels(self, first: LlvmValue, count: LlvmValue) -> None:
        e = self.e
        pixel, length, row_bytes = map(e.parameter, ("pixel", "length", "row_bytes"))
        source = e.at(e.tensor("x"), e.build.mul(first, pixel))
        with e.loop(count, carried=[source, e.scratch]) as row:
            x, place = row.values
            self.copy(x, place, length)
            row.carry(e.at(x, pixel), e.at(place, row_bytes))

    def _write_windows(self, first: LlvmValue, count: LlvmValue) -> None:
        """Copies windows: run after run of places in one line of the result."""
        e, build, number = self.e, self.e.build, self.e.number
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
            WindowRun.of(self, given, (image, z, y, x), rows).write(place)
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

    def copy(self, source: LlvmValue, place: LlvmValue, length: LlvmValue) -> None:
        """Copies bytes into scratch."""
        e = self.e

        def read(at: LlvmValue, lanes: int) -> LlvmValue:
            return e.load(vector(I8, lanes) if lanes else I8, source, at)

        self._put(place, length, self.readable(source), read)

    def fill(self, place: LlvmValue, length: LlvmValue, fill: LlvmValue) -> None:
        """Fills scratch with what padding holds."""
        self._put(place, length, self.e.number(1, I1), lambda at, lanes: fill)

    def readable(self, source: LlvmValue) -> LlvmValue:
        """Returns whether a whole vector may be read; the tensor may end sooner."""
        e = self.e
        end = e.at(e.tensor("x"), e.build.sub(e.parameter("x_bytes"), e.number(AT_ONCE)))
        return e.build.icmp_unsigned("<=", source, end)

    def _put(self, place: LlvmValue, length: LlvmValue, readable: LlvmValue, read: Read) -> None:
        """Converts bytes into scratch, from where the order of rows lets whole vectors be written.

        Args:
            place: Where they go; `SLACK_BYTES` behind them are written later, or not read.
            length: Number of bytes.
            readable: Whether a whole vector can be read though there are fewer bytes.
            read: Returns some of them.
        """
        e, build, number = self.e, self.e.build, self.e.number
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


@dataclass(frozen=True)
class WindowRun:
    """Windows of adjacent places in one line of the result.

    Attributes:
        copies: What copies bytes.
        given: The parameters of the windows.
        image: Number of the image.
        corner: Depth, height and width of the first pixel of the first window.
        rows: Number of places.
        fill: What padding holds, in every lane.
        span: Bytes of a line of a window in x.
        adjacent: Whether such a line is adjacent bytes of x.
        last: Width from which on a window passes the end of a line of x.
        first: The first place whose window begins inside of x.
        stop: The first place behind it whose window passes the end.
    """

    copies: RowCopies
    given: Mapping[str, LlvmValue]
    image: LlvmValue
    corner: Sequence[LlvmValue]
    rows: LlvmValue
    fill: LlvmValue
    span: LlvmValue
    adjacent: LlvmValue
    last: LlvmValue
    first: LlvmValue
    stop: LlvmValue

    @staticmethod
    def of(
        copies: RowCopies, given: Mapping[str, LlvmValue], at: Sequence[LlvmValue], rows: LlvmValue
    ) -> WindowRun:
        """Writes what all lines of the windows need.

        Args:
            copies: What copies bytes.
            given: The parameters of the windows.
            at: Image, depth, height and width of the first place.
            rows: Number of places.
        """
        e, build, number = copies.e, copies.e.build, copies.e.number
        image, *places = at
        corner = []
        for place, axis in zip(places, AXES, strict=True):
            start = build.mul(place, given[f"stride_{axis}"])
            corner.append(build.sub(start, given[f"before_{axis}"]))
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
        return WindowRun(
            copies, given, image, corner, rows, fill, span, adjacent, last, first, stop
        )

    def write(self, place: LlvmValue) -> None:
        """Copies the windows, one line of all of them after the other.

        Args:
            place: Where the first row goes.
        """
        e, build, number, given = (
            self.copies.e,
            self.copies.e.build,
            self.copies.e.number,
            self.given,
        )
        furthest = build.mul(build.sub(self.stop, number(1)), given["stride_width"])
        furthest = build.mul(build.add(self.corner[2], furthest), given["pixel"])
        short = build.icmp_signed("<=", self.span, number(AT_ONCE))
        short = build.and_(self.adjacent, short)
        source = e.at(e.tensor("x"), build.mul(self.image, given["images_bytes"]))
        line_bytes = build.mul(self.span, number(e.target.activation_bytes))
        with e.loop(given["window_depth"], carried=[place, self.corner[0]]) as depth:
            place_d, z = depth.values
            inside_z = build.icmp_unsigned("<", z, given["size_depth"])
            plane = e.at(source, build.mul(z, given["bytes_depth"]))
            with e.loop(given["window_height"], carried=[place_d, self.corner[1]]) as height:
                place_h, y = height.values
                inside = build.and_(inside_z, build.icmp_unsigned("<", y, given["size_height"]))
                line = e.at(plane, build.mul(y, given["bytes_height"]))
                vectors = build.and_(short, inside)
                vectors = build.and_(vectors, self.copies.readable(e.at(line, furthest)))
                skipped, resumed = self._write_vectors(line, place_h, vectors)
                self._write_others(line, place_h, inside, skipped, resumed)
                height.carry(e.at(place_h, line_bytes), build.add(y, given["dilation_height"]))
            depth.carry(height.values[0], build.add(z, given["dilation_depth"]))

    def _left(self, row: LlvmValue) -> LlvmValue:
        """Returns the width at which the window of a place begins."""
        build = self.copies.e.build
        return build.add(self.corner[2], build.mul(row, self.given["stride_width"]))

    def _write_vectors(
        self, line: LlvmValue, place: LlvmValue, vectors: LlvmValue
    ) -> tuple[LlvmValue, LlvmValue]:
        """Copies the places whose lines are one vector each, which need no test.

        Args:
            line: Pointer to the line of x.
            place: Where the line of the first row goes.
            vectors: Whether there are such places.

        Returns:
            The first of them, and what follows the last; 0 for none.
        """
        e, build, given = self.copies.e, self.copies.e.build, self.given
        skipped, resumed = (
            build.select(vectors, end, e.number(0)) for end in (self.first, self.stop)
        )
        with e.loop(resumed, start=skipped) as row:
            at = build.mul(self._left(row.index), given["pixel"])
            loaded = e.load(vector(I8, AT_ONCE), line, at)
            target = e.at(place, build.mul(row.index, given["row_bytes"]))
            e.store(e.target.converted(e, loaded, self.copies.unsigned), target)
        return skipped, resumed

    def _write_others(
        self,
        line: LlvmValue,
        place: LlvmValue,
        inside: LlvmValue,
        skipped: LlvmValue,
        resumed: LlvmValue,
    ) -> None:
        """Copies the other places, or fills them with padding.

        Args:
            line: Pointer to the line of x.
            place: Where the line of the first row goes.
            inside: Whether the line is in x.
            skipped: The first place that is copied already.
            resumed: What follows the last such place.
        """
        e, build, number, given = (
            self.copies.e,
            self.copies.e.build,
            self.copies.e.number,
            self.given,
        )
        begin = build.select(build.icmp_signed("==", skipped, number(0)), resumed, number(0))
        others = build.sub(self.rows, build.sub(resumed, skipped))
        with e.loop(others, carried=[begin]) as row:
            (index,) = row.values
            target = e.at(place, build.mul(index, given["row_bytes"]))
            x = self._left(index)
            whole = build.and_(self.adjacent, build.icmp_signed(">=", x, number(0)))
            whole = build.and_(whole, build.icmp_signed("<", x, self.last))
            with e.otherwise(inside) as (then, other):
                with then, e.otherwise(whole) as (at_once, by_tap):
                    with at_once:
                        pixel = e.at(line, build.mul(x, given["pixel"]))
                        self.copies.copy(pixel, target, self.span)
                    with by_tap:
                        self._write_taps(line, x, target)
                with other:
                    self.copies.fill(target, self.span, self.fill)
            following = build.add(index, number(1))
            jump = build.icmp_signed("==", following, skipped)
            row.carry(build.select(jump, resumed, following))

    def _write_taps(self, line: LlvmValue, left: LlvmValue, place: LlvmValue) -> None:
        """Copies the line of one window tap by tap, some of which are padding."""
        e, build, given = self.copies.e, self.copies.e.build, self.given
        size = build.mul(given["length"], e.number(e.target.activation_bytes))
        with e.loop(given["window_width"], carried=[place, left]) as tap:
            at, x = tap.values
            inside = build.icmp_unsigned("<", x, given["size_width"])
            with e.otherwise(inside) as (then, other):
                with then:
                    pixel = e.at(line, build.mul(x, given["pixel"]))
                    self.copies.copy(pixel, at, given["length"])
                with other:
                    self.copies.fill(at, given["length"], self.fill)
            tap.carry(e.at(at, size), build.add(x, given["dilation_width"]))
