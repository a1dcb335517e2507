"""The code of movements of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qir.backends.cpu.emitter import I8, I32, I64, LlvmEmitter, LlvmValue, vector
from qir.backends.cpu.kernel import KernelBody, KernelCode, kernel_code
from qir.backends.native.kernels.movement import CopyKernel, PadKernel, TransposeKernel, each_axis


def _places(e: KernelBody, index: LlvmValue, sizes: Sequence[LlvmValue]) -> list[LlvmValue]:
    """Returns where the axes stand at an index of all of them in row-major order."""
    places = []
    for size in reversed(sizes):
        places.append(e.build.srem(index, size))
        index = e.build.sdiv(index, size)
    return places[::-1]


def _advanced(
    e: KernelBody, places: Sequence[LlvmValue], sizes: Sequence[LlvmValue]
) -> list[LlvmValue]:
    """Returns where the axes stand next."""
    build, following = e.build, []
    carry: LlvmValue = e.number(1)
    for place, size in zip(reversed(places), reversed(sizes), strict=True):
        grown = build.add(place, carry)
        over = build.icmp_signed("==", grown, size)
        following.append(build.select(over, e.number(0), grown))
        carry = build.zext(over, I64)
    return following[::-1]


def _moved(
    e: KernelBody, pointer: LlvmValue, places: Sequence[LlvmValue], strides: Sequence[LlvmValue]
) -> LlvmValue:
    for place, stride in zip(places, strides, strict=True):
        pointer = e.at(pointer, e.build.mul(place, stride))
    return pointer


def copy(e: LlvmEmitter, place: LlvmValue, source: LlvmValue, size: LlvmValue) -> None:
    """Copies bytes."""

    def put(at: LlvmValue, width: int) -> None:
        e.store(e.load(_whole(width), source, at), place, at)

    _run(e, size, put)


def fill(e: LlvmEmitter, place: LlvmValue, number: LlvmValue, size: LlvmValue) -> None:
    """Fills bytes with copies of a number of 32 bits; not whole ones where its bytes are equal."""
    wide = e.splat(number, 8)

    def put(at: LlvmValue, width: int) -> None:
        value = e.build.bitcast(wide, vector(I8, 32))
        narrow = e.shuffle(value, value, range(width))
        e.store(narrow, place, at)

    _run(e, size, put)


def _whole(width: int) -> object:
    return vector(I8, width) if width > 1 else I8


def _run(
    e: LlvmEmitter, size: LlvmValue, put: Callable[[LlvmValue, int], None], width: int = 32
) -> None:
    """Puts bytes in vectors of one width, the last of which overlaps; or tries half the width."""
    build, number = e.build, e.number
    if width < 4:
        with e.loop(size) as loop:
            put(loop.index, 1)
        return
    with e.otherwise(build.icmp_signed(">=", size, number(width))) as (long, short):
        with long:
            last = build.sub(size, number(width))
            with e.loop(last, step=width) as loop:
                put(loop.index, width)
            put(last, width)
        with short:
            _run(e, size, put, width // 2)


@kernel_code(CopyKernel)
class CopyCode(KernelCode, CopyKernel):
    """The code of `CopyKernel`."""

    def write(self, e: KernelBody) -> None:
        """Writes the loops over runs."""
        build = e.build

        def block(index: LlvmValue, name: str) -> tuple[LlvmValue, LlvmValue]:
            size = e.parameter(f"block_{name}")
            start = build.mul(index, size)
            return start, e.smallest(build.add(start, size), e.parameter(name))

        ranges, runs = e.parameter("ranges"), e.parameter("runs")
        left = build.sdiv(e.task, runs)
        run, run_stop = block(build.srem(e.task, runs), "run")
        inner, inner_stop = block(build.srem(left, ranges), "inner")
        outer, outer_stop = block(build.sdiv(left, ranges), "outer")
        length = build.sub(run_stop, run)
        sizes, source_strides, out_strides = (
            [e.parameter(name) for name in each_axis(kind)] for kind in ("size", "source", "out")
        )
        source_inner, out_inner = e.parameter("source_inner"), e.parameter("out_inner")
        x, out = (e.at(e.tensor(name), run) for name in self.tensors)
        with e.loop(outer_stop, start=outer, carried=_places(e, outer, sizes)) as row:
            source = _moved(e, x, [*row.values, inner], [*source_strides, source_inner])
            place = _moved(e, out, [*row.values, inner], [*out_strides, out_inner])
            with e.loop(inner_stop, start=inner, carried=[source, place]) as step:
                from_, to = step.values
                copy(e, to, from_, length)
                step.carry(e.at(from_, source_inner), e.at(to, out_inner))
            row.carry(*_advanced(e, row.values, sizes))


@kernel_code(PadKernel)
class PadCode(KernelCode, PadKernel):
    """The code of `PadKernel`."""

    def write(self, e: KernelBody) -> None:
        """Writes the rows of a task."""
        build = e.build
        size = e.parameter("block")
        outer = build.mul(e.task, size)
        stop = e.smallest(build.add(outer, size), e.parameter("outer"))
        low_run, run, high_run = (e.parameter(name) for name in ("low_run", "run", "high_run"))
        sizes, lows, kept, strides = (
            [e.parameter(name) for name in each_axis(kind)]
            for kind in ("size", "low", "kept", "source")
        )
        number = e.parameter("fill", I32)
        x = e.tensor("x")
        whole = build.add(build.add(low_run, run), high_run)
        first = e.at(e.tensor("out"), build.mul(outer, whole))
        with e.loop(stop, start=outer, carried=[first, *_places(e, outer, sizes)]) as row:
            place, *places = row.values
            moved = [build.sub(at, low) for at, low in zip(places, lows, strict=True)]
            inside: LlvmValue = build.icmp_unsigned("<", moved[0], kept[0])
            for at, count in zip(moved[1:], kept[1:], strict=True):
                inside = build.and_(inside, build.icmp_unsigned("<", at, count))
            with e.otherwise(inside) as (between, beside):
                with between:
                    fill(e, place, number, low_run)
                    middle = e.at(place, low_run)
                    copy(e, middle, _moved(e, x, moved, strides), run)
                    fill(e, e.at(middle, run), number, high_run)
                with beside:
                    fill(e, place, number, whole)
            row.carry(e.at(place, whole), *_advanced(e, places, sizes))


@kernel_code(TransposeKernel)
class TransposeCode(KernelCode, TransposeKernel):
    """The code of `TransposeKernel`."""

    def write(self, e: KernelBody) -> None:
        """Writes tiles, or single elements where an axis is shorter than a tile."""
        build, number, element = e.build, e.number, e.number(self.element)
        across, along, block, ranges = (e.parameter(name) for name in self.parameters[:4])
        source_across, out_along = e.parameter("source_across"), e.parameter("out_along")
        sizes, source_strides, out_strides = (
            [e.parameter(name) for name in each_axis(kind)] for kind in ("size", "source", "out")
        )
        places = _places(e, build.sdiv(e.task, ranges), sizes)
        x = _moved(e, e.tensor("x"), places, source_strides)
        out = _moved(e, e.tensor("out"), places, out_strides)
        start = build.mul(build.srem(e.task, ranges), block)
        stop = e.smallest(build.add(start, block), along)

        def corner(across: LlvmValue, along: LlvmValue) -> tuple[LlvmValue, LlvmValue]:
            source = e.at(x, build.mul(across, source_across))
            place = e.at(out, build.mul(along, out_along))
            return (
                e.at(source, build.mul(along, element)),
                e.at(place, build.mul(across, element)),
            )

        tile = number(self.tile)
        tiled = build.and_(
            build.icmp_signed(">=", across, tile), build.icmp_signed(">=", along, tile)
        )
        with e.otherwise(tiled) as (by_tile, by_element):
            with by_tile:
                last_along, last_across = build.sub(along, tile), build.sub(across, tile)
                with e.loop(stop, start=start, step=self.tile) as column:
                    right = e.smallest(column.index, last_along)
                    with e.loop(across, step=self.tile) as row:
                        at = corner(e.smallest(row.index, last_across), right)
                        self._tile(e, *at, source_across, out_along)
            with by_element, e.loop(stop, start=start) as column:
                type_ = I8 if self.element == 1 else I32
                carried = corner(number(0), column.index)
                with e.loop(across, carried=carried) as row:
                    source, place = row.values
                    e.store(e.load(type_, source), place)
                    row.carry(e.at(source, source_across), e.at(place, self.element))

    def _tile(
        self, e: KernelBody, source: LlvmValue, place: LlvmValue, from_: LlvmValue, to: LlvmValue
    ) -> None:
        """Transposes a tile by perfect shuffles of its rows."""
        size = self.tile
        type_ = vector(I8 if self.element == 1 else I32, size)
        rows = [e.load(type_, source, e.build.mul(from_, e.number(row))) for row in range(size)]
        lower = [lane for at in range(size // 2) for lane in (at, size + at)]
        upper = [lane + size // 2 for lane in lower]
        for _ in range(size.bit_length() - 1):
            rows = [
                e.shuffle(rows[at], rows[at + size // 2], lanes)
                for at in range(size // 2)
                for lanes in (lower, upper)
            ]
        for row, value in enumerate(rows):
            e.store(value, place, e.build.mul(to, e.number(row)))
