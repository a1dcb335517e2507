"""The code of passes over tensors, one vector after the other.

The last vector of a task overlaps the one before, and a tensor shorter than a vector is computed on
the stack, so that nothing outside a tensor is touched. Where tasks or vectors overlap, the same
bytes are written twice: the result must not lie where an operand does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qir.backends.cpu.emitter import I8, LlvmEmitter, LlvmValue
from qir.backends.cpu.kernel import KernelBody, KernelCode
from qir.backends.cpu.kernels.movement import copy
from qir.backends.native.kernels.flat import LANES, FlatKernel


@dataclass(frozen=True)
class Stream:
    """Elements that a pass reads or writes in order.

    Attributes:
        pointer: The first element.
        size: Bytes of an element.
    """

    pointer: LlvmValue
    size: int


@dataclass(frozen=True)
class Phase:
    """What repeats while a pass goes on.

    Attributes:
        period: Elements until it repeats.
        start: Where in the period the pass begins.
    """

    period: LlvmValue
    start: LlvmValue


VectorFunction = Callable[[Sequence[LlvmValue], LlvmValue], LlvmValue]
"""From pointers into the sources and the place in the period to a vector of the result."""


def sweep(
    e: LlvmEmitter,
    count: LlvmValue,
    sources: Sequence[Stream],
    out: Stream,
    compute: VectorFunction,
    phase: Phase | None = None,
) -> None:
    """Computes elements in order.

    Args:
        e: Where to write.
        count: Elements, at least 1.
        sources: What is read.
        out: What is written.
        compute: Computes a vector.
        phase: What repeats.
    """
    build, number = e.build, e.number
    short = build.icmp_signed("<", count, number(LANES))
    staged = [e.reserve(LANES * stream.size) for stream in (*sources, out)]
    with e.when(short):
        for place, stream in zip(staged, sources, strict=False):
            copy_bytes(e, place, stream.pointer, build.mul(count, number(stream.size)))
    pointers = [
        build.select(short, place, stream.pointer)
        for place, stream in zip(staged, (*sources, out), strict=True)
    ]
    last = build.select(short, number(0), build.sub(count, number(LANES)))
    rounds = build.sdiv(build.add(count, number(LANES - 1)), number(LANES))
    carried = [number(0)]
    growth: LlvmValue = None
    last_phase: LlvmValue = None
    if phase is not None:
        growth = build.srem(number(LANES), phase.period)
        last_phase = build.srem(build.add(phase.start, last), phase.period)
        # A sole vector begins where the pass does.
        carried.append(phase.start)
    with e.loop(rounds, carried=carried) as loop:
        at = loop.values[0]
        places = [
            e.at(pointer, build.mul(at, number(stream.size)))
            for pointer, stream in zip(pointers, (*sources, out), strict=True)
        ]
        value = compute(places[:-1], loop.values[-1])
        e.store(value, places[-1])
        following = build.add(at, number(LANES))
        ends = build.icmp_signed(">=", following, last)
        moved = [build.select(ends, last, following)]
        if phase is not None:
            grown = build.add(loop.values[1], growth)
            over = build.icmp_signed(">=", grown, phase.period)
            grown = build.select(over, build.sub(grown, phase.period), grown)
            moved.append(build.select(ends, last_phase, grown))
        loop.carry(*moved)
    with e.when(short):
        copy_bytes(e, out.pointer, staged[-1], build.mul(count, number(out.size)))


def copy_bytes(e: LlvmEmitter, place: LlvmValue, source: LlvmValue, size: LlvmValue) -> None:
    """Copies a few bytes one by one."""
    with e.loop(size) as loop:
        e.store(e.load(I8, source, loop.index), place, loop.index)


def part(
    e: LlvmEmitter, task: LlvmValue, size: LlvmValue, block: LlvmValue
) -> tuple[LlvmValue, LlvmValue]:
    """Returns where a task begins and how many elements it takes.

    The last task takes a whole vector too, where there are as many elements.
    """
    build, zero = e.build, e.number(0)
    last = e.greatest(build.sub(size, e.number(LANES)), zero)
    start = e.smallest(build.mul(task, block), last)
    return start, e.smallest(block, build.sub(size, start))


class FlatCode(KernelCode, FlatKernel):
    """The code of `FlatKernel`."""

    def phase(self, e: KernelBody, start: LlvmValue) -> Phase | None:
        """Returns what repeats."""
        return None

    @abstractmethod
    def prepare(self, e: KernelBody) -> VectorFunction:
        """Writes what every vector needs, and returns what computes one."""

    def write(self, e: KernelBody) -> None:
        """Writes the pass over what a task takes."""
        build, (x_size, out_size) = e.build, self.sizes
        size, block = e.parameter("size"), e.parameter("block")
        if self.apart:
            start = build.mul(e.task, block)
            count = e.smallest(block, build.sub(size, start))
            place = e.scratch
        else:
            start, count = part(e, e.task, size, block)
            place = e.at(e.tensor("out"), build.mul(start, e.number(out_size)))
        x = Stream(e.at(e.tensor("x"), build.mul(start, e.number(x_size))), x_size)
        compute = self.prepare(e)
        sweep(e, count, [x], Stream(place, out_size), compute, self.phase(e, start))
        if self.apart:
            row, out_row = e.parameter("row"), e.parameter("out_row")
            row_bytes = build.mul(row, e.number(out_size))
            out = e.at(e.tensor("out"), build.mul(build.sdiv(start, row), out_row))
            with e.loop(build.sdiv(count, row), carried=[place, out]) as loop:
                source, to = loop.values
                copy(e, to, source, row_bytes)
                loop.carry(e.at(source, row_bytes), e.at(to, out_row))
