"""Casts between real numbers, accumulators and codes of 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qir.backends.cpu.kernels.cast import Rescale, RescaleForm, Stored, ToCodes, ToReal
from qir.backends.cpu.kernels.flat import LANES
from qir.backends.cpu.patterns.dense import is_bytes
from qir.backends.cpu.patterns.flat import passed
from qir.backends.cpu.patterns.lookup import every_byte, looked_up
from qir.backends.cpu.target import Target
from qir.backends.native.pattern import Cover, covers
from qir.ir import Node, Value
from qir.numbers.int32 import INT32_MAX
from qir.numbers.rounding import Multiplier
from qir.ops import Dequantize, Quantize, Requantize
from qir.types import Array, DType, Quant


def stored(value: Value) -> Stored | None:
    """Returns how a kernel reads a value; None where it does not."""
    if is_bytes(value):
        return "unsigned" if value.type.dtype is DType.U8 else "signed"
    code = value.type.quant
    if code is None or code.storage is not DType.I32 or code.levels is not None:
        return None
    return "wide"


def repeated(
    tables: Mapping[str, Array], value: Value
) -> tuple[dict[str, Array], dict[str, int]] | None:
    """Lays out tables that broadcast against a value for a pass over it.

    Args:
        tables: Scalars, or arrays of the value's rank; of equal shape.
        value: The value.

    Returns:
        The tables, and the word of their period, which a single entry does not have; None where
        they vary along another axis than the last.
    """
    arrays = [np.asarray(table) for table in tables.values()]
    if all(array.size == 1 for array in arrays):
        return {name: array.reshape(1) for name, array in zip(tables, arrays, strict=True)}, {}
    period = value.type.shape[-1]
    if not isinstance(period, int) or any(array.size != array.shape[-1] for array in arrays):
        return None
    rows = {
        name: np.resize(np.repeat(array.reshape(-1), period // array.size), period + LANES)
        for name, array in zip(tables, arrays, strict=True)
    }
    return rows, {"period": period}


@covers(Quantize)
def quantize(op: Quantize, node: Node, target: Target) -> Cover | str:
    """One float32 multiplication, ties to even."""
    if not is_bytes(node.output) or op.to.expressed is not DType.F32:
        return "not from f32 to a code of 8 bits"
    if op.rounding != "reciprocal":
        return f"no form of the rounding {op.rounding}"
    low, high = op.to.range
    words = {
        "inverse": int(op.to.inverse_scale.view(np.int32)),
        "low": low,
        "high": high,
        "point": int(op.to.zero_points),
    }
    return passed(node, ToCodes(op.to.storage is DType.U8), words, {})


@covers(Dequantize)
def dequantize(op: Dequantize, node: Node, target: Target) -> Cover | str:
    """One float32 multiplication."""
    (x,) = node.inputs
    code, kind = x.type.quant, stored(x)
    if code is None or kind is None or code.expressed is not DType.F32:
        return "not from a code of 8 or 32 bits to f32"
    found = repeated({"scale": code.scale.array.astype(np.float32)}, x)
    if found is None:
        return "a code that varies along another axis than the last"
    tables, period = found
    words = {**period, "point": int(code.zero_points)}
    return passed(node, ToReal(kind, bool(period)), words, tables)


@covers(Requantize)
def requantize(op: Requantize, node: Node, target: Target) -> Cover | str:
    """Accumulators by arithmetic, codes of 8 bits by a table of what the definition gives."""
    (x,) = node.inputs
    kind = stored(x)
    if kind is None or not is_bytes(node.output):
        return "not from a code of 8 or 32 bits to one of 8"
    computed = op.computed_by(x.type, FORMS)
    if computed is None:
        return f"no form of the rounding {op.rounding}"
    if kind != "wide":
        return looked_up(node, every_byte(node))
    rounding, factors = computed
    form, terms = FORMS[rounding](factors)
    found = repeated(terms, x)
    if found is None:
        return "a code that varies along another axis than the last"
    tables, period = found
    kernel = Rescale(kind, bool(period), op.to.storage is DType.U8, form)
    return passed(node, kernel, {**code_words(op.to, op.bounds), **period}, tables)


def code_words(code: Quant, bounds: tuple[int, int] | None = None) -> dict[str, int]:
    """Returns the words that narrow int32 to a code."""
    low, high = bounds or code.range
    return {"low": low, "high": high, "point": int(code.zero_points)}


def fixed31_terms(multiplier: Multiplier) -> dict[str, Array]:
    """Prepares a requantization by mode fixed31 to 8 bits.

    The rounded quotient is that of the high word H of (x << lift) * M alone where s + lift >= 33:

        floor((x * M + 2^(s-1)) / 2^s) = (H + half) >> places,  places = s + lift - 32,
        half = 2^(places-1)

    A code is at a bound as soon as the quotient is 512 from 0, which an x of 2^(s-21) reaches since
    M >= 2^30. Held to that limit, (x << lift) stays in int32. For s < 21, any M and s give 512 or
    more to all but 0, so that M = 2^30 and s = 21 do.

    Returns:
        int32 arrays of the multiplier's shape: multiplier, half, places, lift, limit.
    """
    value = multiplier.value.astype(np.int64)
    # M = 0 gives 0 at any shift.
    shift = np.where(value == 0, 33, multiplier.shift.astype(np.int64))
    value = np.where(shift < 21, 2**30, value)
    shift = np.maximum(shift, 21)
    lift = np.maximum(33 - shift, 0)
    places = shift + lift - 32
    terms = {
        "multiplier": value,
        "half": np.int64(1) << (places - 1),
        "places": places,
        "lift": lift,
        "limit": np.where(lift > 0, np.int64(1) << np.minimum(shift - 21, 30), INT32_MAX),
    }
    return {name: np.asarray(term, np.int32) for name, term in terms.items()}


def _float32(multiplier: Multiplier) -> tuple[RescaleForm, dict[str, Array]]:
    return "f32_rne", {"multiplier": multiplier.value.astype(np.float32)}


def _fixed31(multiplier: Multiplier) -> tuple[RescaleForm, dict[str, Array]]:
    terms = fixed31_terms(multiplier)
    if np.any(terms["lift"]):
        return "lifted", terms
    return "fixed31", {name: terms[name] for name in ("multiplier", "half", "places")}


FORMS: dict[str, Callable[[Multiplier], tuple[RescaleForm, dict[str, Array]]]] = {
    "f32_rne": _float32,
    "fixed31": _fixed31,
}
"""How the kernel computes a rounding mode, and its tables; the faster one first."""
