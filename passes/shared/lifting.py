"""Integer forms of float ops whose operands and results have codes already: what Q/DQ means."""

from __future__ import annotations

from collections.abc import Container

from qir.analysis.properties import is_float_op
from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import Const, Dequantize, Quantize, Return
from qir.ops.regions import RegionOp
from qir.ops.rules import (
    FixedCode,
    KeepFloat,
    Normalize,
    Quotient,
    Rescale,
    SameCode,
    Table,
)
from qir.passes.shared.divisors import too_coarse
from qir.passes.shared.exact_forms import ExactForms
from qir.passes.shared.functions import elementwise_functions
from qir.passes.shared.kept import KEPT
from qir.passes.shared.multiples import multiple_of_sum, rounded_multiple
from qir.passes.shared.plan import KeptFloat
from qir.passes.shared.recoding import recoded, requantized
from qir.passes.shared.stored_moves import check_bounds, check_code, keeps_code
from qir.targets import Target
from qir.types import Affine, Code

ROUNDINGS = {
    "reciprocal": "fixed31",
    "divide": "f32_rne",
    "half_away": "tflite_double",
    "zero_point_first": "f32_rne",
}
"""The rounding of requantizes that the source of a mode of quantize has: QIR's own; ONNX Runtime;
TFLite's reference kernels; PyTorch's quantized kernels."""

LONGEST_MOVE = 64
"""Ops that a code is brought back through at most, from a quantize to what it rounds."""


