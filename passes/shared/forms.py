"""The forms that the values of a float program have while it is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import Dequantize, Dot, Quantize, Requantize
from qir.ops.attributes import attribute_fields
from qir.ops.op import Op, OpT, infer
from qir.ops.rules import ExactSum, SameCode
from qir.ops.softmax import Exponentials
from qir.ops.sums import rounded
from qir.passes.shared.codes import fine_code, score_code
from qir.passes.shared.domains import Domains
from qir.passes.shared.moved_constants import quantized
from qir.passes.shared.multiples import multiple_of_sum, rounded_multiple
from qir.passes.shared.plan import CodePlan, KeptFloat, expressed_type
from qir.passes.shared.wide import WIDE_BITS, short_code
from qir.types import Affine, Code, DType, TensorType


class Forms:
    """The forms of values: in floating point, as an exact sum, as rows of a table, and in codes.

    Args:
        graph: The program.
        plan: The codes that values get.
        rounding: The rounding mode of requantizes.

    Attributes:
        sums: The exact sum that stands for a value.
        rows: The rows of a coded table that stand for a value.
        coded: A value in a code.
        main: The code that a value has where nothing else is asked for.
        floats: A value in floating point, made of another form.
        constants: A constant in a code.
    """

    def __init__(self, graph: Graph, plan: CodePlan, rounding: str) -> None:
        self.graph = graph
        self.plan = plan
        self.rounding = rounding
        modes = plan.target.quantize_modes if plan.target is not None else None
        self._quantize_mode = modes[0] if modes else "reciprocal"
        self.names = Inheritance(graph)
        self.sums: dict[Value, Value] = {}
        self.rows: dict[Value, Value] = {}
        self.coded: dict[tuple[Value, Affine], Value] = {}
        self.main: dict[Value, Affine] = {}
        self.floats: dict[Value, Value] = {}
        self._decoded: set[Value] = set()
        self._taken: list[Value] = []
        self._stand_ins: dict[Value, Value] = {}
        self._domains = Domains()
        self.constants: dict[tuple[Value, Code], Value] = {}

    def give(self, old: Value, new: Value) -> None:
        """Records the coded form of a value."""
        if new.type.quant is None:
            # An index or a mask is the same in both programs.
            old.replace_with(new)
            return
        code = new.type.affine
        if code.storage in (DType.I32, DType.I64):
            self.give_sum(old, new)
            return
        self.coded[old, code], self.main[old] = form_of(old, "q", new), code

    def take(self, value: Value, code: Affine) -> None:
        """Lets a value that no op of this graph computes be stored numbers of a code."""
        value.type = value.type.with_element(code)
        self.coded[value, code], self.main[value] = value, code
        self._taken.append(value)

    def take_decoded(self, node: Node) -> None:
        """Records that what a dequantize gives is in a code already."""
        coded, real = node.inputs[0], node.output
        if not isinstance(code := coded.type.quant, Affine):
            return
        self.floats[real] = real
        self._decoded.add(real)
        if code.storage.bits > 16:
            self.sums[real] = coded
        else:
            self.coded[real, code], self.main[real] = coded, code

    def take_quantized(self, node: Node, to: Code, builder: Builder) -> None:
        """Replaces a quantize of what has become integers."""
        (x,) = node.inputs
        if isinstance(to, Affine) and (x in self.main or x in self.sums or x in self.rows):
            node.output.replace_with(self.code(x, builder, to))

    def alias(self, old: Value, new: Value) -> None:
        """Lets a value of the float program stand for another one, in every form."""
        self._stand_ins[new] = old
        if old in self.sums:
            self.sums[new] = self.sums[old]
        for (value, code), form in list(self.coded.items()):
            if value is old:
                self.coded[new, code] = form
        if old in self.rows:
            self.rows[new] = self.floats[new] = self.rows[old]
        if old in self.main:
            self.main[new] = self.main[old]
        elif old not in self.sums and old not in self.rows:
            del self._stand_ins[new]
            raise KeptFloat("what it adds to stays in floating point")

    def forget(self, node: Node) -> None:
        """Takes back a node of a conversion that failed, unless another one reads it already."""
        if any(value.uses for value in node.outputs):
            return
        for forms in (self.sums, self.rows, self.floats):
            for key in [key for key, form in forms.items() if form in node.outputs]:
                del forms[key]
        for value, code in [key for key, form in self.coded.items() if form in node.outputs]:
            del self.coded[value, code]
            if self.main.get(value) == code:
                del self.main[value]
        for constant in [key for key, form in self.constants.items() if form in node.outputs]:
            del self.constants[constant]
        self.graph.erase(node)

    def give_sum(self, old: Value, new: Value) -> None:
        """Records the exact sum that stands for a value."""
        self.sums[old] = form_of(old, "acc", new)

    def give_rows(self, old: Value, new: Value) -> None:
        """Records the rows of a coded table that stand for a value."""
        self.rows[old] = self.floats[old] = form_of(old, "real", new)

    def code(self, value: Value, builder: Builder, code: Affine | None = None) -> Value:
        """Returns a value in a code: the given one, its own, or the one that its range asks for."""
        own = self.main.get(value)
        if value.is_constant:
            return self.constant(value, code or self.plan.code_for(value), builder)
        wanted = code or own or self.plan.code_for(value)
        if (value, wanted) not in self.coded:
            if value in self.rows and self._rounds_rows:
                rows = self.rows[value]
                assert rows.op is not None
                new = builder.emit(rows.op.with_code(wanted), *rows.inputs)
            elif value in self.sums and wanted == self.plan.equal.get(value, wanted):
                total = self.sums[value]
                new = builder.emit(self.requantize(total, wanted, self.rounding), total)
            elif value in self.plan.equal or own is not None:
                before = self.code(value, builder, self.plan.equal.get(value))
                new = builder.emit(Requantize(wanted, self.rounding), before)
            else:
                source = self.rows.get(value, value)
                new = quantized(source, self.quantize(wanted), builder, self.constant)
            self.coded[value, wanted] = form_of(value, "q", new)
        if code is None:
            self.main[value] = wanted
        return self.coded[value, wanted]

    def wide_form(self, value: Value, code: Affine, builder: Builder) -> Value:
        """Returns a value in a wide code: from its sum, or from the finest that there is of it."""
        if value.is_constant:
            return self.constant(value, code, builder)
        if value in self.rows:
            return self.code(value, builder, code)
        total = self.sums.get(value)
        if total is not None and total.type.quant is not None:
            own = total.type.affine
            if own.bounds is not None and own.scale == code.scale:
                return total
        if (found := self.from_sum(value, code, builder, "fixed31")) is not None:
            return found
        if (value, code) not in self.coded:
            source = self.finest(value, builder)
            new = builder.emit(self.requantize(source, code, "fixed31"), source)
            self.coded[value, code] = form_of(value, "wide", new)
        return self.coded[value, code]

    def finest(self, value: Value, builder: Builder) -> Value:
        """Returns a value that is no sum in its own code, or in 16 bits where it is computed so."""
        if value.range is None or value in self.plan.narrow:
            return self.code(value, builder)
        short = short_code(value.range, expressed_type(value.type))
        if not self.plan.accepts(short):
            return self.code(value, builder)
        return self._from_float(value, short, builder) or self.code(value, builder)

    def _from_float(self, value: Value, code: Affine, builder: Builder) -> Value | None:
        """Returns a value that is no sum in a code, if it is computed in floating point."""
        if value in self.rows:
            return self.code(value, builder, code)
        if value in self._decoded or value in self.sums or value in self.plan.narrow:
            return None  # The program rounds it to its code, or it is an exact sum.
        own = self.main.get(value)
        form = None if own is None else self.coded[value, own]
        if form is not None and not isinstance(form.op, Quantize):
            return None
        # A value that stands for another one is no other than that one.
        source = value if form is None else form.inputs[0]
        if source in self.plan.cones:
            return None
        if (value, code) not in self.coded:
            new = quantized(source, self.quantize(code), builder, self.constant)
            self.coded[value, code] = form_of(value, "q", new)
        return self.coded[value, code]

    def from_sum(
        self, value: Value, code: Affine, builder: Builder, rounding: str | None = None
    ) -> Value | None:
        """Returns a value in a code straight from the exact sum that it is a multiple of.

        The factor goes into the scale of the rounding, moves act on what is rounded.
        """
        multiple = multiple_of_sum(value, self.sums, self.plan.narrow)
        if multiple is None or multiple.source in self.plan.equal:
            return None
        if (value, code) not in self.coded:
            total = self.sums[multiple.source]

            def requantize(to: Affine) -> Requantize:
                target = self.plan.target
                if target is not None and (broken := target.broken_by_activation(to)):
                    raise QirError(f"{broken.rule}: expected {broken.expected}, got {to}")
                return self.requantize(total, to, rounding or self.rounding)

            try:
                new = rounded_multiple(multiple, total, code, requantize, builder)
            except QirError:
                return None
            self.coded[value, code] = form_of(value, "q", new)
        return self.coded[value, code]

    def requantize(self, total: Value, to: Affine, rounding: str) -> Requantize:
        """Returns what rounds a sum to a code; raises QirError as `qir.ops.sums.rounded`."""
        op = total.op
        if op is not None and isinstance(op.quant, ExactSum):
            return rounded(op, [operand.type for operand in total.inputs], to, rounding)
        found = Requantize(to, rounding)
        found.factors(total.type)
        return found

    def quantize(self, code: Affine) -> Quantize:
        """Returns the cast from floating point to a code, in the mode of the target."""
        return Quantize(code, self._quantize_mode)

    def with_code(self, op: OpT, code: Affine) -> OpT:
        """Returns an op with a code for its result; it rounds as the target does."""
        coded = op.with_code(code)
        if self.plan.target is None or self.plan.target.roundings is None:
            return coded
        if "rounding" not in (spec.name for spec in attribute_fields(type(op))):
            return coded
        return replace(coded, **{"rounding": self.rounding})

    @property
    def _rounds_rows(self) -> bool:
        """Whether rows of a table are rounded to a code as they are looked up, which is fixed31."""
        target = self.plan.target
        return target is None or target.roundings is None or "fixed31" in target.roundings

    def real(self, value: Value, builder: Builder) -> Value:
        """Returns a value in floating point; an exact sum straight from the accumulator."""
        value = self._stand_ins.get(value, value)
        if value in self.rows:
            return self.rows[value]
        coded = self.sums.get(value) or (
            self.coded[value, self.main[value]] if value in self.main else None
        )
        computed_in_float = (
            value in self.main and isinstance(coded, Value) and isinstance(coded.op, Quantize)
        )
        if (
            coded is None
            or value.is_constant
            or (computed_in_float and value not in self.plan.cones)
        ):
            return value
        if value not in self.floats:
            self.floats[value] = form_of(value, "real", builder.emit(Dequantize(), coded))
        return self.floats[value]

    def constant(self, value: Value, code: Code, builder: Builder) -> Value:
        if (value, code) not in self.constants:
            self.constants[value, code] = builder.const(code.encode(value.array), value.name, code)
        return self.constants[value, code]

    def moved_sum(self, node: Node, builder: Builder) -> Sequence[Value] | None:
        """Moves the numbers of a sum; None where its code can't follow them."""
        operands = [self.sums[node.inputs[0]], *node.inputs[1:]]
        try:
            infer(node.op, [operand.type for operand in operands])
        except QirError:
            return None
        return builder.emit_node(node.op, operands).outputs

    def is_real(self, value: Value) -> bool:
        """Whether a value of the float program is a floating-point number."""
        return value.type.is_float or value in self.main

    def is_activation(self, value: Value) -> bool:
        """Whether a value of the float program is a floating-point number that data decides."""
        return self.is_real(value) and not value.is_constant

    def hand_over(self, old: Value) -> None:
        """Lets the form that stands for a value most directly take over its name."""
        code, new = self.main.get(old), self.floats.get(old)
        if code is not None and new not in self.graph.outputs:
            new = self.coded[old, code]
        if new is not None and new.owner is self.graph:
            old.replace_with(new)

    def tidy(self) -> None:
        """Erases what nothing reads any more; coded constants get the names of the float ones."""
        for value in self._taken:
            # What was observed stays, for what is told of an input that never varied.
            value.range = None
            if (real := self.floats.get(value)) and value.node and real in self.graph.outputs:
                name = value.name
                self.graph.name_after(value, f"{name}.q")
                self.graph.rename(real, name)
        for forms in (self.coded, self.sums, self.floats):
            for form in forms.values():
                form.named = True
        # What has been replaced may stand behind what it reads now: once through is not enough.
        while sum(map(self._erase_if_dead, reversed(list(self.graph.nodes)))):
            continue
        coded = [value for value in self.constants.values() if value.node and not value.node.erased]
        self.names.settle(coded)

    def _erase_if_dead(self, node: Node) -> bool:
        is_dead = bool(node.outputs) and not any(value.uses for value in node.outputs)
        if is_dead:
            self.graph.erase(node)
        return is_dead

    def alike(self, values: Sequence[Value], builder: Builder) -> list[Value]:
        """Codes operands that must have one code without rounding any of them a second time."""
        first = next(value for value in values if self.is_activation(value))
        code = self.code(first, builder).type.affine
        operands = []
        for value in values:
            operand = value
            if value.is_constant and value.type.is_float:
                if not np.array_equal(code.decode(code.encode(value.array)), value.array):
                    raise KeptFloat(
                        f"the code of %{first.name} does not hold the numbers of %{value.name}"
                    )
                operand = self.constant(value, code, builder)
            elif self.is_real(value):
                operand = self.code(value, builder)
                if operand.type.quant != code:
                    raise KeptFloat(f"%{first.name} and %{value.name} have different codes")
            operands.append(operand)
        return operands

    def norm_operand(self, op: Op, x: Value, builder: Builder) -> Value:
        """Returns the operand of a norm: a sum in a wide code, or the finest form there is.

        Rows and channels of very different size then keep bits of their own, which the norm brings
        to one size. A statistic of more numbers than 32 bits can sum gets fewer bits of each.
        """
        if self.plan.target is not None and not self.plan.target.has_wide_sums:
            return self.code(x, builder)
        if x not in self.sums and x not in self.rows:
            return self.finest(x, builder)
        for bits in (WIDE_BITS, WIDE_BITS - 2, WIDE_BITS - 4):
            wide = self.plan.wide_code(x, bits)
            with suppress(QirError):
                infer(op, [x.type.with_element(wide)])
                return self.wide_form(x, wide, builder)
        return self.code(x, builder)

    def scores(self, value: Value, op: Op, builder: Builder) -> Value:
        """Returns a value in its code; scores of softmax in 12 bits or 16, from a sum or a float.

        A step of scores is a relative error of the shares, which 8 bits of peaked scores show.
        """
        narrow = self.plan.one_width and not self.plan.is_fine
        if (
            isinstance(op, Exponentials)
            and not (narrow or value in self.plan.narrow)
            and value.range is not None
            and value.range.is_finite
        ):
            storage = self.plan.fine_storage(value)
            code = score_code(value.range, storage, expressed=expressed_type(value.type))
            if not self.plan.accepts(code):
                return self.code(value, builder)
            found = self.from_sum(value, code, builder)
            if found is not None:
                return found
            found = self._from_float(value, code, builder)
            if found is not None:
                return found
        return self.code(value, builder)

    def factors(self, values: Sequence[Value], builder: Builder) -> list[Value]:
        """Returns the operands of a product element by element: in 12 bits from sums of dots.

        So what gates, and positions that turn heads, round only their product to 8 bits.
        """
        wanted = any(self._is_from_dot(value) or self._is_fine(value) for value in values)
        if self.plan.one_width or not wanted:
            return [self.code(value, builder) for value in values]
        return [
            self.code(
                value,
                builder,
                fine_code(self.plan.range_of(value), expressed=expressed_type(value.type)),
            )
            if value.is_constant or (self._is_from_dot(value) and not self.plan.is_chosen(value))
            else self.code(value, builder)
            for value in values
        ]

    def _is_fine(self, value: Value) -> bool:
        """Whether a value's own code has more than 8 bits."""
        return value in self.main and self.main[value].storage.bits > 8

    def _is_from_dot(self, value: Value) -> bool:
        total = self.sums.get(value)
        while total is not None and total.op is not None and isinstance(total.op.quant, SameCode):
            total = total.inputs[0]
        return total is not None and isinstance(total.op, Dot)

    def rounded(self, op: Op, operands: Sequence[TensorType], to: Affine) -> Requantize:
        """Returns the requantize of a sum in the wanted rounding; raises QirError as `rounded`."""
        return rounded(op, operands, to, self.rounding)

    def leave_float(self, node: Node, builder: Builder) -> None:
        """Makes a node of floating point read such numbers, in the domain of its op."""
        for index, value in enumerate(node.inputs):
            real = self.real(value, builder)
            if real is value:
                operand = self._domains.computed(node.op, index, value, builder)
            else:
                operand = self._domains.decoded(node.op, index, value, real, builder)
            node.set_input(index, operand)
        self._domains.record(node)


def form_of(value: Value, suffix: str, new: Value) -> Value:
    """Marks a new value as a form of an imported one; `hand_over` gives one form the plain name."""
    new.origins = value.origins
    new.owner.name_after(new, f"{value.name}.{suffix}")
    return new
