"""Many bytes to one: what the code of pools and reductions shares, and the code of reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qir.backends.cpu.emitter import I8, I16, I32, LlvmEmitter, LlvmValue, constant, vector
from qir.backends.cpu.epilogue import high_words, stored_bytes
from qir.backends.cpu.kernel import KernelBody, KernelCode, kernel_code
from qir.backends.native.kernels.cast import Stored
from qir.backends.native.kernels.reduce import (
    TERMS,
    ArgMaxKernel,
    Combination,
    RowsKernel,
    bound_parameters,
    stored_size,
)

LANES = 16
"""Numbers in the vector that ends a run of them; shorter runs go one by one."""


class Combiner:
    """Writes how bytes become one number.

    Args:
        combination: How.
    """

    def __init__(self, combination: Combination) -> None:
        self.how = combination.how
        self.unsigned = combination.unsigned
        self.bits = combination.bits

    @property
    def element(self) -> Any:
        """The type of what is combined."""
        return {8: I8, 16: I16, 32: I32}[self.bits]

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers that are combined side by side: 128 bytes of them, and towards an end."""
        return 1024 // self.bits, LANES

    def neutral(self, lanes: int) -> LlvmValue:
        """Returns what changes nothing."""
        least, greatest = (0, 255) if self.unsigned else (-128, 127)
        value = {"greatest": least, "least": greatest, "sum": 0}[self.how]
        return constant(vector(self.element, lanes), value)

    def load(self, e: LlvmEmitter, pointer: LlvmValue, lanes: int) -> LlvmValue:
        """Loads bytes, as wide as they are combined."""
        value = e.load(vector(I8, lanes), pointer)
        if self.bits == 8:
            return value
        widen = e.build.zext if self.unsigned else e.build.sext
        return widen(value, vector(self.element, lanes))

    def join(self, e: LlvmEmitter, x: LlvmValue, y: LlvmValue) -> LlvmValue:
        """Combines two numbers, lane by lane."""
        build = e.build
        if self.how == "sum":
            return build.add(x, y)
        compare = build.icmp_unsigned if self.unsigned else build.icmp_signed
        return build.select(compare(">" if self.how == "greatest" else "<", x, y), x, y)

    def across(self, e: LlvmEmitter, value: LlvmValue) -> LlvmValue:
        """Combines the lanes of a vector."""
        sign = "u" if self.unsigned else "s"
        name = {"greatest": f"{sign}max", "least": f"{sign}min", "sum": "add"}[self.how]
        type = f"v{value.type.count}i{self.bits}"
        return e.intrinsic(f"llvm.vector.reduce.{name}.{type}", self.element, value)


def along(
    e: LlvmEmitter,
    length: LlvmValue,
    widths: Sequence[int],
    put: Callable[[LlvmValue, int], None],
    short: Callable[[], None],
) -> None:
    """Takes a run of numbers by vectors; the last one may overlap the one before.

    Args:
        e: Where to write.
        length: How many numbers there are.
        widths: Lanes of the vectors, decreasing powers of two.
        put: Takes some numbers, given the first of them and how many.
        short: Takes all of them, where they are fewer than the narrowest vector has lanes.
    """
    build, least = e.build, widths[-1]
    with e.otherwise(build.icmp_signed(">=", length, e.number(least))) as (vectors, few):
        with vectors:
            start: LlvmValue = e.number(0)
            for width in widths:
                whole = build.and_(build.sub(length, start), e.number(-width))
                stop = build.add(start, whole)
                with e.loop(stop, start=start, step=width) as loop:
                    put(loop.index, width)
                start = stop
            with e.when(build.icmp_signed("!=", start, length)):
                put(build.sub(length, e.number(least)), least)
        with few:
            short()


class Finish:
    """What is stored of sums, by the terms of a table's row.

    Args:
        e: Where to write.
        row: Pointer to the row.
        to: What is stored.
        bounds: What `bound_parameters` names.
    """

    def __init__(
        self, e: LlvmEmitter, row: LlvmValue, to: Stored, bounds: Sequence[LlvmValue]
    ) -> None:
        self._terms = {
            name: e.splat(e.load(I32, row, 4 * place, align=4), LANES)
            for place, name in enumerate(TERMS if to != "wide" else TERMS[:1])
        }
        self._to = to
        self._bounds = bounds

    def apply(self, e: LlvmEmitter, sums: LlvmValue) -> LlvmValue:
        """Returns what is stored for `LANES` sums."""
        build, terms = e.build, self._terms
        if sums.type.element is not I32:
            sums = build.sext(sums, vector(I32, LANES))
        steps = build.add(sums, terms["offset"])
        if self._to == "wide":
            return steps
        steps = build.shl(steps, terms["lift"])
        scaled = build.add(high_words(e, steps, terms["multiplier"]), terms["addend"])
        codes = [build.ashr(scaled, terms["shift"])]
        low, high = self._bounds
        return stored_bytes(e, codes, self._to == "unsigned", low, high)