class Lifting:
    """One run over one graph, in order.

    Each quantize is replaced by the integer form of what it rounds; the float ops that nothing
    reads then are dropped.

    Args:
        graph: A program with codes, which is changed.
        rounding: The rounding mode of requantizes; None for that of the source of each quantize.
        round_bias: Whether a bias may be rounded to the accumulator's steps.
        kept: The ops that a selector keeps in floating point.
        target: The runtime that the program is for: where it lacks the mode of a source, its own
            first one takes the place.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        rounding: str | None = None,
        round_bias: bool = True,
        kept: Container[Node] = (),
        target: Target | None = None,
    ) -> None:
        self.graph = graph
        self.target = target
        self.rounding = rounding
        self.round_bias = round_bias
        self.kept = kept
        self.names = Inheritance(graph)
        self.exact = ExactForms(graph, round_bias=round_bias)
        self.functions, self._inside = elementwise_functions(graph, set())
        self._forms: dict[tuple[Node, Code, str], tuple[Value, ...]] = {}
        self._recoded: dict[tuple[Value, Code, str], Value] = {}
        self._reasons: dict[Node, str] = {}

    def run(self) -> None:
        """Lifts what can be lifted, and notes on what stays in floating point why."""
        for node in list(self.graph.nodes):
            match node.op:
                case Const() | Return():
                    continue
                case Dequantize():
                    self.exact.stored[node.output] = node.inputs[0]
                case Quantize():
                    self._lift(node, node.op)
                case RegionOp():
                    self._lift_inside(node)
                case _:
                    if any(value.type.is_float for value in node.inputs):
                        self._compute(node)
        self.exact.finish()
        self._note()
        self.names.settle()

    def _lift_inside(self, node: Node) -> None:
        for region in node.regions:
            Lifting(
                region,
                rounding=self.rounding,
                round_bias=self.round_bias,
                kept=self.kept,
                target=self.target,
            ).run()

    def _lift(self, node: Node, op: Quantize) -> None:
        """Replaces a quantize by the integer form of what it rounds."""
        (x,) = node.inputs
        if x.is_constant:
            builder = self.graph.before(node)
            node.output.replace_with(builder.const(op.encode(x.array), None, op.to))
            return
        try:
            form = self.coded(x, op.to, op.rounding)
        except (KeptFloat, QirError) as reason:
            if x.node is not None:
                self._reasons[x.node] = _text(reason)
        else:
            node.output.replace_with(form)

    def _compute(self, node: Node) -> None:
        """Gives the results of a float op the forms that need no quantize."""
        if node in self.kept:
            self._reasons[node] = KEPT
            return
        try:
            self.exact.compute(node)
        except (KeptFloat, QirError) as reason:
            self._reasons[node] = _text(reason)

    def coded(self, value: Value, code: Code, mode: str, depth: int = 0) -> Value:
        """Returns what a quantize makes of a value, computed on integers.

        Args:
            value: A value in floating point.
            code: The code of the quantize.
            mode: Its rounding mode.
            depth: Ops that the code was brought back through.

        Raises:
            KeptFloat: It can't be; the message says why, or is empty where a table will.
            QirError: An op refuses the codes.
        """
        if value in self.exact.stored:
            return self._recode(value, code, mode)
        node = value.node
        if node is None or (value in self.functions and self._is_table(value, code)):
            raise KeptFloat("")
        if (node, code, mode) not in self._forms:
            self._forms[node, code, mode] = self._rounded(node, code, mode, depth)
        return self._forms[node, code, mode][value.index]

    def _recode(self, value: Value, code: Code, mode: str) -> Value:
        source = self.exact.stored[value]
        key = (source, code, mode)
        if key not in self._recoded:
            assert value.node is not None
            builder = self.graph.before(value.node)
            found = recoded(source, code, mode, self.rounding_of(mode), builder)
            if found is not source and not found.is_constant:
                self.exact.form(value, "q", found)
            self._recoded[key] = found
        return self._recoded[key]

    def rounding_of(self, mode: str) -> str:
        """Returns the rounding mode of a requantize that stands for a quantize of a mode.

        Raises:
            KeptFloat: Nobody has said how the source of the mode rounds sums.
        """
        if self.rounding is not None:
            return self.rounding
        found = ROUNDINGS.get(mode)
        if found is None:
            raise KeptFloat(
                f"how a source whose quantize rounds by {mode} rounds sums is not known; "
                "lift-qdq(rounding=fixed31) lifts it"
            )
        accepted = None if self.target is None else self.target.roundings
        return found if accepted is None or found in accepted else accepted[0]

    def _is_table(self, value: Value, code: Code) -> bool:
        """Whether lookup-tables makes a table of the function of one code that a value is."""
        source = self.exact.stored.get(self.functions[value])
        if source is None or source.type.quant is None:
            return False
        own = source.type.quant
        return own.storage.bits <= 16 and own.per_tensor and code.per_tensor

    def _rounded(self, node: Node, code: Code, mode: str, depth: int) -> tuple[Value, ...]:
        """Computes an op on codes such that its result has a code.

        Returns:
            The form of each result.
        """
        if node in self.kept:
            raise KeptFloat(self._reasons[node])
        if not isinstance(code, Affine):
            raise KeptFloat(f"a code of kind {code.kind} has no requantize")
        op, rule, builder = node.op, node.op.quant, self.graph.before(node)
        multiple = multiple_of_sum(node.outputs[0], self.exact.sums)
        if multiple is not None and keeps_code(multiple.moves, multiple.source.type, code):
            total, rounding = self.exact.sums[multiple.source], self.rounding_of(mode)
            new = rounded_multiple(
                multiple, total, code, lambda to: requantized(total, to, rounding), builder
            )
            return (self.exact.form(node.output, "q", new),)
        if isinstance(rule, SameCode):
            return self._moved(node, code, mode, depth)
        if node in self._reasons and not isinstance(rule, Rescale):
            raise KeptFloat(self._reasons[node])
        if isinstance(rule, KeepFloat):
            raise KeptFloat(rule.reason)
        if isinstance(rule, Table):
            raise KeptFloat(rule.otherwise or "it is no function of one tensor of at most 16 bits")
        operands = self._operands(node, builder)
        try:
            new = builder.emit(op.with_code(code), *operands)
        except QirError:
            self.exact.forget(builder)
            raise
        return (self.exact.form(node.output, "q", new),)

    def _operands(self, node: Node, builder: Builder) -> list[Value]:
        """Returns the operands of an op that gives its result a code of its own."""
        op, rule, of = node.op, node.op.quant, self.exact.of
        if isinstance(rule, Quotient):
            return self._quotient_operands(node, rule)
        if isinstance(rule, Normalize):
            x, *parameters = node.inputs
            return [of(x), *(self._constant(value, builder) for value in parameters)]
        operands = [of(value) if value.type.is_float else value for value in node.inputs]
        if isinstance(rule, FixedCode):
            tables = op.integer_tables([operand.type for operand in operands])
            operands += [
                builder.const(array, f"{node.output.name}.{name}") for name, array in tables.items()
            ]
        return operands

    def _quotient_operands(self, node: Node, rule: Quotient) -> list[Value]:
        """Returns the operands of a quotient, whose divisor is never 0."""
        sums = self.exact.sums
        operands = [sums.get(value) or self.exact.of(value) for value in node.inputs]
        divisor, code = node.inputs[1], operands[1].type.code
        if not code.holds_zero:
            return operands
        if divisor.range is None or not isinstance(code, Affine) or not code.per_tensor:
            raise KeptFloat(
                f"the code of the divisor %{divisor.name} holds 0, by which integers divide "
                "otherwise than floats, and no range says how near to 0 it comes"
            )
        if (reason := too_coarse(divisor, code, rule)) is not None:
            raise KeptFloat(reason)
        return operands

    def _constant(self, value: Value, builder: Builder) -> Value:
        """Returns a constant in floating point."""
        if value.is_constant:
            return value
        source = self.exact.stored.get(value)
        if source is None or not source.is_constant:
            raise KeptFloat(f"%{value.name} is not a constant")
        return builder.const(source.real, f"{source.name}.real", value.type.dtype)

    def _moved(self, node: Node, code: Affine, mode: str, depth: int) -> tuple[Value, ...]:
        """Rounds the operands of an op that moves or compares numbers, and computes it on them.

        Rounding is monotone, so that it may come first.
        """
        if depth >= LONGEST_MOVE:
            raise KeptFloat(f"more than {LONGEST_MOVE} ops stand between it and its quantize")
        op, builder = node.op, self.graph.before(node)
        check_code(node, code)
        check_bounds(op, code, mode)
        reasons: list[Exception] = []
        operands: list[Value] = []
        for value in node.inputs:
            if not value.type.is_float:
                operands.append(value)
            elif value.is_constant:
                array = Quantize(code, mode).encode(value.array)
                operands.append(builder.const(array, value.name, code))
            else:
                try:
                    operands.append(self.coded(value, code, mode, depth + 1))
                except (KeptFloat, QirError) as reason:
                    reasons.append(reason)
                    new = builder.emit(Quantize(code, mode), value)
                    operands.append(self.exact.form(value, "q", new))
        varying = [value for value in node.inputs if value.type.is_float and not value.is_constant]
        try:
            if len(reasons) == len(varying):
                raise reasons[0] if reasons else KeptFloat("all that it reads is constant")
            pairs = zip(node.outputs, builder.emit_node(op, operands).outputs, strict=True)
        except (KeptFloat, QirError):
            self.exact.forget(builder)
            raise
        return tuple(self.exact.form(old, "q", new) for old, new in pairs)

    def _note(self) -> None:
        """Says of what stays in floating point why."""
        for node in self.graph.nodes:
            if isinstance(node.op.quant, KeepFloat) or not is_float_op(node):
                continue
            if reason := self._reasons.get(node):
                node.note = reason
            elif node.outputs and not self._is_left_to_tables(node.outputs[0]):
                node.note = node.note or self._why_float(node)

    def _is_left_to_tables(self, value: Value) -> bool:
        if value in self._inside:
            return True
        is_function = self.functions.get(value) in self.exact.stored and bool(value.uses)
        return is_function and all(isinstance(user.op, Quantize) for user in value.users)

    def _why_float(self, node: Node) -> str:
        for value in node.inputs:
            if value.type.is_float and not value.is_constant and value not in self.exact.stored:
                return f"%{value.name} has no code where it is read"
        return "no quantize reads its result"


def _text(reason: Exception) -> str:
    return getattr(reason, "message", str(reason))
