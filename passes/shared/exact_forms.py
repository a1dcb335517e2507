"""Stored numbers and exact sums that mean just what values of floats do, without any rounding."""

from __future__ import annotations

from collections.abc import Container

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ops import Add, Dequantize
from qir.ops.op import Op, infer
from qir.ops.rules import Accumulate, ExactSum, Rescale, RescaledRows, SameCode
from qir.passes.shared.forms import form_of
from qir.passes.shared.given_biases import is_bias, stored_bias
from qir.passes.shared.plan import KeptFloat
from qir.passes.shared.stored_moves import check_exact, held, moved
from qir.types import Code


class ExactForms:
    """The forms of values that follow from what dequantize decodes.

    Args:
        graph: The program.
        round_bias: Whether a bias may be rounded to the accumulator's steps.

    Attributes:
        stored: Stored numbers that mean just the numbers of a value: what dequantize decodes, and
            what such numbers are moved to.
        sums: The accumulator that means just the numbers of a value.
        floats: A value in floating point that is made of one of these.
    """

    def __init__(self, graph: Graph, *, round_bias: bool) -> None:
        self.graph = graph
        self.round_bias = round_bias
        self.stored: dict[Value, Value] = {}
        self.sums: dict[Value, Value] = {}
        self.floats: dict[Value, Value] = {}
        self._made: list[Value] = []

    def of(self, value: Value) -> Value:
        """Returns the stored numbers of a value; raises KeptFloat, saying why there are none."""
        found = self.stored.get(value)
        if found is not None:
            return found
        if value.is_constant:
            raise KeptFloat(f"the constant %{value.name} has no code: quantize and dequantize it")
        raise KeptFloat(
            f"%{value.name} has no code: no quantize and dequantize stand between it and this op"
        )

    def compute(self, node: Node) -> None:
        """Gives the results of a float op their forms, where its operands have some.

        Raises:
            KeptFloat: They have none; the message says why.
            QirError: The op refuses their codes.
        """
        match node.op.quant:
            case SameCode():
                self._move(node)
            case Accumulate() as rule:
                self.sums[node.output] = self._product(node, rule)
            case ExactSum():
                self._sum(node)
            case RescaledRows():
                table, *rest = node.inputs
                self.floats[node.output] = self.emit(node, "real", node.op, self.of(table), *rest)
            case Rescale() if isinstance(node.op, Add):
                self._add_bias(node)
            case _:
                return

    def emit(self, node: Node, suffix: str, op: Op, *operands: Value) -> Value:
        """Computes a form of a node's only result in front of it."""
        return self.form(node.output, suffix, self.graph.before(node).emit(op, *operands))

    def form(self, old: Value, suffix: str, new: Value) -> Value:
        """Marks a new value as a form of an old one."""
        self._made.append(new)
        return form_of(old, suffix, new)

    def forget(self, builder: Builder) -> None:
        """Takes back what was built for a conversion that failed."""
        for node in reversed(builder.emitted):
            if not any(value.uses for value in node.outputs):
                self.graph.erase(node)
        builder.emitted.clear()

    def finish(self) -> None:
        """Lets what computes in floating point read decoded forms; drops what is not read."""
        self._erase_dead({*self.sums.values(), *self.stored.values(), *self.floats.values()})
        products = {
            old: total
            for old, total in self.sums.items()
            if old.op is not None and isinstance(old.op.quant, Accumulate | Rescale)
        }
        for old, form in (products | self.stored).items():
            node = old.node
            if node is None or node.erased or not old.uses or isinstance(node.op, Dequantize):
                continue
            real = self.graph.before(node).emit(Dequantize(), form)
            self.floats[old] = self.form(old, "real", real)
        for old, new in self.floats.items():
            if old.node is not None and not old.node.erased:
                old.replace_with(new)
        self._erase_dead()
        for made in self._made:
            made.named = True

    def _move(self, node: Node) -> None:
        """Computes an op that moves or compares numbers on stored ones, where that is all it does.

        Its results then mean just what they are in floating point.
        """
        floats = [value for value in node.inputs if value.type.is_float]
        codes = {self.stored[value].type.code for value in floats if value in self.stored}
        if len(codes) > 1:
            raise KeptFloat("its operands have different codes")
        if not codes:
            self.of(next((value for value in floats if not value.is_constant), floats[0]))
        (code,) = codes
        builder = self.graph.before(node)
        operands = [
            self._operand(value, code, builder) if value in floats else value
            for value in node.inputs
        ]
        check_exact(node.op, code)
        for old, form in zip(node.outputs, moved(node, operands, builder), strict=True):
            if old.type.is_float:
                self.stored[old] = form if form.is_constant else self.form(old, "q", form)
            else:
                old.replace_with(form)

    def _operand(self, value: Value, code: Code, builder: Builder) -> Value:
        return held(value, code, builder) if value.is_constant else self.of(value)

    def _product(self, node: Node, rule: Accumulate, bias: Value | None = None) -> Value:
        """Returns the accumulator of a sum of products.

        Args:
            node: The op.
            rule: Its rule.
            bias: A bias that is added behind it, where it has none.
        """
        op, builder = node.op, self.graph.before(node)
        operands = [self.of(node.inputs[rule.left]), self.of(node.inputs[rule.right])]
        (accumulator,) = infer(op, [operand.type for operand in operands])
        if bias is None and len(node.inputs) > rule.bias:
            bias = node.inputs[rule.bias]
        if bias is not None:
            source = self.stored.get(bias)
            operands.append(
                stored_bias(bias, source, accumulator, operands, builder, may_round=self.round_bias)
            )
        try:
            return self.form(node.output, "acc", builder.emit(op, *operands))
        except QirError:
            self.forget(builder)
            raise

    def _sum(self, node: Node) -> None:
        """Records an exact sum; one whose divisor varies is rounded to its code at once."""
        operands = [self.of(value) for value in node.inputs]
        if node.op.divisor([operand.type for operand in operands]) is not None:
            self.sums[node.output] = self.emit(node, "acc", node.op, *operands)

    def _add_bias(self, node: Node) -> None:
        """Takes an addition of constants to a sum of products as its bias."""
        for x, bias in (node.inputs, node.inputs[::-1]):
            maker = x.node
            if x not in self.sums or maker is None or len(x.uses) != 1:
                continue
            rule, source = maker.op.quant, self.stored.get(bias, bias)
            if not isinstance(rule, Accumulate) or len(maker.inputs) > rule.bias:
                continue
            if source.is_constant and is_bias(source.type, x.type, node.output.type):
                self.sums[node.output] = self._product(maker, rule, bias)
                return

    def _erase_dead(self, kept: Container[Value] = ()) -> None:
        for node in reversed(list(self.graph.nodes)):
            if node.outputs and not any(value.uses or value in kept for value in node.outputs):
                self.graph.erase(node)
