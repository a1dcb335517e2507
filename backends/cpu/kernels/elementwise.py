"""Sums, products and extrema of two tensors of bytes.

x has as many elements as the result, seen as rows. y has a row for every few of them, either of the
same length or a shorter one that repeats within the row: a scalar, a vector of channels, the gate
of a squeeze-and-excite block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from qir.backends.cpu.emitter import I8, I32, LlvmValue, vector
from qir.backends.cpu.epilogue import repeated, stored_bytes
from qir.backends.cpu.kernel import Body, KernelCode
from qir.backends.cpu.kernels.cast import joined, quotient
from qir.backends.cpu.kernels.flat import LANES, Phase, Stream, VectorFunction, part, sweep

LONGEST_PERIOD = 512
"""Longest row of y that may repeat within a row of x."""


@dataclass(frozen=True)
class PairsKernel(KernelCode):
    """A pass over two tensors of bytes.

    Attributes:
        x_unsigned: Whether x is unsigned bytes.
        y_unsigned: Whether y is.
        unsigned: Whether the result is.
        repeats: Whether rows of y repeat within those of x.
    """

    x_unsigned: bool
    y_unsigned: bool
    unsigned: bool
    repeats: bool

    @property
    def size(self) -> int:
        """Bytes of an element of the result."""
        return 1

    @property
    @abstractmethod
    def numbers(self) -> tuple[str, ...]:
        """Names of the parameters that the computation needs."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers.

        rows, block_rows: in all and of a task. length, block: elements of a row and of a task in
        it. ranges: blocks of a row. y_rows: rows of x that one of y serves. period: its length.
        """
        return (
            "rows",
            "block_rows",
            "length",
            "block",
            "ranges",
            "y_rows",
            "period",
            *self.numbers,
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "y", "out")

    @abstractmethod
    def prepare(self, e: Body) -> VectorFunction:
        """Writes what every vector needs, and returns what computes one."""

    def write(self, e: Body) -> None:
        """Writes the passes over the rows of a task."""
        build = e.build
        block_rows, ranges = e.parameter("block_rows"), e.parameter("ranges")
        length, period, y_rows = e.parameter("length"), e.parameter("period"), e.parameter("y_rows")
        first = build.mul(build.sdiv(e.task, ranges), block_rows)
        stop = e.smallest(build.add(first, block_rows), e.parameter("rows"))
        start, count = part(e, build.srem(e.task, ranges), length, e.parameter("block"))
        x, y, out = (e.tensor(name) for name in self.tensors)
        compute = self.prepare(e)
        with e.loop(stop, start=first) as row:
            at = build.add(build.mul(row.index, length), start)
            y_row = e.at(y, build.mul(build.sdiv(row.index, y_rows), period))
            size = self.size
            result = Stream(e.at(out, build.mul(at, e.number(size))), size)
            source = Stream(e.at(x, at), 1)
            if self.repeats:
                repeating = _repeated(e, y_row, period)
                whole = Phase(period, build.srem(start, period))

                def compute_beside(
                    sources: Sequence[LlvmValue], phase: LlvmValue, row: LlvmValue = repeating
                ) -> LlvmValue:
                    return compute([*sources, e.at(row, phase)], phase)

                sweep(e, count, [source], result, compute_beside, whole)
            else:
                sweep(e, count, [source, Stream(e.at(y_row, start), 1)], result, compute)

    def bytes(self, e: Body, sources: Sequence[LlvmValue], at: int, lanes: int) -> list[LlvmValue]:
        """Loads some elements of both operands as int32."""
        x, y = sources
        wide = vector(I32, lanes)
        return [
            (e.build.zext if unsigned else e.build.sext)(e.load(vector(I8, lanes), place, at), wide)
            for place, unsigned in ((x, self.x_unsigned), (y, self.y_unsigned))
        ]


def _repeated(e: Body, row: LlvmValue, period: LlvmValue) -> LlvmValue:
    """Copies a row of y, and what follows when it repeats, to where vectors can be loaded."""
    place = e.reserve(LONGEST_PERIOD + LANES)
    with e.loop(period) as byte:
        e.store(e.load(I8, row, byte.index), place, byte.index)
    with e.loop(LANES) as byte:
        e.store(e.load(I8, place, byte.index), e.at(place, period), byte.index)
    return place


@dataclass(frozen=True)
class SumKernel(PairsKernel):
    """A signed sum of two operands with one rounding (`common_shift.common_shift_multipliers`)."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Multipliers, the addend that holds zero points and rounding, and the result's code."""
        return ("own", "other", "addend", "shift", "point", "low", "high")

    def prepare(self, e: Body) -> VectorFunction:
        """Loads the numbers, and computes in int32."""
        build, lanes = e.build, e.target.lanes
        own, other, addend, shift, point = (
            repeated(e, e.parameter(name), lanes) for name in self.numbers[:5]
        )
        bounds = e.parameter("low"), e.parameter("high")

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            codes = []
            for at in range(0, LANES, lanes):
                x, y = self.bytes(e, sources, at, lanes)
                total = build.add(build.mul(x, own), build.mul(y, other))
                rounded = build.ashr(build.add(total, addend), shift)
                codes.append(build.add(rounded, point))
            return stored_bytes(e, codes, self.unsigned, *bounds)

        return compute


@dataclass(frozen=True)
class ProductKernel(PairsKernel):
    """The product of two differences from zero points, rounded by mode fixed31.

    Attributes:
        wide: Whether products are stored as they are, in 32 bits.
    """

    wide: bool

    @property
    def size(self) -> int:
        """Bytes of an element of the result."""
        return 4 if self.wide else 1

    @property
    def numbers(self) -> tuple[str, ...]:
        """Zero points; what `RequantizeKernel` reads, and the result's code."""
        points = ("x_point", "y_point")
        if self.wide:
            return points
        return (*points, "lift", "multiplier", "half", "places", "point", "low", "high")

    def prepare(self, e: Body) -> VectorFunction:
        """Loads the numbers, and computes in int32."""
        build, lanes = e.build, e.target.lanes
        parameters = {name: e.parameter(name) for name in self.numbers}
        number = {name: repeated(e, each, lanes) for name, each in parameters.items()}

        def products(sources: Sequence[LlvmValue]) -> list[LlvmValue]:
            found = []
            for at in range(0, LANES, lanes):
                x, y = self.bytes(e, sources, at, lanes)
                steps = build.sub(x, number["x_point"]), build.sub(y, number["y_point"])
                found.append(build.mul(*steps))
            return found

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            if self.wide:
                return joined(e, products(sources))
            terms = [number[name] for name in ("multiplier", "half", "places")]
            codes = [
                build.add(quotient(e, build.shl(product, number["lift"]), *terms), number["point"])
                for product in products(sources)
            ]
            return stored_bytes(e, codes, self.unsigned, parameters["low"], parameters["high"])

        return compute


@dataclass(frozen=True)
class ExtremumKernel(PairsKernel):
    """The greater or the lesser of two stored numbers.

    Attributes:
        greatest: Which.
    """

    greatest: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """None."""
        return ()

    def prepare(self, e: Body) -> VectorFunction:
        """Compares bytes."""
        compare = e.build.icmp_unsigned if self.unsigned else e.build.icmp_signed

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            x, y = (e.load(vector(I8, LANES), place) for place in sources)
            return e.build.select(compare(">" if self.greatest else "<", x, y), x, y)

        return compute
