"""The code of casts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qir.backends.cpu.emitter import F32, I8, I32, LlvmValue, constant, vector
from qir.backends.cpu.epilogue import clamped, high_words, repeated, stored_bytes
from qir.backends.cpu.kernel import KernelBody, kernel_code
from qir.backends.cpu.kernels.flat import FlatCode, Phase, VectorFunction
from qir.backends.native.kernels.cast import (
    ColumnedKernel,
    DequantizeKernel,
    QuantizeKernel,
    RequantizeKernel,
    Stored,
)
from qir.backends.native.kernels.flat import LANES


@kernel_code(QuantizeKernel)
class QuantizeCode(FlatCode, QuantizeKernel):
    """The code of `QuantizeKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
        """Clamps in float, so that the conversion to int32 is defined."""
        build, lanes = e.build, e.target.lanes
        inverse = e.splat(e.parameter("inverse", F32), lanes)
        bounds = e.parameter("low"), e.parameter("high")
        point, low, high = (
            repeated(e, e.parameter(name), lanes) for name in ("point", "low", "high")
        )
        floats = vector(F32, lanes)
        least, most = (build.sitofp(build.sub(bound, point), floats) for bound in (low, high))

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            (x,) = sources
            codes = []
            for at in range(0, LANES, lanes):
                real = build.fmul(e.load(floats, x, 4 * at), inverse)
                # NaN has no order.
                number = build.fcmp_ordered("ord", real, real)
                real = build.select(number, real, constant(floats, 0.0))
                codes.append(build.add(rounded(e, real, least, most), point))
            return stored_bytes(e, codes, self.unsigned, *bounds)

        return compute


def rounded(e: KernelBody, real: LlvmValue, least: LlvmValue, most: LlvmValue) -> LlvmValue:
    """Clamps float32 and rounds it to int32, ties to even."""
    build, lanes = e.build, real.type.count
    real = build.select(build.fcmp_ordered(">", real, least), real, least)
    real = build.select(build.fcmp_ordered("<", real, most), real, most)
    return e.intrinsic(f"llvm.lrint.v{lanes}i32.v{lanes}f32", vector(I32, lanes), real)


def widened(e: KernelBody, pointer: LlvmValue, at: int, lanes: int, stored: Stored) -> LlvmValue:
    """Loads stored numbers as int32."""
    if stored == "wide":
        return e.load(vector(I32, lanes), pointer, 4 * at)
    loaded = e.load(vector(I8, lanes), pointer, at)
    widen = e.build.zext if stored == "unsigned" else e.build.sext
    return widen(loaded, vector(I32, lanes))


class ColumnedCode(FlatCode, ColumnedKernel):
    """The code of `ColumnedKernel`."""

    def phase(self, e: KernelBody, start: LlvmValue) -> Phase | None:
        """Returns where the columns begin."""
        if not self.columns:
            return None
        period = e.parameter("period")
        return Phase(period, e.build.srem(start, period))

    def entries(self, e: KernelBody, name: str, element: object, lanes: int) -> Entries:
        """Returns a table."""
        pointer = e.tensor(name)
        if self.columns:
            return Entries(e, vector(element, lanes), pointer, None)
        whole = e.splat(e.load(element, pointer, 0, align=4), lanes)
        return Entries(e, whole.type, pointer, whole)


@dataclass(frozen=True)
class Entries:
    """A table in a pass."""

    e: KernelBody
    type: object
    pointer: LlvmValue
    whole: LlvmValue | None

    def at(self, phase: LlvmValue, offset: int) -> LlvmValue:
        """Returns the entries of a vector, some elements behind a place in the period."""
        if self.whole is not None:
            return self.whole
        place = self.e.build.mul(phase, self.e.number(4))
        return self.e.load(self.type, self.e.at(self.pointer, place), 4 * offset, align=4)


@kernel_code(DequantizeKernel)
class DequantizeCode(ColumnedCode, DequantizeKernel):
    """The code of `DequantizeKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
        """Computes in int32, then in float32."""
        build, lanes = e.build, e.target.lanes
        point = repeated(e, e.parameter("point"), lanes)
        scale = self.entries(e, "scale", F32, lanes)

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            (x,) = sources
            parts = []
            for at in range(0, LANES, lanes):
                steps = widened(e, x, at, lanes, self.stored)
                if self.stored != "wide":
                    steps = build.sub(steps, point)
                real = build.sitofp(steps, vector(F32, lanes))
                parts.append(build.fmul(real, scale.at(phase, at)))
            return joined(e, parts)

        return compute


def joined(e: KernelBody, parts: list[LlvmValue]) -> LlvmValue:
    """Returns the lanes of a power of two of vectors as one."""
    while len(parts) > 1:
        parts = [e.concat(*parts[at : at + 2]) for at in range(0, len(parts), 2)]
    return parts[0]


@kernel_code(RequantizeKernel)
class RequantizeCode(ColumnedCode, RequantizeKernel):
    """The code of `RequantizeKernel`."""

    def prepare(self, e: KernelBody) -> VectorFunction:
        """Loads the code and the tables."""
        build, lanes = e.build, e.target.lanes
        bounds = e.parameter("low"), e.parameter("high")
        point, low, high = (
            repeated(e, e.parameter(name), lanes) for name in ("point", "low", "high")
        )
        element = F32 if self.form == "f32_rne" else I32
        tables = {name: self.entries(e, name, element, lanes) for name in self.tables}
        floats = vector(F32, lanes)
        least, most = (build.sitofp(build.sub(bound, point), floats) for bound in (low, high))

        def compute(sources: Sequence[LlvmValue], phase: LlvmValue) -> LlvmValue:
            (x,) = sources
            codes = []
            for at in range(0, LANES, lanes):
                total = widened(e, x, at, lanes, self.stored)
                entry = {name: table.at(phase, at) for name, table in tables.items()}
                if self.form == "f32_rne":
                    real = build.fmul(build.sitofp(total, floats), entry["multiplier"])
                    code = rounded(e, real, least, most)
                else:
                    if self.form == "lifted":
                        limit = entry["limit"]
                        total = clamped(e, total, build.neg(limit), limit)
                        total = build.shl(total, entry["lift"])
                    code = quotient(e, total, entry["multiplier"], entry["half"], entry["places"])
                codes.append(build.add(code, point))
            return stored_bytes(e, codes, self.unsigned, *bounds)

        return compute


def quotient(
    e: KernelBody, total: LlvmValue, multiplier: LlvmValue, half: LlvmValue, places: LlvmValue
) -> LlvmValue:
    """Multiplies by M / 2^(32 + places) with one rounding."""
    high = high_words(e, total, multiplier)
    return e.build.ashr(e.build.add(high, half), places)
