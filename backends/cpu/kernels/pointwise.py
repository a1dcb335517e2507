"""The code of passes of several ops (see `native.kernels.pointwise`).

The last vector of a row overlaps the one before; a row shorter than a vector goes through the
stack. An element is computed alike wherever it stands in a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from qir.backends.cpu.emitter import F32, I8, I16, I32, I64, LlvmValue, constant, vector
from qir.backends.cpu.epilogue import clamped
from qir.backends.cpu.kernel import KernelBody, KernelCode, kernel_code
from qir.backends.cpu.kernels.cast import quotient, rounded
from qir.backends.cpu.kernels.flat import copy_bytes
from qir.backends.cpu.kernels.lookup import picked, table_rows
from qir.backends.native.kernels.flat import LANES
from qir.backends.native.kernels.pointwise import Held, Instruction, PointwiseKernel

_Parts: TypeAlias = list[LlvmValue]
"""Vectors that together hold the elements of a round."""

_TYPES = {"s8": I8, "u8": I8, "s16": I16, "u16": I16, "s32": I32, "f32": F32}
_SIZES = {"s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "f32": 4}


@kernel_code(PointwiseKernel)
class PointwiseCode(KernelCode, PointwiseKernel):
    """The code of `PointwiseKernel`."""

    def write(self, e: KernelBody) -> None:
        """Runs the program on every vector of a task's rows."""
        build, number = e.build, e.number
        rows, block, columns = map(e.parameter, ("rows", "block_rows", "columns"))
        first = build.mul(e.task, block)
        stop = e.smallest(build.add(first, block), rows)
        starts = [
            e.at(e.tensor(f"tensor{index}"), build.mul(first, e.parameter(f"pitch{index}")))
            for index in range(self.pitches)
        ]
        tables = [
            e.tensor(f"tensor{index}") for index in range(self.pitches, self.pitches + self.tables)
        ]
        last = build.sub(columns, number(LANES))
        with e.loop(stop, start=first, carried=starts) as row:
            if self.short:
                _Round(self, e, [*row.values, *tables], number(0), columns).write()
            else:
                with e.loop(columns, step=LANES) as loop:
                    at = e.smallest(loop.index, last)
                    _Round(self, e, [*row.values, *tables], at, None).write()
            row.carry(
                *(
                    e.at(pointer, e.parameter(f"pitch{index}"))
                    for index, pointer in enumerate(row.values)
                )
            )


