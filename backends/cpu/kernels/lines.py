"""Lines of an activation that a depthwise convolution reads, as they lie in scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from qir.backends.cpu.emitter import (
    I8,
    I16,
    I32,
    I64,
    POINTER,
    VOID,
    LlvmEmitter,
    LlvmValue,
    vector,
)
from qir.backends.cpu.target import LlvmInstructionSet
from qir.backends.native.kernels.depthwise import CHANNELS, LINE_BYTES, PAIR_BYTES

_COPIED = 8
"""Pixels of a line that are copied together."""


@dataclass(frozen=True)
class Line:
    """A line of x.

    Attributes:
        begin: Pointer to its first pixel that is read.
        step: Bytes from one pixel to the next; 0 for a line that lies in the padding.
        low: First place that is inside of x.
        high: First place that no longer is.
    """

    begin: LlvmValue
    step: LlvmValue
    low: LlvmValue
    high: LlvmValue

    @classmethod
    def load(cls, e: LlvmEmitter, place: LlvmValue) -> Line:
        """Loads what `store` stored."""
        step, low, high = (e.load(I64, place, 8 * index, align=8) for index in (1, 2, 3))
        return cls(e.load(POINTER, place, align=8), step, low, high)

    def store(self, e: LlvmEmitter, place: LlvmValue) -> None:
        """Stores where the line is, in `LINE_BYTES`."""
        for index, value in enumerate((self.begin, self.step, self.low, self.high)):
            e.store(value, place, 8 * index, align=8)

    def pixel(self, e: LlvmEmitter, at: LlvmValue) -> LlvmValue:
        """Returns a pointer to a pixel."""
        return e.at(self.begin, e.build.mul(at, self.step))

    def inside(self, e: LlvmEmitter, at: LlvmValue) -> LlvmValue:
        """Returns whether a place is inside of x."""
        build = e.build
        return build.and_(
            build.icmp_signed(">=", at, self.low), build.icmp_signed("<", at, self.high)
        )


@dataclass(frozen=True)
class PairCopies:
    """A function that copies pairs of lines of one block of channels; kernels share its code.

    It widens their bytes to 16 bits and interleaves the two lines.

    Attributes:
        unsigned: Whether the bytes are unsigned.
        gathered: Whether a table says which channel of x each column reads.
    """

    unsigned: bool
    gathered: bool

    @property
    def symbol(self) -> str:
        """Name of the function."""
        return f"qir_pair_copies_{self.unsigned}_{self.gathered}".lower()

    @property
    def _type(self) -> ir.FunctionType:
        channel = POINTER if self.gathered else I64
        return ir.FunctionType(VOID, [POINTER, POINTER, I64, I64, POINTER, channel])

    def call(
        self,
        e: LlvmEmitter,
        lines: LlvmValue,
        place: LlvmValue,
        pairs: LlvmValue,
        span: LlvmValue,
        fill: LlvmValue,
        channel: LlvmValue,
    ) -> None:
        """Copies pairs of lines.

        Args:
            e: Where to write.
            lines: Pointer to the lines, as `Line.store` leaves them.
            place: Where to copy to, aligned to 32 bytes.
            pairs: Number of the pairs.
            span: Pixels of a line.
            fill: Pointer to what padding holds, for a block of channels.
            channel: First channel; where they are gathered, a pointer to their numbers.
        """
        function = e.external(self.symbol, VOID, self._type.args)
        e.build.call(function, [lines, place, pairs, span, fill, channel])

    def define(self, module: ir.Module, target: LlvmInstructionSet) -> None:
        """Writes the function into a module."""
        e = LlvmEmitter(ir.Function(module, self._type, self.symbol))
        build, number = e.build, e.number
        lines, place, pairs, span, fill, channel = e.arguments
        with e.loop(pairs, carried=[lines, place]) as pair:
            table, there = pair.values
            first, second = (
                self._moved(e, Line.load(e, e.at(table, LINE_BYTES * index)), channel)
                for index in range(2)
            )
            begin, inner = e.greatest(first.low, second.low), number(0)
            if not self.gathered:
                inner = build.sub(e.smallest(first.high, second.high), begin)
                inner = e.greatest(inner, number(0))
                self._copy_inner(e, (first, second), begin, inner, there)
            with e.loop(build.sub(span, inner)) as edge:
                left = build.icmp_signed("<", edge.index, begin)
                at = build.select(left, edge.index, build.add(edge.index, inner))
                pixels = [self._edge(e, line, at, fill, channel) for line in (first, second)]
                self._put(e, pixels, e.at(there, build.mul(at, number(PAIR_BYTES))))
            line_bytes = build.mul(span, number(PAIR_BYTES))
            pair.carry(e.at(table, 2 * LINE_BYTES), e.at(there, line_bytes))
        build.ret_void()

    def _moved(self, e: LlvmEmitter, line: Line, channel: LlvmValue) -> Line:
        """Returns a line from a channel on; a line in the padding has but one block of them."""
        if self.gathered:
            return line
        padding = e.build.icmp_signed("==", line.step, e.number(0))
        begin = e.at(line.begin, e.build.select(padding, e.number(0), channel))
        return Line(begin, line.step, line.low, line.high)

    def _copy_inner(
        self,
        e: LlvmEmitter,
        lines: Sequence[Line],
        begin: LlvmValue,
        count: LlvmValue,
        place: LlvmValue,
    ) -> None:
        """Copies the pixels that are inside of x in both lines."""
        build, number = e.build, e.number

        def copy(at: LlvmValue, pixels: int) -> None:
            at = build.add(begin, at)
            starts = [line.pixel(e, at) for line in lines]
            there = e.at(place, build.mul(at, number(PAIR_BYTES)))
            for pixel in range(pixels):
                found = [
                    e.load(vector(I8, CHANNELS), start, build.mul(line.step, number(pixel)))
                    for start, line in zip(starts, lines, strict=True)
                ]
                self._put(e, found, e.at(there, PAIR_BYTES * pixel))

        with e.otherwise(build.icmp_signed(">=", count, number(_COPIED))) as (many, few):
            with many, e.loop(count, step=_COPIED) as loop:
                copy(e.smallest(loop.index, build.sub(count, number(_COPIED))), _COPIED)
            with few, e.loop(count) as loop:
                copy(loop.index, 1)

    def _edge(
        self, e: LlvmEmitter, line: Line, at: LlvmValue, fill: LlvmValue, channel: LlvmValue
    ) -> LlvmValue:
        """Loads one pixel, or what padding holds where it lies outside of x."""
        build, block = e.build, vector(I8, CHANNELS)
        inside = line.inside(e, at)
        if not self.gathered:
            return e.load(block, build.select(inside, line.pixel(e, at), fill))
        outside = e.load(block, fill)
        before = build.block
        with e.when(inside):
            pixel, found = line.pixel(e, at), outside
            for lane in range(CHANNELS):
                byte = e.load(I8, pixel, e.load(I64, channel, 8 * lane, align=8))
                found = build.insert_element(found, byte, e.number(lane, I32))
            after = build.block
        value = build.phi(block)
        value.add_incoming(found, after)
        value.add_incoming(outside, before)
        return value

    def _put(self, e: LlvmEmitter, pixels: Sequence[LlvmValue], place: LlvmValue) -> None:
        """Stores one pixel of both lines, interleaved."""
        half = CHANNELS // 2
        widen = e.build.zext if self.unsigned else e.build.sext
        for first in (0, half):
            lanes = [first + lane // 2 + CHANNELS * (lane % 2) for lane in range(CHANNELS)]
            wide = widen(e.shuffle(pixels[0], pixels[1], lanes), vector(I16, CHANNELS))
            e.store(wide, place, 4 * first, align=32)
