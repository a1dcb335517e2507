"""The code of epilogues (see `native.epilogue`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qir.backends.cpu.emitter import (
    F32,
    I8,
    I16,
    I32,
    I64,
    LlvmEmitter,
    LlvmValue,
    constant,
    vector,
)
from qir.backends.cpu.kernel import KernelBody
from qir.backends.native.epilogue import SUM, Epilogue


@dataclass(frozen=True)
class Valid:
    """How many of the columns that are finished together the tensor has, where it may end sooner.

    Attributes:
        count: The number.
        all: Whether that is all of them; None where it never is.
    """

    count: LlvmValue
    all: LlvmValue | None = None


class Finisher:
    """Finishes and stores adjacent columns of one row, as many as fill some vectors.

    Nothing outside of a tensor is touched: what it has too few columns for is read and written by
    way of the stack.

    Args:
        e: The body of the kernel; the step has what `parameters` of the epilogue names.
        epilogue: What becomes of the sums.
        columns: Number of the columns.
        cut: Whether the tensor may end between them.
    """

    def __init__(self, e: KernelBody, epilogue: Epilogue, columns: int, *, cut: bool) -> None:
        self.e = e
        self.epilogue = epilogue
        self.columns = columns
        if cut:
            self._staged = e.reserve(epilogue.size * columns)
            self._residual = e.reserve(columns)

    def tables(self, tensors: Mapping[str, LlvmValue], column: LlvmValue) -> dict[str, LlvmValue]:
        """Returns pointers to the tables of the epilogue at a column.

        Args:
            tensors: Pointers to the tables.
            column: The column, counted in the tables.
        """
        at = self.e.build.mul(column, self.e.number(4))
        return {name: self.e.at(tensors[name], at) for name in self.epilogue.tables}

    def finished(
        self,
        tables: Mapping[str, LlvmValue],
        sums: Sequence[LlvmValue],
        residual: LlvmValue | None = None,
        valid: Valid | None = None,
    ) -> list[LlvmValue]:
        """Returns what is stored, for `store`.

        Args:
            tables: Pointers to what `tables` of the epilogue names, at the first of the columns.
            sums: Vectors of int32, without the bias.
            residual: Pointer to the bytes that are added.
            valid: How many columns there are, where not all.
        """
        if residual is not None and valid is not None:
            residual = self._readable(residual, valid)
        return _applied(self.epilogue, self.e, tables, sums, residual)

    def store(
        self, parts: Sequence[LlvmValue], place: LlvmValue, valid: Valid | None = None
    ) -> None:
        """Stores what `finished` returned.

        Args:
            parts: One vector or several, of as many bytes each.
            place: Where the first column goes.
            valid: How many columns there are, where not all.
        """
        if valid is None:
            self._store_all(parts, place)
        elif valid.all is None:
            self._store_some(parts, place, valid.count)
        else:
            with self.e.otherwise(valid.all) as (at_once, staged):
                with at_once:
                    self._store_all(parts, place)
                with staged:
                    self._store_some(parts, place, valid.count)

    def _store_all(self, parts: Sequence[LlvmValue], place: LlvmValue) -> None:
        size = self.epilogue.size * self.columns // len(parts)
        for index, part in enumerate(parts):
            self.e.store(part, place, index * size)

    def _store_some(self, parts: Sequence[LlvmValue], place: LlvmValue, count: LlvmValue) -> None:
        self._store_all(parts, self._staged)
        size = self.e.build.mul(count, self.e.number(self.epilogue.size))
        self._move(self._staged, place, size)

    def _readable(self, residual: LlvmValue, valid: Valid) -> LlvmValue:
        """Returns where as many bytes may be read as there are columns."""
        if valid.all is None:
            self._move(residual, self._residual, valid.count)
            return self._residual
        with self.e.when(self.e.build.not_(valid.all)):
            self._move(residual, self._residual, valid.count)
        return self.e.build.select(valid.all, residual, self._residual)

    def _move(self, source: LlvmValue, place: LlvmValue, size: LlvmValue) -> None:
        """Moves bytes, whose number is mostly a multiple of eight."""
        e = self.e
        whole = e.build.and_(size, e.number(-8))
        for type, start, stop, step in ((I64, e.number(0), whole, 8), (I8, whole, size, 1)):
            with e.loop(stop, start=start, step=step) as loop:
                e.store(e.load(type, source, loop.index), place, loop.index)


def _applied(
    epilogue: Epilogue,
    e: KernelBody,
    tables: Mapping[str, LlvmValue],
    accumulators: Sequence[LlvmValue],
    residual: LlvmValue | None = None,
) -> list[LlvmValue]:
    """Computes what is stored for some columns of one row.

    Args:
        epilogue: The epilogue.
        e: Where to write; the step has what `parameters` names.
        tables: Pointers to what `tables` names, at the first of the columns.
        accumulators: Vectors of int32, without the bias.
        residual: Pointer to the bytes that are added.

    Returns:
        One vector of bytes, or as many vectors as came in.
    """
    lanes = accumulators[0].type.count
    results = []
    for index, total in enumerate(accumulators):
        columns = {
            name: e.load(
                vector(F32 if name == "multiplier" and epilogue.form != "fixed31" else I32, lanes),
                pointer,
                4 * lanes * index,
                align=4,
            )
            for name, pointer in tables.items()
        }
        total = e.build.add(total, columns["bias"])
        if epilogue.form == "accumulator":
            results.append(total)
            continue
        if epilogue.form == "real":
            whole = e.build.sitofp(total, vector(F32, lanes))
            results.append(e.build.fmul(whole, columns["multiplier"]))
            continue
        scaled = {"fixed31": _fixed31, "f32_rne": _f32_rne, "f32_rne_wide": _f32_rne_wide}
        code = scaled[epilogue.form](e, columns, total)
        if residual is not None:
            bytes_ = e.load(vector(I8, lanes), residual, index * lanes)
            code = _added(epilogue, e, code, bytes_)
        results.append(code)
    if not epilogue.stores_bytes:
        return results
    whole = _narrowed(e, results)
    if epilogue.residual or epilogue.form != "fixed31":
        # Saturating, like the narrowing before: beyond the bounds, numbers stay beyond them.
        point = e.repeated("sum_point" if epilogue.residual else "point", I16, whole.type.count)
        whole = e.intrinsic(f"llvm.sadd.sat.v{whole.type.count}i16", whole.type, whole, point)
    stored = _bytes(e, whole, epilogue.unsigned)
    if epilogue.bounded:
        names = ("sum_low", "sum_high") if epilogue.residual else ("low", "high")
        bounds = (e.repeated(name, I8, whole.type.count) for name in names)
        stored = _bounded(e, stored, epilogue.unsigned, *bounds)
    return [stored]


def _added(epilogue: Epilogue, e: KernelBody, code: LlvmValue, stored: LlvmValue) -> LlvmValue:
    """Returns the sum with stored numbers, without the zero point."""
    build, lanes = e.build, code.type.count
    if epilogue.form != "fixed31":
        code = build.add(code, e.repeated("point", I32, lanes))
    code = clamped(e, code, *(e.repeated(name, I32, lanes) for name in ("low", "high")))
    own, other, addend, shift = (e.repeated(name, I32, lanes) for name in SUM[:4])
    widen = build.zext if epilogue.residual == "unsigned" else build.sext
    products = build.mul(code, own), build.mul(widen(stored, vector(I32, lanes)), other)
    return build.ashr(build.add(build.add(*products), addend), shift)


def repeated(e: LlvmEmitter, parameter: LlvmValue, lanes: int) -> LlvmValue:
    """Returns the low 32 bits of a parameter in every lane."""
    return e.splat(e.build.trunc(parameter, I32), lanes)


def clamped(e: LlvmEmitter, value: LlvmValue, low: LlvmValue, high: LlvmValue) -> LlvmValue:
    """Bounds signed integers, lane by lane."""
    return e.greatest(e.smallest(value, high), low)


def stored_bytes(
    e: LlvmEmitter, codes: Sequence[LlvmValue], unsigned: bool, low: LlvmValue, high: LlvmValue
) -> LlvmValue:
    """Narrows int32 to bytes within two bounds; saturating, so that order and width are free.

    Args:
        e: Where to write.
        codes: Vectors of int32, a power of two of them.
        unsigned: Whether the bytes are unsigned.
        low: Least number, of 64 bits.
        high: Greatest number, of 64 bits.
    """
    whole = _narrowed(e, codes)
    bounds = (e.splat(e.build.trunc(parameter, I8), whole.type.count) for parameter in (low, high))
    return _bounded(e, _bytes(e, whole, unsigned), unsigned, *bounds)


def _narrowed(e: LlvmEmitter, codes: Sequence[LlvmValue]) -> LlvmValue:
    """Narrows int32 to int16, saturating."""
    parts = list(codes)
    while len(parts) > 1:
        parts = [e.concat(*parts[at : at + 2]) for at in range(0, len(parts), 2)]
    return _saturated(e, parts[0], -(2**15), 2**15 - 1, I16)


def _bytes(e: LlvmEmitter, value: LlvmValue, unsigned: bool) -> LlvmValue:
    """Narrows int16 to bytes, saturating."""
    return _saturated(e, value, *((0, 255) if unsigned else (-128, 127)), I8)


def _bounded(
    e: LlvmEmitter, value: LlvmValue, unsigned: bool, low: LlvmValue, high: LlvmValue
) -> LlvmValue:
    compare = e.build.icmp_unsigned if unsigned else e.build.icmp_signed
    value = e.build.select(compare("<", value, high), value, high)
    return e.build.select(compare(">", value, low), value, low)


def _saturated(e: LlvmEmitter, value: LlvmValue, low: int, high: int, narrow: Any) -> LlvmValue:
    lanes = value.type.count
    bounds = (constant(value.type, bound) for bound in (low, high))
    return e.build.trunc(clamped(e, value, *bounds), vector(narrow, lanes))


def high_words(e: LlvmEmitter, first: LlvmValue, second: LlvmValue) -> LlvmValue:
    """Returns the high 32 bits of the signed 64-bit products, lane by lane."""
    build, lanes = e.build, first.type.count
    wide = vector(I64, lanes // 2)
    places = constant(wide, 32)

    def low_half(value: LlvmValue) -> LlvmValue:
        return build.ashr(build.shl(build.bitcast(value, wide), places), places)

    def high_half(value: LlvmValue) -> LlvmValue:
        return build.ashr(build.bitcast(value, wide), places)

    even = build.bitcast(build.mul(low_half(first), low_half(second)), first.type)
    odd = build.bitcast(build.mul(high_half(first), high_half(second)), first.type)
    lanes_in_order = [lane + 1 if lane % 2 == 0 else lanes + lane for lane in range(lanes)]
    return e.shuffle(even, odd, lanes_in_order)


def _fixed31(e: KernelBody, columns: Mapping[str, LlvmValue], total: LlvmValue) -> LlvmValue:
    high = high_words(e, total, columns["multiplier"])
    return e.build.ashr(e.build.add(high, columns["addend"]), columns["shift"])


def _f32_rne(e: KernelBody, columns: Mapping[str, LlvmValue], total: LlvmValue) -> LlvmValue:
    return _rounded(e, _scaled(e, columns, total))


def _f32_rne_wide(e: KernelBody, columns: Mapping[str, LlvmValue], total: LlvmValue) -> LlvmValue:
    build, lanes = e.build, total.type.count
    real = _scaled(e, columns, total)
    point, low, high = (e.repeated(name, I32, lanes) for name in ("point", "low", "high"))
    least, most = (build.sitofp(build.sub(bound, point), real.type) for bound in (low, high))
    real = build.select(build.fcmp_ordered(">", real, least), real, least)
    return _rounded(e, build.select(build.fcmp_ordered("<", real, most), real, most))


def _scaled(e: KernelBody, columns: Mapping[str, LlvmValue], total: LlvmValue) -> LlvmValue:
    real = e.build.sitofp(total, vector(F32, total.type.count))
    return e.build.fmul(real, columns["multiplier"])


def _rounded(e: KernelBody, real: LlvmValue) -> LlvmValue:
    lanes = real.type.count
    return e.intrinsic(f"llvm.lrint.v{lanes}i32.v{lanes}f32", vector(I32, lanes), real)