class _Round:
    """The program on one vector of elements.

    Args:
        kernel: The kernel.
        e: Its body.
        pointers: The tensors, at the row.
        at: The column.
        count: How many columns there are, where that is fewer than a vector has.
    """

    def __init__(
        self,
        kernel: PointwiseKernel,
        e: KernelBody,
        pointers: Sequence[LlvmValue],
        at: LlvmValue,
        count: LlvmValue | None,
    ) -> None:
        self.kernel, self.e, self.pointers = kernel, e, pointers
        self.at, self.count = at, count
        self.lanes = e.target.lanes

    def write(self) -> None:
        """Writes the instructions in order."""
        found: list[_Parts] = []
        for each in self.kernel.program:
            operands = [found[index] for index in each.operands]
            write = _WRITE.get(each.name)
            if write is not None:
                vectors = zip(*operands, strict=True)
                found.append([write(self.e, *together) for together in vectors])
            else:
                found.append(getattr(self, f"_{each.name}")(each, *operands))

    def _place(self, each: Instruction) -> LlvmValue:
        size = _SIZES[each.held]
        place = self.e.at(self.pointers[each.at], each.column * size)
        return self.e.at(place, self.e.build.mul(self.at, self.e.number(size)))

    def _load(self, each: Instruction) -> _Parts:
        e, size = self.e, _SIZES[each.held]
        element = _TYPES[each.held]
        if each.form == "one":
            whole = e.splat(e.load(element, self.pointers[each.at]), self.lanes)
            return [self._widened(whole, each.held)] * (LANES // self.lanes)
        place = self._place(each)
        if self.count is not None:
            staged = e.reserve(LANES * size)
            # What lies behind the columns is looked up too, and thrown away.
            for at in range(size):
                e.store(constant(vector(I8, LANES), 0), staged, at * LANES)
            copy_bytes(e, staged, place, e.build.mul(self.count, e.number(size)))
            place = staged
        return [
            self._widened(e.load(vector(element, self.lanes), place, at * size), each.held)
            for at in range(0, LANES, self.lanes)
        ]

    def _widened(self, value: LlvmValue, held: Held) -> LlvmValue:
        if held in ("s32", "f32"):
            return value
        widen = self.e.build.sext if held[0] == "s" else self.e.build.zext
        return widen(value, vector(I32, self.lanes))

    def _number(self, each: Instruction) -> _Parts:
        element = F32 if each.held == "f32" else I32
        number = self.e.repeated(f"number{each.at}", element, self.lanes)
        return [number] * (LANES // self.lanes)

    def _literal(self, each: Instruction) -> _Parts:
        return [constant(vector(I32, self.lanes), each.at)] * (LANES // self.lanes)

    def _bytes(self, parts: _Parts) -> LlvmValue:
        narrow = [self.e.build.trunc(part, vector(I8, self.lanes)) for part in parts]
        while len(narrow) > 1:
            narrow = [self.e.concat(*narrow[at : at + 2]) for at in range(0, len(narrow), 2)]
        return narrow[0]

    def _lookup(self, each: Instruction, x: _Parts) -> _Parts:
        """Bytes by bytes."""
        e = self.e
        whole = picked(e, table_rows(e, self.pointers[each.at]), self._bytes(x))
        return [
            self._widened(e.shuffle(whole, whole, range(at, at + self.lanes)), each.held)
            for at in range(0, LANES, self.lanes)
        ]

    def _long_lookup(self, each: Instruction, x: _Parts, mask: _Parts) -> _Parts:
        """Entries of 32 bits, of which the low ones are meant."""
        e, build, size = self.e, self.e.build, _SIZES[each.held]
        unused = constant(vector(I32, self.lanes), 32 - 8 * size)
        back = build.ashr if each.held[0] == "s" else build.lshr
        found = []
        for part, bits in zip(x, mask, strict=True):
            index: LlvmValue = build.and_(part, bits)
            if size > 1:
                index = build.shl(index, constant(index.type, size // 2))
            entries = e.gather(vector(I32, self.lanes), self.pointers[each.at], index)
            found.append(back(build.shl(entries, unused), unused))
        return found

    def _store(self, each: Instruction, x: _Parts) -> _Parts:
        e, size = self.e, _SIZES[each.held]
        place = self._place(each)
        target = place if self.count is None else e.reserve(LANES * size)
        if size == 1:
            e.store(self._bytes(x), target)
        else:
            for index, part in enumerate(x):
                if size == 2:
                    part = e.build.trunc(part, vector(I16, self.lanes))
                e.store(part, target, index * self.lanes * size)
        if self.count is not None:
            copy_bytes(e, place, target, e.build.mul(self.count, e.number(size)))
        return []


def _long(e: KernelBody, value: LlvmValue) -> LlvmValue:
    return e.build.sext(value, vector(I64, value.type.count))


def _held(
    e: KernelBody, value: LlvmValue, low: LlvmValue, high: LlvmValue, point: LlvmValue
) -> LlvmValue:
    """Adds the zero point to 64 bits, and narrows them to bounds of 32."""
    value = e.build.add(value, _long(e, point))
    return e.build.trunc(clamped(e, value, _long(e, low), _long(e, high)), low.type)


def _sub(e: KernelBody, x: LlvmValue, y: LlvmValue) -> LlvmValue:
    return e.build.sub(x, y)


def _mul(e: KernelBody, x: LlvmValue, y: LlvmValue) -> LlvmValue:
    return e.build.mul(x, y)


def _clamped_sum(
    e: KernelBody, x: LlvmValue, y: LlvmValue, low: LlvmValue, high: LlvmValue
) -> LlvmValue:
    return clamped(e, e.build.add(x, y), low, high)


def _clamped_difference(
    e: KernelBody, x: LlvmValue, y: LlvmValue, low: LlvmValue, high: LlvmValue
) -> LlvmValue:
    return clamped(e, e.build.sub(x, y), low, high)


def _shifted_sum(
    e: KernelBody,
    x: LlvmValue,
    y: LlvmValue,
    own: LlvmValue,
    other: LlvmValue,
    shift: LlvmValue,
    low: LlvmValue,
    high: LlvmValue,
    point: LlvmValue,
) -> LlvmValue:
    build = e.build
    total = build.add(
        build.mul(_long(e, x), _long(e, own)), build.mul(_long(e, y), _long(e, other))
    )
    return _held(e, _shifted(e, total, shift), low, high, point)


def _shifted(e: KernelBody, total: LlvmValue, shift: LlvmValue) -> LlvmValue:
    """Divides by 2^shift and rounds half up; shift is at least 1."""
    build, places = e.build, _long(e, shift)
    one = constant(places.type, 1)
    half = build.shl(one, build.sub(places, one))
    return build.ashr(build.add(total, half), places)


def _scaled(
    e: KernelBody,
    x: LlvmValue,
    value: LlvmValue,
    shift: LlvmValue,
    low: LlvmValue,
    high: LlvmValue,
    point: LlvmValue,
) -> LlvmValue:
    product = e.build.mul(_long(e, x), _long(e, value))
    return _held(e, _shifted(e, product, shift), low, high, point)


def _high_word(
    e: KernelBody,
    x: LlvmValue,
    value: LlvmValue,
    half: LlvmValue,
    places: LlvmValue,
    low: LlvmValue,
    high: LlvmValue,
    point: LlvmValue,
) -> LlvmValue:
    return clamped(e, e.build.add(quotient(e, x, value, half, places), point), low, high)


def _lifted(
    e: KernelBody,
    x: LlvmValue,
    value: LlvmValue,
    half: LlvmValue,
    places: LlvmValue,
    lift: LlvmValue,
    *bounds: LlvmValue,
) -> LlvmValue:
    return _high_word(e, e.build.shl(x, lift), value, half, places, *bounds)


def _limited(
    e: KernelBody,
    x: LlvmValue,
    value: LlvmValue,
    half: LlvmValue,
    places: LlvmValue,
    limit: LlvmValue,
    lift: LlvmValue,
    *bounds: LlvmValue,
) -> LlvmValue:
    x = clamped(e, x, e.build.neg(limit), limit)
    return _lifted(e, x, value, half, places, lift, *bounds)


def _float_scaled(
    e: KernelBody,
    x: LlvmValue,
    factor: LlvmValue,
    low: LlvmValue,
    high: LlvmValue,
    point: LlvmValue,
) -> LlvmValue:
    return _rounded(e, e.build.fmul(e.build.sitofp(x, factor.type), factor), low, high, point)


def _rounded(
    e: KernelBody, real: LlvmValue, low: LlvmValue, high: LlvmValue, point: LlvmValue
) -> LlvmValue:
    build = e.build
    least, most = (build.sitofp(build.sub(bound, point), real.type) for bound in (low, high))
    return build.add(rounded(e, real, least, most), point)


def _quantize(
    e: KernelBody,
    x: LlvmValue,
    inverse: LlvmValue,
    low: LlvmValue,
    high: LlvmValue,
    point: LlvmValue,
) -> LlvmValue:
    build = e.build
    real: LlvmValue = build.fmul(x, inverse)
    # NaN has no order.
    real = build.select(build.fcmp_ordered("ord", real, real), real, constant(inverse.type, 0.0))
    return _rounded(e, real, low, high, point)


def _dequantize(e: KernelBody, x: LlvmValue, scale: LlvmValue) -> LlvmValue:
    return e.build.fmul(e.build.sitofp(x, scale.type), scale)


_WRITE: dict[str, Callable[..., LlvmValue]] = {
    "sub": _sub,
    "mul": _mul,
    "clamped_sum": _clamped_sum,
    "clamped_difference": _clamped_difference,
    "shifted_sum": _shifted_sum,
    "scaled": _scaled,
    "high_word": _high_word,
    "lifted": _lifted,
    "limited": _limited,
    "float_scaled": _float_scaled,
    "quantize": _quantize,
    "dequantize": _dequantize,
}
"""What writes an instruction on one vector."""
