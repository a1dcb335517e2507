"""Epilogues: what becomes of accumulators before they leave the registers.

A requantize of mode fixed31 takes the high word of the 64-bit product with M, adds a number that
holds the rounding and the zero point, and shifts (`arithmetic.fixed31_terms`). One of mode f32_rne
clamps in float and rounds once. A sum with a stored tensor follows, where the step has one, with
the one rounding of `add`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from qir.backends.xla.cpu.emitter import F32, I8, I16, I32, I64, Emitter, Value, constant, vector

Form: TypeAlias = Literal["fixed31", "f32_rne", "accumulator", "real"]
Residual: TypeAlias = Literal["", "signed", "unsigned"]

TABLES = ("bias", "multiplier", "addend", "shift")
"""Tensors of 32-bit numbers, one for each column: each form reads the first few."""
BOUNDS = ("low", "high", "point")
SUM = ("own", "other", "sum_addend", "sum_shift", "sum_point", "sum_low", "sum_high")


@dataclass(frozen=True)
class Epilogue:
    """What a kernel does with its accumulators.

    Attributes:
        form: Requantize by one of two roundings, store as they are, or as float32.
        unsigned: Whether what is stored is unsigned bytes.
        residual: Signedness of the bytes that are added; empty for none.
    """

    form: Form
    unsigned: bool = False
    residual: Residual = ""

    def __str__(self) -> str:
        residual = self.residual and f"plus_{self.residual}"
        return "_".join(filter(None, [self.form, "unsigned" * self.unsigned, residual]))

    @property
    def stores_bytes(self) -> bool:
        """Whether a number that is stored is a byte; otherwise it has 32 bits."""
        return self.form in ("fixed31", "f32_rne")

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it reads."""
        return TABLES[: {"accumulator": 1, "real": 2, "f32_rne": 2, "fixed31": 4}[self.form]]

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it reads."""
        return (*(BOUNDS if self.stores_bytes else ()), *(SUM if self.residual else ()))

    def apply(
        self,
        e: Emitter,
        words: Mapping[str, Value],
        tables: Mapping[str, Value],
        accumulators: Sequence[Value],
        residual: Value | None = None,
    ) -> list[Value]:
        """Computes what is stored for some columns of one row.

        Args:
            e: Where to write.
            words: What `words` names, as integers of 64 bits.
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
                    vector(F32 if name == "multiplier" and self.form != "fixed31" else I32, lanes),
                    pointer,
                    4 * lanes * index,
                    align=4,
                )
                for name, pointer in tables.items()
            }
            total = e.build.add(total, columns["bias"])
            if self.form == "accumulator":
                results.append(total)
                continue
            if self.form == "real":
                whole = e.build.sitofp(total, vector(F32, lanes))
                results.append(e.build.fmul(whole, columns["multiplier"]))
                continue
            scaled = _fixed31 if self.form == "fixed31" else _f32_rne
            code = scaled(e, words, columns, total)
            if residual is not None:
                bytes_ = e.load(vector(I8, lanes), residual, index * lanes)
                code = self._added(e, words, code, bytes_)
            results.append(code)
        if not self.stores_bytes:
            return results
        bounds = ("sum_low", "sum_high") if self.residual else ("low", "high")
        return [stored_bytes(e, results, self.unsigned, *(words[name] for name in bounds))]

    def _added(self, e: Emitter, words: Mapping[str, Value], code: Value, stored: Value) -> Value:
        build, lanes = e.build, code.type.count
        code = clamped(e, code, repeated(e, words["low"], lanes), repeated(e, words["high"], lanes))
        own, other, addend, shift, point = (repeated(e, words[name], lanes) for name in SUM[:5])
        widen = build.zext if self.residual == "unsigned" else build.sext
        products = build.mul(code, own), build.mul(widen(stored, vector(I32, lanes)), other)
        return build.add(build.ashr(build.add(build.add(*products), addend), shift), point)


def repeated(e: Emitter, word: Value, lanes: int) -> Value:
    """Returns the low 32 bits of a word in every lane."""
    return e.splat(e.build.trunc(word, I32), lanes)


def clamped(e: Emitter, value: Value, low: Value, high: Value) -> Value:
    """Bounds signed integers, lane by lane."""
    return e.greatest(e.smallest(value, high), low)


def stored_bytes(
    e: Emitter, codes: Sequence[Value], unsigned: bool, low: Value, high: Value
) -> Value:
    """Narrows int32 to bytes within two words; saturating, so that order and width are free.

    Args:
        e: Where to write.
        codes: Vectors of int32, a power of two of them.
        unsigned: Whether the bytes are unsigned.
        low: Least number, a word.
        high: Greatest number, a word.
    """
    build = e.build
    parts = list(codes)
    while len(parts) > 1:
        parts = [e.concat(*parts[at : at + 2]) for at in range(0, len(parts), 2)]
    (value,) = parts
    lanes = value.type.count
    value = _saturated(e, value, -(2**15), 2**15 - 1, I16)
    value = _saturated(e, value, *((0, 255) if unsigned else (-128, 127)), I8)
    least, most = (e.splat(build.trunc(word, I8), lanes) for word in (low, high))
    compare = build.icmp_unsigned if unsigned else build.icmp_signed
    value = build.select(compare("<", value, most), value, most)
    return build.select(compare(">", value, least), value, least)


def _saturated(e: Emitter, value: Value, low: int, high: int, narrow: Any) -> Value:
    lanes = value.type.count
    bounds = (constant(value.type, bound) for bound in (low, high))
    return e.build.trunc(clamped(e, value, *bounds), vector(narrow, lanes))


def high_words(e: Emitter, first: Value, second: Value) -> Value:
    """Returns the high 32 bits of the signed 64-bit products, lane by lane."""
    build, lanes = e.build, first.type.count
    wide = vector(I64, lanes // 2)
    places = constant(wide, 32)

    def low_half(value: Value) -> Value:
        return build.ashr(build.shl(build.bitcast(value, wide), places), places)

    def high_half(value: Value) -> Value:
        return build.ashr(build.bitcast(value, wide), places)

    even = build.bitcast(build.mul(low_half(first), low_half(second)), first.type)
    odd = build.bitcast(build.mul(high_half(first), high_half(second)), first.type)
    lanes_in_order = [lane + 1 if lane % 2 == 0 else lanes + lane for lane in range(lanes)]
    return e.shuffle(even, odd, lanes_in_order)


def _fixed31(
    e: Emitter, words: Mapping[str, Value], columns: Mapping[str, Value], total: Value
) -> Value:
    high = high_words(e, total, columns["multiplier"])
    return e.build.ashr(e.build.add(high, columns["addend"]), columns["shift"])


def _f32_rne(
    e: Emitter, words: Mapping[str, Value], columns: Mapping[str, Value], total: Value
) -> Value:
    build, lanes = e.build, total.type.count
    floats = vector(F32, lanes)
    real = build.fmul(build.sitofp(total, floats), columns["multiplier"])
    point = repeated(e, words["point"], lanes)
    low, high = (
        build.sitofp(build.sub(repeated(e, words[name], lanes), point), floats)
        for name in ("low", "high")
    )
    real = build.select(build.fcmp_ordered(">", real, low), real, low)
    real = build.select(build.fcmp_ordered("<", real, high), real, high)
    whole = e.intrinsic(f"llvm.lrint.v{lanes}i32.v{lanes}f32", vector(I32, lanes), real)
    return build.add(whole, point)
