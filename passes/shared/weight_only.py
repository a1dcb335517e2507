"""Weights in codes, everything else in floating point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qir.analysis.properties import is_float_op
from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import Const, Dequantize, Embedding, Return
from qir.ops.op import Op
from qir.ops.rules import Accumulate
from qir.passes.shared.bias_correction import added_within, lost_by_rounding
from qir.passes.shared.chosen_codes import ChosenCodes
from qir.passes.shared.kept import KEPT
from qir.passes.shared.observed_parts import known_moments
from qir.passes.shared.weight_codes import WeightCoding
from qir.pipeline import Context
from qir.types import Code

WEIGHTS_ONLY = "its weights have codes, and activations=float"
"""Why a product or an embedding with coded weights computes in floating point."""

_STAYS = "activations=float codes the weights of products, convolutions and tables alone"


class WeightCoder:
    """Codes the constant weights of sums of products, and the tables that rows are taken from.

    The codes stay: a dequantize stands between them and what computes with them, and rows of a
    table are taken from the stored numbers.

    Args:
        graph: A float program.
        coding: The codes that weights get.
        chosen: The ops whose weights stay as they are or get other codes.
        context: What calibrate observed, if it did.
        correct_bias: Whether biases take in what rounding the weights costs on average, where
            calibrate observed what meets them.
    """

    def __init__(
        self,
        graph: Graph,
        coding: WeightCoding,
        chosen: ChosenCodes,
        context: Context,
        *,
        correct_bias: bool,
    ) -> None:
        self.graph = graph
        self.coding = coding
        self.chosen = chosen
        self.context = context
        self.correct_bias = correct_bias
        self.names = Inheritance(graph)
        self._coded: dict[tuple[Value, Code], Value] = {}
        self._real: dict[Value, Value] = {}

    def run(self) -> None:
        """Changes the graph."""
        for node in list(self.graph.nodes):
            if node.regions:
                self._convert_regions(node)
            if isinstance(node.op, Const | Return) or not is_float_op(node):
                continue
            try:
                self._convert(node)
            except QirError as error:
                node.note = reason = error.message.removeprefix("quantize: ")
                self.context.diagnostics.append(
                    f"quantize: the weights of %{node.outputs[0].name} stay floats: {reason}"
                )
        self.names.settle(self._coded.values())

    def _convert_regions(self, node: Node) -> None:
        for region in node.regions:
            WeightCoder(
                region, self.coding, self.chosen, self.context, correct_bias=self.correct_bias
            ).run()

    def _convert(self, node: Node) -> None:
        match node.op:
            case Embedding() if self._has_weights(node, 0):
                self._convert_table(node)
            case Op(quant=Accumulate() as rule) if self._has_weights(node, rule.right):
                self._convert_sum(node, rule)
            case _:
                node.note = node.note or _STAYS

    def _has_weights(self, node: Node, index: int) -> bool:
        """Whether an operand is weights; notes on the node why not."""
        weights = node.inputs[index]
        if node in self.chosen.kept:
            node.note = KEPT
        elif not weights.is_constant:
            node.note = f"%{weights.name} is not a constant, and activations=float"
        elif not weights.type.is_float or weights.type.rank < 2 or not weights.array.size:
            node.note = f"%{weights.name} holds no weights"
        else:
            return True
        return False

    def _convert_sum(self, node: Node, rule: Accumulate) -> None:
        kernel = node.inputs[rule.right]
        coding = self.chosen.codings.get(node, self.coding)
        code = replace(coding.for_floats(kernel.array), expressed=kernel.type.dtype)
        self._check(code, Dequantize.name)
        builder = self.graph.before(node)
        coded = self._constant(kernel, code, builder)
        bias = self._corrected(node, rule, coded, builder) if self.correct_bias else None
        node.set_input(rule.right, self._dequantized(coded, kernel, builder))
        if bias is not None and len(node.inputs) > rule.bias:
            old = node.inputs[rule.bias]
            node.set_input(rule.bias, bias)
            self._erase_unused(old)
        elif bias is not None:
            node = self._with_bias(node, bias, builder)
        self._erase_unused(kernel)
        node.note = WEIGHTS_ONLY

    def _corrected(
        self, node: Node, rule: Accumulate, coded: Value, builder: Builder
    ) -> Value | None:
        """Returns a bias with what rounding the weights costs on average, where that is known."""
        x, kernel, *rest = node.inputs
        moments = known_moments(x, self.context)
        if moments is None or not all(bias.is_constant for bias in rest):
            return None
        means = moments.means if x.range is None else moments.means.clip(*x.range.bounds)
        real = coded.type.code.decode(coded.array)
        lost = lost_by_rounding(
            node.op, kernel.array, lambda part: real[..., part], means, moments.variances
        )
        if lost is None:
            return None
        corrected = added_within(lost, rest[0].array if rest else None, np.full(1, np.inf))
        dtype = node.output.type.dtype
        name = rest[0].name if rest else f"{node.output.name}.bias"
        return builder.const(corrected.astype(dtype.numpy), name, dtype)

    def _with_bias(self, node: Node, bias: Value, builder: Builder) -> Node:
        """Replaces a sum by one with a bias."""
        new = builder.emit_node(node.op, [*node.inputs, bias])
        new.output.observed, new.output.range = node.output.observed, node.output.range
        node.output.replace_with(new.output)
        self.graph.erase(node)
        return new

    def _convert_table(self, node: Node) -> None:
        table, ids = node.inputs
        builder = self.graph.before(node)
        coding = self.chosen.codings.get(node, self.coding)
        code = coding.for_floats(table.array, channel=0, summed=-1)
        by_row = all(count == 1 for count in code.grid[1:])
        self._check(code, node.op.name if by_row else Dequantize.name)
        coded = self._constant(table, replace(code, expressed=table.type.dtype), builder)
        rows = coded if by_row else self._dequantized(coded, table, builder)
        new = builder.emit_node(node.op, [rows, ids])
        if not by_row:
            new.note = WEIGHTS_ONLY
        node.output.replace_with(new.output)
        self.graph.erase(node)
        self._erase_unused(table)

    def _check(self, code: Code, op: str) -> None:
        """Raises QirError where the target accepts no such weights for the op that decodes them."""
        target = self.context.target
        if target is None or (op == Dequantize.name and code.storage in target.casts):
            return
        if (broken := target.broken_by_weight(code, op)) is not None:
            raise QirError(f"target {target.name}: expected {broken.expected}, got {code}")

    def _constant(self, value: Value, code: Code, builder: Builder) -> Value:
        if (value, code) not in self._coded:
            builder.loc = value.loc
            self._coded[value, code] = builder.const(code.encode(value.array), value.name, code)
        return self._coded[value, code]

    def _dequantized(self, coded: Value, weights: Value, builder: Builder) -> Value:
        if coded not in self._real:
            self._real[coded] = builder.emit(Dequantize(), coded)
            self.graph.name_after(self._real[coded], f"{weights.name}.real")
        return self._real[coded]

    def _erase_unused(self, constant: Value) -> None:
        if not constant.uses and constant.node is not None:
            self.graph.erase(constant.node)
