"""The code of sums, products and extrema of two tensors of bytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from qir.backends.cpu.emitter import I8, I32, LlvmValue, vector
from qir.backends.cpu.epilogue import repeated, stored_bytes
from qir.backends.cpu.kernel import KernelBody, KernelCode, kernel_code
from qir.backends.cpu.kernels.cast import joined, quotient
from qir.backends.cpu.kernels.flat import Phase, Stream, VectorFunction, part, sweep
from qir.backends.native.kernels.elementwise import (
    LONGEST_PERIOD,
    ExtremumKernel,
    PairsKernel,
    ProductKernel,
    SumKernel,
)
from qir.backends.native.kernels.flat import LANES


class PairsCode(KernelCode, PairsKernel):
    """The code of `PairsKernel`."""

    @abstractmethod
    def prepare(self, e: KernelBody) -> VectorFunction:
        """Writes what every vector needs, and returns what computes one."""

    def write(self, e: KernelBody) -> None:
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

    def bytes(
        self, e: KernelBody, sources: Sequence[LlvmValue], at: int, lanes: int
    ) -> list[LlvmValue]:
        """Loads some elements of both operands as int32."""
        x, y = sources
        wide = vector(I32, lanes)
        return [
            (e.build.zext if unsigned else e.build.sext)(e.load(vector(I8, lanes), place, at), wide)
            for place, unsigned in ((x, self.x_unsigned), (y, self.y_unsigned))
        ]


def _repeated(e: KernelBody, row: LlvmValue, period: LlvmValue) -> LlvmValue:
    """Copies a row of y, and what follows when it repeats, to where vectors can be loaded."""
    place = e.reserve(LONGEST_PERIOD + LANES)
    with e.loop(period) as byte:
        e.store(e.load(I8, row, byte.index), place, byte.index)
    with e.loop(LANES) as byte:
        e.store(e.load(I8, place, byte.index), e.at(place, period), byte.index)
    return place


@kernel_code(SumKernel)
class SumCode(PairsCode, SumKernel):
    """The code of `SumKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
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


@kernel_code(ProductKernel)
class ProductCode(PairsCode, ProductKernel):
    """The code of `ProductKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
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


@kernel_code(ExtremumKernel)
class ExtremumCode(PairsCode, ExtremumKernel):
    """The code of `ExtremumKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
        """Compares bytes."""
        compare = e.build.icmp_unsigned if self.unsigned else e.build.icmp_signed

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            x, y = (e.load(vector(I8, LANES), place) for place in sources)
            return e.build.select(compare(">" if self.greatest else "<", x, y), x, y)

        return compute
