"""Integer forms of float ops whose operands and results have codes already: what Q/DQ means."""

from __future__ import annotations

from collections.abc import Container

from qir.analysis.properties import is_float_op
from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import Add, Const, Dequantize, Quantize, Return
from qir.ops.op import Op, infer
from qir.ops.rules import (
    Accumulate,
    ExactSum,
    FixedCode,
    KeepFloat,
    Normalize,
    Quotient,
    Rescale,
    RescaledRows,
    SameCode,
    Table,
)
from qir.passes.shared.divisors import too_coarse
from qir.passes.shared.forms import form_of
from qir.passes.shared.functions import elementwise_functions
from qir.passes.shared.given_biases import is_bias, stored_bias
from qir.passes.shared.plan import KeptFloat
from qir.passes.shared.recoding import recoded, requantized
from qir.passes.shared.stored_moves import check_bounds, check_exact, held, moved
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

    A value has an exact form where stored numbers mean just its numbers: what dequantize decodes,
    and what such numbers are moved to. It has a sum where an accumulator does. Each quantize is
    replaced by the integer form of what it rounds; the float ops that nothing reads then are
    dropped.

    Args:
        graph: A program with codes, which is changed.
        rounding: The rounding mode of requantizes; None for that of the source of each quantize.
        round_bias: Whether a bias may be rounded to the accumulator's steps.
        kept: The ops that a selector keeps in floating point.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        rounding: str | None = None,
        round_bias: bool = True,
        kept: Container[Node] = (),
    ) -> None:
        self.graph = graph
        self.rounding = rounding
        self.round_bias = round_bias
        self.kept = kept
        self.names = Inheritance(graph)
        self.functions, self._inside = elementwise_functions(graph, set())
        self.exact: dict[Value, Value] = {}
        self.sums: dict[Value, Value] = {}
        self.floats: dict[Value, Value] = {}
        self._forms: dict[tuple[Node, Code, str], tuple[Value, ...]] = {}
        self._recoded: dict[tuple[Value, Code, str], Value] = {}
        self._reasons: dict[Node, str] = {}
        self._made: list[Value] = []

    def run(self) -> None:
        """Lifts what can be lifted, and notes on what stays in floating point why."""
        for node in list(self.graph.nodes):
            match node.op:
                case Const() | Return():
                    continue
                case Dequantize():
                    self.exact[node.output] = node.inputs[0]
                case Quantize():
                    self._lift(node, node.op)
                case _ if any(value.type.is_float for value in node.inputs):
                    self._compute(node)
        self._erase_dead({*self.sums.values(), *self.exact.values(), *self.floats.values()})
        self._serve_floats()
        self._erase_dead()
        self._note()
        for form in self._made:
            form.named = True
        self.names.settle()

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
                self._reasons.pop(x.node, None)
                self._keep(x.node, reason)
        else:
            node.output.replace_with(form)

    def _compute(self, node: Node) -> None:
        """Gives the results of a float op the forms that need no quantize."""
        if node in self.kept:
            self._reasons[node] = "a selector keeps it in floating point"
            return
        try:
            match node.op.quant:
                case SameCode():
                    self._move(node)
                case Accumulate() as rule:
                    self.sums[node.output] = self._product(node, rule)
                case ExactSum():
                    self._sum(node)
                case RescaledRows():
                    self._rows(node)
                case Rescale() if isinstance(node.op, Add):
                    self._add_bias(node)
                case _:
                    return
        except (KeptFloat, QirError) as reason:
            self._keep(node, reason)

    def _keep(self, node: Node, reason: Exception) -> None:
        text = getattr(reason, "message", str(reason))
        if text:
            self._reasons.setdefault(node, text)

    def stored(self, value: Value) -> Value:
        """Returns the stored numbers that mean just the numbers of a value.

        Raises:
            KeptFloat: There are none; the message says why.
        """
        found = self.exact.get(value)
        if found is not None:
            return found
        if value.is_constant:
            raise KeptFloat(f"the constant %{value.name} has no code: quantize and dequantize it")
        raise KeptFloat(
            f"%{value.name} has no code: no quantize and dequantize stand between it and this op"
        )

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
        if value in self.exact:
            source = self.exact[value]
            key = (source, code, mode)
            if key not in self._recoded:
                assert value.node is not None
                builder = self.graph.before(value.node)
                found = recoded(source, code, mode, self.rounding_of(mode), builder)
                if found is not source and not found.is_constant:
                    self._form(value, "q", found)
                self._recoded[key] = found
            return self._recoded[key]
        if value in self.functions and self._is_table(value, code):
            raise KeptFloat("")
        node = value.node
        if node is None:
            raise KeptFloat("")
        if (node, code, mode) not in self._forms:
            self._forms[node, code, mode] = self._rounded(node, code, mode, depth)
        return self._forms[node, code, mode][value.index]

    def rounding_of(self, mode: str) -> str:
        """Returns the rounding mode of a requantize that stands for a quantize of a mode."""
        return self.rounding or ROUNDINGS.get(mode, "fixed31")

    def _is_table(self, value: Value, code: Code) -> bool:
        """Whether lookup-tables makes a table of the function of one code that a value is."""
        source = self.exact.get(self.functions[value])
        if source is None or source.type.quant is None:
            return False
        own = source.type.quant
        return own.storage.bits <= 16 and own.per_tensor and code.per_tensor

    def _rounded(self, node: Node, code: Code, mode: str, depth: int) -> tuple[Value, ...]:
        """Computes an op on codes such that its result has a code.

        Returns:
            The form of each result.
        """
        tried_again = isinstance(node.op.quant, SameCode | Rescale) and node not in self.kept
        if node in self._reasons and not tried_again:
            raise KeptFloat(self._reasons[node])
        if not isinstance(code, Affine):
            raise KeptFloat(f"a code of kind {code.kind} has no requantize")
        op, builder = node.op, self.graph.before(node)
        total = self.sums.get(node.outputs[0])
        if total is not None:
            return (self._emit(node, "q", requantized(total, code, self.rounding_of(mode)), total),)
        match op.quant:
            case SameCode():
                return self._moved(node, code, mode, depth)
            case KeepFloat(reason=reason):
                raise KeptFloat(reason)
            case Table(otherwise=reason):
                raise KeptFloat(reason or "it is no function of one tensor of at most 16 bits")
            case _:
                operands = self._operands(node, builder)
                try:
                    new = builder.emit(op.with_code(code), *operands)
                except QirError:
                    self._forget(builder)
                    raise
                return (self._form(node.output, "q", new),)

    def _emit(self, node: Node, suffix: str, op: Op, *operands: Value) -> Value:
        """Computes a form of a node's only result in front of it."""
        return self._form(node.output, suffix, self.graph.before(node).emit(op, *operands))

    def _form(self, old: Value, suffix: str, new: Value) -> Value:
        """Marks a new value as a form of an old one."""
        self._made.append(new)
        return form_of(old, suffix, new)

    def _operands(self, node: Node, builder: Builder) -> list[Value]:
        """Returns the operands of an op that gives its result a code of its own."""
        op, rule = node.op, node.op.quant
        if isinstance(rule, Quotient):
            return self._quotient_operands(node, rule)
        if isinstance(rule, Normalize):
            x, *parameters = node.inputs
            return [self.stored(x), *(self._constant(value, builder) for value in parameters)]
        operands = [self.stored(value) if value.type.is_float else value for value in node.inputs]
        if isinstance(rule, FixedCode):
            tables = op.integer_tables([operand.type for operand in operands])
            operands += [
                builder.const(array, f"{node.output.name}.{name}") for name, array in tables.items()
            ]
        return operands

    def _quotient_operands(self, node: Node, rule: Quotient) -> list[Value]:
        """Returns the operands of a quotient, whose divisor is never 0."""
        operands = [self.sums.get(value) or self.stored(value) for value in node.inputs]
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
        source = self.exact.get(value)
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
        check_bounds(op, code, mode)
        reasons: list[Exception] = []
        operands: list[Value] = []
        floats = [value for value in node.inputs if value.type.is_float]
        varying = [value for value in floats if not value.is_constant]
        for value in node.inputs:
            if value not in floats:
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
                    operands.append(self._form(value, "q", new))
        try:
            if len(reasons) == len(varying):
                raise reasons[0] if reasons else KeptFloat("all that it reads is constant")
            new = builder.emit_node(op, operands).outputs
            pairs = zip(node.outputs, new, strict=True)
            return tuple(self._form(old, "q", form) for old, form in pairs)
        except (KeptFloat, QirError):
            self._forget(builder)
            raise

    def _move(self, node: Node) -> None:
        """Computes an op that moves or compares numbers on stored ones, where that is all it does.

        Its results then mean just what they are in floating point.
        """
        floats = [value for value in node.inputs if value.type.is_float]
        codes = {self.exact[value].type.quant for value in floats if value in self.exact}
        if len(codes) != 1:
            raise KeptFloat(
                "its operands have different codes" if codes else self._why_plain(floats)
            )
        (code,) = codes
        assert code is not None
        builder = self.graph.before(node)
        operands = [
            value
            if value not in floats
            else held(value, code, builder)
            if value.is_constant
            else self.stored(value)
            for value in node.inputs
        ]
        check_exact(node.op, code)
        new = moved(node, operands, builder)
        for old, form in zip(node.outputs, new, strict=True):
            if old.type.is_float:
                self.exact[old] = form if form.is_constant else self._form(old, "q", form)
            else:
                old.replace_with(form)

    def _why_plain(self, floats: list[Value]) -> str:
        try:
            self.stored(next((value for value in floats if not value.is_constant), floats[0]))
        except KeptFloat as reason:
            return str(reason)
        return ""

    def _product(self, node: Node, rule: Accumulate, bias: Value | None = None) -> Value:
        """Returns the accumulator of a sum of products.

        Args:
            node: The op.
            rule: Its rule.
            bias: A bias that is added behind it, where it has none.
        """
        op, builder = node.op, self.graph.before(node)
        operands = [self.stored(node.inputs[rule.left]), self.stored(node.inputs[rule.right])]
        (accumulator,) = infer(op, [operand.type for operand in operands])
        if bias is None and len(node.inputs) > rule.bias:
            bias = node.inputs[rule.bias]
        if bias is not None:
            source = self.exact.get(bias)
            operands.append(
                stored_bias(bias, source, accumulator, operands, builder, may_round=self.round_bias)
            )
        try:
            return self._form(node.output, "acc", builder.emit(op, *operands))
        except QirError:
            self._forget(builder)
            raise

    def _sum(self, node: Node) -> None:
        """Records an exact sum; one whose divisor varies is rounded to its code at once."""
        operands = [self.stored(value) for value in node.inputs]
        if node.op.divisor([operand.type for operand in operands]) is not None:
            self.sums[node.output] = self._emit(node, "acc", node.op, *operands)

    def _rows(self, node: Node) -> None:
        """Takes rows from stored numbers, which leave as floating-point ones."""
        table, *rest = node.inputs
        self.floats[node.output] = self._emit(node, "real", node.op, self.stored(table), *rest)

    def _add_bias(self, node: Node) -> None:
        """Takes an addition of constants to a sum of products as its bias."""
        for x, bias in (node.inputs, node.inputs[::-1]):
            maker = x.node
            if x not in self.sums or maker is None or len(x.uses) != 1:
                continue
            rule, source = maker.op.quant, self.exact.get(bias, bias)
            if not isinstance(rule, Accumulate) or len(maker.inputs) > rule.bias:
                continue
            if source.is_constant and is_bias(source.type, x.type, node.output.type):
                self.sums[node.output] = self._product(maker, rule, bias)
                return

    def _forget(self, builder: Builder) -> None:
        """Takes back what was built for a conversion that failed."""
        for node in reversed(builder.emitted):
            if not any(value.uses for value in node.outputs):
                self.graph.erase(node)
        builder.emitted.clear()

    def _serve_floats(self) -> None:
        """Lets what computes in floating point read decoded accumulators and moved numbers."""
        sums = {
            old: total
            for old, total in self.sums.items()
            if old.op is not None and isinstance(old.op.quant, Accumulate | Rescale)
        }
        for old, form in (sums | self.exact).items():
            node = old.node
            if node is None or node.erased or not old.uses or isinstance(node.op, Dequantize):
                continue
            self.floats[old] = form_of(
                old, "real", self.graph.before(node).emit(Dequantize(), form)
            )
        for old, new in self.floats.items():
            if old.node is not None and not old.node.erased:
                old.replace_with(new)

    def _erase_dead(self, kept: Container[Value] = ()) -> None:
        for node in reversed(list(self.graph.nodes)):
            if node.outputs and not any(value.uses or value in kept for value in node.outputs):
                self.graph.erase(node)

    def _note(self) -> None:
        """Says of what stays in floating point why."""
        for node in self.graph.nodes:
            if isinstance(node.op.quant, KeepFloat) or not is_float_op(node):
                continue
            if node in self._reasons:
                node.note = self._reasons[node]
            elif node.outputs and not self._is_left_to_tables(node):
                node.note = node.note or self._why_float(node)

    def _is_left_to_tables(self, node: Node) -> bool:
        (value, *_) = node.outputs
        return value in self._inside or (
            value in self.functions
            and bool(value.uses)
            and all(isinstance(user.op, Quantize) for user in value.users)
            and self.functions[value] in self.exact
        )

    def _why_float(self, node: Node) -> str:
        for value in node.inputs:
            if value.type.is_float and not value.is_constant and value not in self.exact:
                return f"%{value.name} has no code where it is read"
        return "no quantize reads its result"
