"""What becomes of the exact sums of bytes in the step that forms them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qir.backends.native.kernels.cast import Stored
from qir.backends.native.pattern import sole_reader
from qir.backends.native.patterns.epilogue import is_bytes
from qir.ir import Node, Value
from qir.numbers.int32 import INT32_MAX
from qir.numbers.rounding import MachineForm, Scaled
from qir.ops import Requantize
from qir.types import Affine, Array, DType


@dataclass(frozen=True, eq=False)
class Behind:
    """A requantize to bytes that alone reads some sums, with a machine form of one rounding.

    Attributes:
        node: Its node.
        op: Its op.
        form: The form, 0-d.
    """

    node: Node
    op: Requantize
    form: Scaled


def rounding_behind(sums: Value) -> Behind | None:
    """Returns the requantize that a step can compute before its sums leave the registers."""
    node = sole_reader(sums)
    if node is None or not isinstance(node.op, Requantize) or not is_bytes(node.output):
        return None
    forms = [rounding_once(form) for _, form in node.op.machine_forms(sums.type)]
    form = next(filter(None, forms), None)
    return None if form is None else Behind(node, node.op, form)


def rounding_once(form: MachineForm | None) -> Scaled | None:
    """Returns a machine form that is an integer product with one rounding; None for others."""
    return form if isinstance(form, Scaled) and form.rounds_once else None


@dataclass(frozen=True, eq=False)
class SumsEpilogue:
    """What is stored of sums of bytes.

    Attributes:
        nodes: The nodes behind the sums that it takes in, perhaps none.
        to: How it is stored.
        terms: Terms of `kernels.reduce.Finish`: a row for each number of bytes, or one row.
        parameters: The bounds of stored bytes.
    """

    nodes: tuple[Node, ...]
    to: Stored
    terms: Array
    parameters: Mapping[str, int]


def sums_epilogue(x: Value, sums: Value, counts: Array) -> SumsEpilogue:
    """Returns the epilogue of exact sums: with the requantize behind them, or as they are.

    Args:
        x: What is summed, stored in bytes.
        sums: The sums.
        counts: Numbers of bytes in the sums, one for each row of terms.
    """
    behind = rounding_behind(sums)
    if behind is not None:
        op = behind.op
        found = rounded(x, counts, behind.form, op.to, op.bounds)
        if not isinstance(found, str):
            return SumsEpilogue((behind.node,), found.to, found.terms, found.parameters)
    return SumsEpilogue((), "wide", _offsets(x, counts)[:, None].astype(np.int32), {})


def _offsets(x: Value, counts: Array) -> Array:
    code = x.type.affine
    return -int(code.zero_points) * counts.astype(np.int64)


def rounded(
    x: Value, counts: Array, form: Scaled, to: Affine, bounds: tuple[int, int]
) -> SumsEpilogue | str:
    """Returns the epilogue of sums that are rounded to bytes, or why 32 bits don't hold it.

    With a lift of j bits, acc * 2^j * M / 2^(s+j) is the same number, and s + j >= 33 is what the
    terms need. A count in the divisor makes s grow as fast as the sum.

    Args:
        x: What is summed.
        counts: Numbers of bytes in the sums, one for each row of terms.
        form: How the sums are rounded: one for all, or one for each row.
        to: The code of the result.
        bounds: Least and greatest number that is stored.
    """
    code = x.type.affine
    point = int(code.zero_points)
    low, high = code.storage.bounds
    farthest = max(high - point, point - low)
    value, shift = (
        np.broadcast_to(part, counts.shape).astype(np.int64) for part in (form.value, form.shift)
    )
    lift = np.where(value == 0, 0, np.maximum(33 - shift, 0))
    if np.any(counts * farthest > INT32_MAX >> lift):
        return "a sum or its multiplier too large for 32 bits"
    lifted = Scaled(value.astype(np.int32), (shift + lift).astype(np.int32))
    terms = lifted.high_word(to.zero_points)
    if terms is None:
        return "a multiplier too small for 32 bits"
    columns = (_offsets(x, counts), lift, terms.value, terms.addend, terms.places)
    parameters = {"low": bounds[0], "high": bounds[1]}
    table = np.stack(columns, axis=-1).astype(np.int32)
    return SumsEpilogue((), "unsigned" if to.storage is DType.U8 else "signed", table, parameters)
