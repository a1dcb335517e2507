"""Casts between real numbers, accumulators and codes of 8 bits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.cast import (
    DequantizeKernel,
    QuantizeKernel,
    RequantizeForm,
    RequantizeKernel,
    Stored,
)
from qir.backends.native.kernels.flat import LANES
from qir.backends.native.pattern import PATTERNS, Match, pattern, sole_reader
from qir.backends.native.patterns.epilogue import in_order, is_bytes
from qir.backends.native.patterns.flat import passed
from qir.backends.native.patterns.lookup import every_byte, looked_up
from qir.ir import Node, Value
from qir.numbers.rounding import Float32, MachineForm, Scaled
from qir.ops import Dequantize, Quantize, Requantize
from qir.types import Affine, Array, DType


def stored(value: Value) -> Stored | None:
    """Returns how a kernel reads a value; None where it does not."""
    if is_bytes(value):
        return "unsigned" if value.type.dtype is DType.U8 else "signed"
    return "wide" if value.type.quant is not None and value.type.dtype is DType.I32 else None


def belongs_to_xla(x: Value) -> bool:
    """Whether a value is sums of an op without kernels: XLA fuses with it what alone reads them.

    A kernel would have them written to memory in 32 bits.
    """
    return (
        stored(x) == "wide"
        and x.node is not None
        and not x.is_constant
        and type(x.node.op) not in PATTERNS
        and sole_reader(x) is not None
    )


def repeated(
    tables: Mapping[str, Array], value: Value
) -> tuple[dict[str, Array], dict[str, int]] | None:
    """Lays out tables that broadcast against a value for a pass over it.

    Args:
        tables: Scalars, or arrays of the value's rank; of equal shape.
        value: The value.

    Returns:
        The tables, and the parameter of their period, which a single entry does not have; None
        where they vary along another axis than the last.
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


@pattern(Quantize)
def quantize(op: Quantize, node: Node, target: InstructionSet) -> Match | str:
    """One float32 multiplication, ties to even."""
    if not is_bytes(node.output) or op.to.expressed is not DType.F32:
        return "not from f32 to a code of 8 bits"
    if op.rounding != "reciprocal":
        return f"no form of the rounding {op.rounding}"
    low, high = op.to.range
    parameters = {
        "inverse": int(op.to.inverse_scale.view(np.int32)),
        "low": low,
        "high": high,
        "point": int(node.output.type.affine.zero_points),
    }
    return passed(node, QuantizeKernel(op.to.storage is DType.U8), parameters, {})


@pattern(Dequantize)
def dequantize(op: Dequantize, node: Node, target: InstructionSet) -> Match | str:
    """One float32 multiplication."""
    (x,) = node.inputs
    code, kind = x.type.code, stored(x)
    if x.is_constant:
        return "weights that XLA decodes where it reads them"
    if not isinstance(code, Affine) or kind is None or code.expressed is not DType.F32:
        return "not from an affine code of 8 or 32 bits to f32"
    if belongs_to_xla(x):
        return "behind sums that XLA forms"
    factors = code.decoding_factors
    found = repeated({"scale": factors[0]}, x) if len(factors) == 1 else None
    if found is None:
        return "a code that varies along another axis than the last"
    tables, period = found
    parameters = {**period, "point": int(code.zero_points)}
    return passed(node, DequantizeKernel(kind, bool(period)), parameters, tables)


@pattern(Requantize)
def requantize(op: Requantize, node: Node, target: InstructionSet) -> Match | str:
    """Accumulators by arithmetic, codes of 8 bits by a table of what the definition gives."""
    (x,) = node.inputs
    kind = stored(x)
    if kind is None or not is_bytes(node.output):
        return "not from a code of 8 or 32 bits to one of 8"
    if belongs_to_xla(x):
        return "behind sums that XLA forms"
    forms = op.machine_forms(x.type)
    if not forms:
        return f"no machine form of the rounding {op.rounding}"
    if kind != "wide":
        return looked_up(node, every_byte(node))
    rescaled = next(filter(None, map(_tables, in_order(forms))), None)
    if rescaled is None:
        return f"no kernel for the machine form of the rounding {op.rounding}"
    form, terms = rescaled
    found = repeated(terms, x)
    if found is None:
        return "a code that varies along another axis than the last"
    tables, period = found
    kernel = RequantizeKernel(kind, bool(period), op.to.storage is DType.U8, form)
    return passed(node, kernel, {**code_parameters(op.to, op.bounds), **period}, tables)


def code_parameters(code: Affine, bounds: tuple[int, int] | None = None) -> dict[str, int]:
    """Returns the parameters that narrow int32 to a code."""
    low, high = bounds or code.range
    return {"low": low, "high": high, "point": int(code.zero_points)}


def _tables(form: MachineForm) -> tuple[RequantizeForm, dict[str, Array]] | None:
    """Returns how the kernel computes a machine form, and its tables; None where it does not."""
    if isinstance(form, Float32):
        return "f32_rne", {"multiplier": form.value}
    terms = form.high_word() if isinstance(form, Scaled) else None
    if terms is None:
        return None
    tables = {"multiplier": terms.value, "half": terms.addend, "places": terms.places}
    if terms.lifted:
        return "lifted", {**tables, "lift": terms.lift, "limit": terms.limit}
    return "fixed31", tables