@kernel_code(RowsKernel)
class RowsCode(KernelCode, RowsKernel):
    """The code of `RowsKernel`."""

    def write(self, e: KernelBody) -> None:
        """Writes the body: each row of the task, and what is stored of it."""
        sums = self.combination.how == "sum"
        bounds = [e.parameter(name) for name in bound_parameters(self.combination, self.to)]
        finish = Finish(e, e.tensor("terms"), self.to, bounds) if sums else None
        out, size = e.tensor("out"), e.number(stored_size(self.combination, self.to))

        def put(row: LlvmValue, place: LlvmValue) -> None:
            total = combined(e, Combiner(self.combination), row, e.parameter("count"))
            if finish is not None:
                stored = finish.apply(e, e.splat(total, LANES))
                total = e.build.extract_element(stored, e.number(0, I32))
            e.store(total, out, e.build.mul(place, size))

        _each_row(e, put)


@kernel_code(ArgMaxKernel)
class ArgMaxCode(KernelCode, ArgMaxKernel):
    """The code of `ArgMaxKernel`."""

    def write(self, e: KernelBody) -> None:
        """Writes the body: each row of the task, and its place."""
        build = e.build
        combiner = Combiner(Combination("greatest", self.unsigned, 8))
        out, count = e.tensor("out"), e.parameter("count")
        lanes = vector(I32, LANES)
        far = 2**31 - 1

        def first(
            row: LlvmValue, index: LlvmValue, greatest: LlvmValue, least: LlvmValue
        ) -> LlvmValue:
            """Returns the lesser of what was found before and the index here, where it is one."""
            value = e.load(greatest.type, row)
            found = build.select(
                build.icmp_signed("==", value, greatest), index, constant(index.type, far)
            )
            return e.smallest(least, found)

        def put(row: LlvmValue, place: LlvmValue) -> None:
            greatest = combined(e, combiner, row, count)
            whole = build.and_(count, e.number(-LANES))
            indices = constant(lanes, list(range(LANES)))
            with e.loop(whole, step=LANES, carried=[indices, constant(lanes, far)]) as loop:
                index, least = loop.values
                at = e.at(row, loop.index)
                least = first(at, index, e.splat(greatest, LANES), least)
                loop.carry(build.add(index, constant(lanes, LANES)), least)
            name = f"llvm.vector.reduce.smin.v{LANES}i32"
            least = e.intrinsic(name, I32, loop.values[1])
            with e.loop(count, start=whole, carried=[least]) as rest:
                index = build.trunc(rest.index, I32)
                rest.carry(first(e.at(row, rest.index), index, greatest, rest.values[0]))
            e.store(rest.values[0], out, build.mul(place, e.number(4)), align=4)

        _each_row(e, put)


def _each_row(e: KernelBody, put: Callable[[LlvmValue, LlvmValue], None]) -> None:
    """Calls a function with the pointer to each row of the task, and the row's number."""
    build, count, block = e.build, e.parameter("count"), e.parameter("block_rows")
    first = build.mul(e.task, block)
    stop = e.smallest(build.add(first, block), e.parameter("rows"))
    x = e.tensor("x")
    with e.loop(stop, start=first) as row:
        put(e.at(x, build.mul(row.index, count)), row.index)


def combined(e: LlvmEmitter, combiner: Combiner, row: LlvmValue, count: LlvmValue) -> LlvmValue:
    """Combines neighbouring bytes to one scalar."""
    build, lanes = e.build, combiner.widths[0]
    whole = build.and_(count, e.number(-lanes))
    with e.loop(whole, step=lanes, carried=[combiner.neutral(lanes)]) as loop:
        value = combiner.load(e, e.at(row, loop.index), lanes)
        loop.carry(combiner.join(e, loop.values[0], value))
    total = combiner.across(e, loop.values[0])
    with e.loop(count, start=whole, carried=[e.splat(total, 1)]) as rest:
        value = combiner.load(e, e.at(row, rest.index), 1)
        rest.carry(combiner.join(e, rest.values[0], value))
    return build.extract_element(rest.values[0], e.number(0, I32))
