"""Ops on numbers of 8, 16 and 32 bits that one pass computes together, element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.pointwise import (
    Extent,
)
from qir.backends.native.pattern import Joining, Match, declare_joining, wide_pattern
from qir.backends.native.patterns.cast import belongs_to_xla
from qir.backends.native.patterns.flat import variables
from qir.backends.native.patterns.pointwise_writer import HELD, PassWriter, requantize_form
from qir.ir import Node, Value
from qir.numbers.rounding import Float32
from qir.ops import Add, Dequantize, Lookup, Mul, Quantize, Requantize, Slice, Split, Sub
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.types import Affine, Array, DType

_CODED = frozenset(HELD) - {DType.F32}
MOST_NODES = 64
"""Most nodes of a pass: the code of a longer one takes long to make."""


def _is_coded(value: Value) -> bool:
    """Whether a value has a code that passes read: one zero point, in at most 32 bits."""
    code = value.type.quant
    return isinstance(code, Affine) and code.zero_points.ndim == 0 and code.storage in _CODED


def _is_tensor_coded(value: Value) -> bool:
    return _is_coded(value) and value.type.affine.per_tensor


def _form(value: Value, result: Value) -> Extent | None:
    """Returns how an operand meets a result; None where no pass reads it so."""
    if value.type.shape == result.type.shape:
        return "full"
    if not value.is_constant:
        return None
    return _table_form(value.array, result)


def _table_form(table: Array, result: Value) -> Extent | None:
    """Returns how an array that broadcasts meets a result."""
    if table.size == 1:
        return "one"
    columns = result.type.shape[-1:]
    return "row" if table.shape[-1:] == (table.size,) == columns else None


def _tables_fit(result: Value, *tables: Array) -> bool:
    return all(_table_form(np.asarray(table), result) is not None for table in tables)


def _sum_problem(op: Sum, node: Node) -> str:
    if not all(map(_is_tensor_coded, (*node.inputs, node.output))):
        return "not codes of at most 32 bits"
    if not op.rounds_half_up:
        return f"no kernel for a sum with the rounding {op.rounding}"
    return ""


def _mul_problem(op: Mul, node: Node) -> str:
    if not all(map(_is_tensor_coded, node.inputs)) or not _is_coded(node.output):
        return "not codes of at most 16 bits with a product of 32"
    return ""


def _requantize_problem(op: Requantize, node: Node) -> str:
    (x,) = node.inputs
    if not _is_coded(x) or not _is_coded(node.output):
        return "not codes of at most 32 bits with one zero point"
    form = requantize_form(node)
    if form is None:
        return f"no machine form of the rounding {op.rounding} that rounds once"
    tables = (form.value,) if isinstance(form, Float32) else (form.value, form.shift)
    if not _tables_fit(node.output, *tables):
        return "a code that varies along another axis than the last"
    return ""


def _quantize_problem(op: Quantize, node: Node) -> str:
    if not _is_tensor_coded(node.output) or op.to.expressed is not DType.F32:
        return "not from f32 to a code of at most 32 bits"
    if op.to.storage.bits > 16:
        return "a code of more than 16 bits"
    return "" if op.rounding == "reciprocal" else f"no form of the rounding {op.rounding}"


def _dequantize_problem(op: Dequantize, node: Node) -> str:
    (x,) = node.inputs
    if not _is_coded(x) or x.type.affine.expressed is not DType.F32:
        return "not from an affine code of at most 32 bits to f32"
    factors = x.type.affine.decoding_factors
    if len(factors) != 1 or not _tables_fit(node.output, factors[0]):
        return "a code that varies along another axis than the last"
    return ""


def _lookup_problem(op: Lookup, node: Node) -> str:
    x, table = node.inputs
    entries = (DType.I8, DType.U8, DType.I16, DType.U16)
    if x.type.dtype not in entries or table.type.dtype not in entries:
        return "not from 8 or 16 bits to as many"
    return "" if table.is_constant else "a table that is no constant"


def _part_problem(op: Split | Slice, node: Node) -> str:
    (x,) = node.inputs
    if not _is_coded(x):
        return "not codes of at most 32 bits"
    axis = x.type.rank - 1
    if isinstance(op, Split):
        return "" if op.axis == axis else "a split of another axis than the last"
    cuts = [(at, step) for at, _, _, step in op.cuts]
    return "" if cuts == [(axis, 1)] else "a slice of another axis than the last"


_PROBLEMS: Mapping[type[Op], Callable[[Any, Node], str]] = {
    Add: _sum_problem,
    Sub: _sum_problem,
    Mul: _mul_problem,
    Requantize: _requantize_problem,
    Quantize: _quantize_problem,
    Dequantize: _dequantize_problem,
    Lookup: _lookup_problem,
    Split: _part_problem,
    Slice: _part_problem,
}
_PARTS = (Split, Slice)


def problem(node: Node) -> str:
    """Returns why no pass computes a node; nothing where one does."""
    check = _PROBLEMS.get(type(node.op))
    if check is None:
        return f"no pass computes {node.op.name}"
    x = node.inputs[0]
    if x.is_constant or belongs_to_xla(x):
        return "left to XLA with what it reads"
    if not isinstance(node.op, (*_PARTS, Lookup)):
        for value in node.inputs:
            if _form(value, node.output) is None:
                return "an operand that broadcasts"
    return check(node.op, node)


@wide_pattern(*_PROBLEMS)
def pointwise(op: Op, node: Node, target: InstructionSet) -> Match | str:
    """One pass of several ops on numbers of up to 32 bits."""
    return problem(node) or replace_by_pass((node,), node.outputs)


def replace_by_pass(nodes: Sequence[Node], outputs: Sequence[Value]) -> Match:
    """Returns a match of nodes by one pass.

    Args:
        nodes: The nodes, in order; `problem` finds nothing.
        outputs: What of their results is read elsewhere, all of one shape.
    """
    made = {value for node in nodes for value in node.outputs}
    read = [value for node in nodes for value in node.inputs if value not in made]
    writer = PassWriter(tuple(nodes), tuple(outputs))
    return Match(tuple(nodes), variables(*read), writer.write, pointwise, outputs=tuple(outputs))


declare_joining(Joining(pointwise, lambda node: not problem(node), replace_by_pass, MOST_NODES))
