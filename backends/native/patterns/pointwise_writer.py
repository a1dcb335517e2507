"""Writes the steps of passes: several ops on each element, as a program of instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np

from qir.backends.native.kernels.flat import LANES
from qir.backends.native.kernels.pointwise import (
    Extent,
    Held,
    Instruction,
    Name,
    PointwiseKernel,
)
from qir.backends.native.pattern import Placement
from qir.backends.native.patterns.epilogue import BYTES, in_order
from qir.backends.native.patterns.flat import TASK_ELEMENTS, TASKS, lies
from qir.backends.native.plan import BufferView
from qir.ir import Node, Value
from qir.numbers.int32 import INT32_MAX
from qir.numbers.rounding import Float32, Scaled
from qir.ops import Dequantize, Dot, Lookup, Mul, Quantize, Requantize, Slice, Split
from qir.ops.elementwise import Sum
from qir.types import Affine, Array, DType

HELD: Mapping[DType, Held] = {
    DType.I8: "s8",
    DType.U8: "u8",
    DType.I16: "s16",
    DType.U16: "u16",
    DType.I32: "s32",
    DType.F32: "f32",
}
HELD_BY_NAME: Mapping[str, Held] = {dtype.numpy.name: held for dtype, held in HELD.items()}


def requantize_form(node: Node) -> Scaled | Float32 | None:
    """Returns the form that a pass rounds by, or None."""
    op = node.op
    assert isinstance(op, Requantize)
    for form in in_order(op.machine_forms(node.inputs[0].type)):
        if isinstance(form, Float32) or (isinstance(form, Scaled) and form.rounds_once):
            return form
    return None


@dataclass(frozen=True, eq=False)
class PassWriter:
    """Writes the step of a pass.

    Attributes:
        nodes: The nodes that it computes.
        outputs: What it writes.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    def write(self, placement: Placement) -> None:
        """Adds the step, or one for each width of what is written."""
        by_width: dict[Any, list[Value]] = {}
        for value in self.outputs:
            by_width.setdefault(value.type.shape, []).append(value)
        for values in by_width.values():
            self._write(placement, values)

    def _write(self, placement: Placement, outputs: Sequence[Value]) -> None:
        program = _Program(placement, frozenset(self.nodes))
        stores = [(program.of(value, 0), value) for value in outputs]
        for number, value in stores:
            program.store(number, value)
        shape = placement.shape(outputs[0])
        columns = shape[-1] if shape else 1
        rows = prod(shape[:-1])
        if columns < LANES and program.is_flat:
            rows, columns = 1, rows * columns
        wanted = max(min(rows * columns // TASK_ELEMENTS, TASKS * placement.plan.threads), 1)
        block = -(-rows // wanted)
        kernel = PointwiseKernel(
            tuple(program.instructions),
            len(program.rows),
            len(program.tables),
            len(program.numbers),
            columns < LANES,
        )
        views = [*(view for view, _ in program.rows), *program.tables]
        placement.plan.step(
            outputs[0].name,
            kernel,
            {
                "rows": rows,
                "block_rows": block,
                "columns": columns,
                **{f"pitch{index}": pitch for index, (_, pitch) in enumerate(program.rows)},
                **{f"number{index}": each for index, each in enumerate(program.numbers)},
            },
            {f"tensor{index}": view for index, view in enumerate(views)},
            tasks=-(-rows // block),
        )


def _high_word(form: Scaled, reach: int) -> tuple[Array, ...] | None:
    """Returns the form on the high word of a product, for results of any width.

    With H the high word of (clip(x, -limit, limit) << lift) * value, the quotient is
    (H + half) >> places, as in `Scaled.high_word`. All x beyond the limit give quotients that are
    further from 0 than any result.

    Args:
        form: The form, which rounds once.
        reach: The greatest distance of a result from its zero point.

    Returns:
        value, half, places, limit and lift; None where int32 might not hold a sum.
    """
    value, shift = np.broadcast_arrays(form.value.astype(np.int64), form.shift.astype(np.int64))
    _, bits = np.frexp(value.astype(np.float64))
    zeros = np.where(value == 0, 0, 31 - bits)
    value, shift = value << zeros, shift + zeros
    # A product below 2^62 of which more than 62 places are shifted out rounds to 0.
    value = np.where(shift > 62, 0, value)
    shift = np.where(value == 0, 33, shift)
    lift = np.maximum(33 - shift, 0)
    places = shift + lift - 32
    # value is at least 2^30.
    limit = np.where(lift > 0, (np.int64(reach) + 2) << np.maximum(shift - 30, 0), INT32_MAX)
    if np.any(places > 31) or np.any(lift > 3) or np.any(limit << lift > INT32_MAX << (lift == 0)):
        return None
    half = np.int64(1) << (places - 1)
    return tuple(each.astype(np.int32) for each in (value, half, places, limit, lift))


def _reach(value: Value) -> int:
    """Returns how far a value can be from its zero point, or more."""
    code = value.type.affine
    node, point = value.node, int(code.zero_points)
    if code.range != DType.I32.bounds:
        return max(code.range[1] - point, point - code.range[0])
    if node is not None and isinstance(node.op, Mul):
        return prod(map(_reach, node.inputs))
    if node is not None and isinstance(node.op, Dot) and node.inputs[1].is_constant:
        weights, *bias = node.inputs[1:]
        if all(each.is_constant for each in bias):
            steps = np.abs(weights.type.code.steps(weights.array))
            most = int(steps.sum(axis=-2).max(initial=0)) * _reach(node.inputs[0])
            return most + max((int(np.abs(each.array).max(initial=0)) for each in bias), default=0)
    return INT32_MAX


_Operand: TypeAlias = int
"""The number of an instruction."""
_LITERALS = frozenset({0, *(b for t in HELD if t.is_integer and t.bits <= 16 for b in t.bounds)})
"""Numbers that most passes have, which LLVM makes one instruction of with what reads them."""
_TABLE = 1 << 20
"""What tells tables from tensors with rows until the number of these is known."""


class _Program:
    """A program under construction.

    Args:
        placement: Where tensors lie.
        nodes: The nodes that are computed; what others make is read.

    Attributes:
        rows: Tensors with rows, and the bytes from one to the next.
        tables: The other tensors.
        numbers: The parameters.
        is_flat: Whether nothing depends on where a row begins.
    """

    def __init__(self, placement: Placement, nodes: frozenset[Node]) -> None:
        self.placement, self.nodes = placement, nodes
        self.rows: list[tuple[BufferView, int]] = []
        self.tables: list[BufferView] = []
        self.numbers: list[int] = []
        self.is_flat = True
        self._written: list[Instruction] = []
        self._found: dict[tuple[Value, int], _Operand] = {}
        self._number_of: dict[tuple[int, Held], _Operand] = {}

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """The instructions, which number tables after the tensors with rows."""
        return tuple(
            replace(each, at=each.at - _TABLE + len(self.rows)) if each.at >= _TABLE else each
            for each in self._written
        )

    def of(self, value: Value, column: int) -> _Operand:
        """Returns what holds a value.

        Args:
            value: The value.
            column: Its column that is the first one of the domain.
        """
        key = value, column
        if key not in self._found:
            if value.node is not None and value.node in self.nodes:
                self._found[key] = self._computed(value, value.node, column)
            else:
                held = HELD[value.type.dtype]
                at = self._with_rows(lies(self.placement, value), value)
                self._found[key] = self._add("load", at=at, held=held, column=column)
        return self._found[key]

    def store(self, number: _Operand, value: Value) -> None:
        """Writes a value."""
        at = self._with_rows(self.placement.write(value), value)
        self._add("store", number, at=at, held=HELD[value.type.dtype])

    def _add(
        self,
        name: Name,
        *operands: _Operand,
        at: int = 0,
        held: Held = "s32",
        form: Extent = "full",
        column: int = 0,
    ) -> _Operand:
        self._written.append(Instruction(name, operands, at, held, form, column))
        return len(self._written) - 1

    def _with_rows(self, view: BufferView, value: Value) -> int:
        if self.placement.is_apart(value):
            self.is_flat = False
        self.rows.append((view, self.placement.pitch(value)))
        return len(self.rows) - 1

    def _table(self, array: Array) -> int:
        self.tables.append(self.placement.constant(array))
        return _TABLE + len(self.tables) - 1

    def _number(self, number: int, held: Held = "s32") -> _Operand:
        key = number, held
        if key not in self._number_of:
            if held == "s32" and number in _LITERALS:
                self._number_of[key] = self._add("literal", at=number)
            else:
                self.numbers.append(number)
                self._number_of[key] = self._add("number", at=len(self.numbers) - 1, held=held)
        return self._number_of[key]

    def _entries(self, array: Array, column: int) -> _Operand:
        """Returns what holds an array that is one number, or a row for all rows."""
        held = HELD_BY_NAME[array.dtype.name]
        if array.size == 1:
            single = array.reshape(-1)
            if held == "f32":
                single = single.view(np.int32)
            return self._number(int(single[0]), "f32" if held == "f32" else "s32")
        self.is_flat = False
        return self._add("load", at=self._table(array), held=held, form="row", column=column)

    def _operand(self, node: Node, index: int, column: int) -> _Operand:
        """Returns what holds an operand as it is stored."""
        value = node.inputs[index]
        if value.is_constant and value.type.shape != node.output.type.shape:
            return self._entries(value.array, column)
        return self.of(value, column)

    def _steps(self, node: Node, index: int, column: int) -> _Operand:
        """Returns what holds an operand's differences from its zero point."""
        stored = self._operand(node, index, column)
        point = int(node.inputs[index].type.affine.zero_points)
        return self._add("sub", stored, self._number(point)) if point else stored

    def _bounds(self, low: int, high: int, code: Affine) -> tuple[_Operand, ...]:
        return tuple(map(self._number, (low, high, int(code.zero_points))))

    def _computed(self, value: Value, node: Node, column: int) -> _Operand:
        op = node.op
        match op:
            case Split():
                self.is_flat = False
                start, _ = op.cuts[node.outputs.index(value)]
                return self.of(node.inputs[0], column + start)
            case Slice():
                self.is_flat = False
                ((_, start, _, _),) = op.cuts
                return self.of(node.inputs[0], column + start)
            case Sum():
                return self._sum(op, node, column)
            case Mul():
                return self._add("mul", *(self._steps(node, index, column) for index in (0, 1)))
            case Requantize():
                return self._requantized(op, node, column)
            case Quantize():
                inverse = self._number(int(op.to.inverse_scale.view(np.int32)), "f32")
                bounds = self._bounds(*op.to.range, value.type.affine)
                return self._add("quantize", self.of(node.inputs[0], column), inverse, *bounds)
            case Dequantize():
                (factor,) = node.inputs[0].type.affine.decoding_factors
                scale = self._entries(np.asarray(factor, np.float32), column)
                return self._add("dequantize", self._steps(node, 0, column), scale)
            case Lookup():
                return self._looked_up(node, column)
            case _:
                raise AssertionError(op)

    def _sum(self, op: Sum, node: Node, column: int) -> _Operand:
        x, y = (self._steps(node, index, column) for index in (0, 1))
        code = node.output.type.affine
        low, high, point = self._bounds(*code.range, code)
        if op.is_exact:
            name: Name = "clamped_sum" if op.sign > 0 else "clamped_difference"
            return self._add(name, x, y, low, high)
        factors, shift = op.factors(*(each.type for each in node.inputs))
        own, other, places = map(self._number, (*factors, shift))
        return self._add("shifted_sum", x, y, own, other, places, low, high, point)

    def _requantized(self, op: Requantize, node: Node, column: int) -> _Operand:
        form = requantize_form(node)
        assert form is not None
        x = self._steps(node, 0, column)
        bounds = self._bounds(*op.bounds, op.to)
        if isinstance(form, Float32):
            factor = self._entries(np.asarray(form.value, np.float32), column)
            return self._add("float_scaled", x, factor, *bounds)
        low, high = op.bounds
        point = int(op.to.zero_points)
        terms = _high_word(form, max(high - point, point - low))
        if terms is None:
            name: Name = "scaled"
            tables: Sequence[Array] = np.broadcast_arrays(form.value, form.shift)
        elif not np.any(terms[-1]):
            name, tables = "high_word", terms[:3]
        elif _reach(node.inputs[0]) << int(terms[-1].max()) <= INT32_MAX:
            name, tables = "lifted", [*terms[:3], terms[-1]]
        else:
            name, tables = "limited", terms
        factors = (self._entries(np.ascontiguousarray(each), column) for each in tables)
        return self._add(name, x, *factors, *bounds)

    def _looked_up(self, node: Node, column: int) -> _Operand:
        x, table = node.inputs
        stored = self._operand(node, 0, column)
        held = HELD[table.type.dtype]
        if x.type.dtype in BYTES and table.type.dtype in BYTES:
            return self._add("lookup", stored, at=self._table(table.array), held=held)
        mask = self._number(len(table.array) - 1)
        # The last entry is read as one of 32 bits.
        entries = np.pad(table.array, (0, 4))
        return self._add("long_lookup", stored, mask, at=self._table(entries), held=held)
