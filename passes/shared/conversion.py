"""The conversion of float ops with ranges to ops on codes, each by its quantization rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from qir.errors import PassError, QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ops import (
    Add,
    Clip,
    Concat,
    Const,
    Dequantize,
    Embedding,
    Mul,
    Quantize,
    Return,
    Sub,
)
from qir.ops.cast import is_long
from qir.ops.elementwise import Sum
from qir.ops.op import infer
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
    SharedCode,
    Table,
)
from qir.passes.shared.bias_correction import corrected_bias
from qir.passes.shared.boundary import Boundary
from qir.passes.shared.codes import bias_code, holds_bias
from qir.passes.shared.divisors import too_coarse
from qir.passes.shared.forms import Forms
from qir.passes.shared.functions import defined
from qir.passes.shared.interface import return_from, take_coded
from qir.passes.shared.plan import CodePlan, KeptFloat, expressed_type
from qir.passes.shared.weight_codes import WeightCoding
from qir.passes.shared.wide import quotient_code
from qir.pipeline import Context
from qir.types import Affine, Dim


class Conversion:
    """One run over one graph, in order: each op is converted by its quantization rule.

    Args:
        graph: A float program with ranges, which is changed.
        context: What the pass was given.
        plan: What stays in floating point, and the codes of values.
        coding: The codes that weights get.
        chosen: Those that the weights of some ops get instead.
        boundary: What the graph takes and returns.
        convert_regions: What converts a node with regions, which it may leave in floating point.
        rounding: The rounding mode of requantizes.
        correct_bias: Whether biases take in what rounding the weights costs on average.
        stored: The constants that have a code already, each with the stored one.

    Attributes:
        forms: The forms of values.
        tabled: The nodes of floating point that stand for tables.
    """

    def __init__(
        self,
        graph: Graph,
        context: Context,
        plan: CodePlan,
        coding: WeightCoding,
        *,
        chosen: Mapping[Node, WeightCoding],
        boundary: Boundary,
        convert_regions: Callable[[Node, Forms, Builder], None],
        rounding: str,
        correct_bias: bool,
        stored: Mapping[Value, Value] | None = None,
    ) -> None:
        self.graph = graph
        self.context = context
        self.plan = plan
        self._coding = coding
        self._chosen = chosen
        self.boundary = boundary
        self.convert_regions = convert_regions
        self.tabled: set[Node] = set()
        self.correct_bias = correct_bias
        self.stored = stored or {}
        self.forms = Forms(graph, plan, rounding)

    def run(self) -> None:
        """Converts all ops that can be integer ones; what stays in floating point is noted."""
        integer = {node for node in self.graph.nodes if _is_integer(node)}
        for value, wanted in self.boundary.taken.items():
            take_coded(value, wanted, self.forms)
        replaced: list[Value] = []
        for node in list(self.graph.nodes):
            if isinstance(node.op, Const) or node in integer:
                continue
            builder = self.graph.before(node)
            if isinstance(node.op, Return):
                return_from(node, self.boundary, self.forms, builder)
            elif node.regions:
                self.convert_regions(node, self.forms, builder)
            elif isinstance(node.op, Dequantize):
                self.forms.take_decoded(node)
            elif isinstance(node.op, Quantize):
                self.forms.take_quantized(node, node.op.to, builder)
            elif self.becomes_integer(node, builder):
                replaced.extend(node.outputs)
            else:
                self.forms.leave_float(node, builder)
        for value in replaced:
            self.forms.hand_over(value)
        self.forms.tidy()

    def becomes_integer(self, node: Node, builder: Builder) -> bool:
        if not isinstance(node.op.quant, RescaledRows) and not any(
            self.forms.is_activation(value) for value in node.inputs
        ):
            return False
        output = node.outputs[0]
        if output in self.plan.cones:
            self.convert_cone(output, builder)
        if output in self.plan.cones or output in self.plan.inside:
            return True
        if (reason := self.plan.why_float(node)) is not None:
            node.note = reason
            return False
        if isinstance(node.op.quant, KeepFloat):
            return False
        if len(node.outputs) != 1 and not isinstance(node.op.quant, SameCode):
            node.note = "it has several results"
            return False
        try:
            self.convert(node, builder)
        except PassError:
            raise
        except (KeptFloat, QirError) as reason:
            node.note = getattr(reason, "message", str(reason))
            for emitted in reversed(builder.emitted):
                self.forms.forget(emitted)
            return False
        return True

    def convert(self, node: Node, builder: Builder) -> None:
        op, output = node.op, node.outputs[0]
        match op.quant:
            case Accumulate() as rule:
                self.convert_sum(node, rule, builder)
            case SharedCode() if isinstance(op, Concat) and output in self.plan.wide:
                self.convert_wide_sum(node, builder)
            case SharedCode():
                code = self.plan.code_for(output)
                operands = [
                    self.forms.code(value, builder, code) if self.forms.is_real(value) else value
                    for value in node.inputs
                ]
                self.forms.give(output, builder.emit(op, *operands))
            case SameCode():
                self.convert_same(node, builder)
            case ExactSum():
                self.convert_exact_sum(node, builder)
            case RescaledRows():
                self.convert_rows(node, builder)
            case Quotient() as quotient_rule:
                self.convert_quotient(node, quotient_rule, builder)
            case Rescale() if (kept := self.unchanged(node)) is not None:
                self.forms.alias(kept, output)
                self.context.diagnostics.append(
                    f"quantize: %{output.name} is %{kept.name} alone: the other term was 0 in all "
                    "that calibration saw; give it data where it is not, if there is such"
                )
            case Rescale() if isinstance(op, Sum) and output in self.plan.wide:
                self.convert_wide_sum(node, builder)
            case Normalize():
                self.convert_norm(node, builder)
            case Rescale():
                operands = [self.forms.code(value, builder) for value in node.inputs]
                self.plan.equal_to_operand(node, operands[0].type.affine)
                coded = self.forms.with_code(op, self.plan.code_for(output))
                self.forms.give(output, builder.emit(coded, *operands))
            case FixedCode():
                self.convert_fixed(node, builder)
            case Table(otherwise=reason) if reason:
                raise KeptFloat(reason)
            case _:
                raise KeptFloat("it is no function of one tensor alone")

    def convert_sum(self, node: Node, rule: Accumulate, builder: Builder) -> None:
        output = node.outputs[0]
        x, kernel = node.inputs[rule.left], node.inputs[rule.right]
        bias = node.inputs[rule.bias] if len(node.inputs) > rule.bias else None
        if not self.forms.is_activation(x):
            raise KeptFloat(f"%{x.name} is a constant where an activation belongs")
        if bias is not None and not bias.is_constant:
            raise KeptFloat(f"the bias %{bias.name} is not a constant")
        if isinstance(terms := kernel.type.shape[-2], Dim):
            raise KeptFloat(f"it sums over the named dimension {terms}, so that no sum is bounded")
        activations = self.forms.code(x, builder, self.plan.operand_code(x))
        right = (
            self.weights(kernel, bias, activations, node, builder)
            if kernel.is_constant
            else self.forms.code(kernel, builder, self.plan.operand_code(kernel))
        )
        (accumulator,) = infer(node.op, [activations.type, right.type])
        # A sum that can't be rounded to its own code is of no use to later ops.
        self.forms.rounded(node.op, [activations.type, right.type], self.plan.code_for(output))
        operands = [activations, right]
        corrected = (
            corrected_bias(node, rule, activations, right, self.context)
            if self.correct_bias
            else None
        )
        if corrected is not None:
            code = bias_code(accumulator.code, corrected.size)
            operands.append(builder.const(code.encode(corrected), f"{output.name}.bias", code))
        elif bias is not None:
            code = bias_code(accumulator.code, bias.array.size)
            if not kernel.is_constant and not holds_bias(code, bias.array, terms, operands):
                raise KeptFloat(f"its sum has no room for the bias %{bias.name}")
            operands.append(self.forms.constant(bias, code, builder))
        self._give_sum(output, builder.emit(node.op, *operands), builder)

    def convert_exact_sum(self, node: Node, builder: Builder) -> None:
        op, output = node.op, node.outputs[0]
        if isinstance(op, Mul) and any(value.is_constant for value in node.inputs):
            multiple = self.forms.from_sum(output, self.plan.code_for(output), builder)
            if multiple is not None:
                self.forms.give(output, multiple)
                return
        if isinstance(op, Mul):
            operands = self.forms.factors(node.inputs, builder)
        else:
            operands = [self.forms.code(value, builder) for value in node.inputs]
        types = [operand.type for operand in operands]
        self.plan.equal_to_operand(node, operands[0].type.affine)
        if op.divisor(types) is None:
            coded = self.forms.with_code(op, self.plan.code_for(output))
            self.forms.give(output, builder.emit(coded, *operands))
            return
        self.forms.rounded(op, types, self.plan.code_for(output))
        self._give_sum(output, builder.emit(op, *operands), builder)

    def convert_rows(self, node: Node, builder: Builder) -> None:
        """Codes a table; its rows get each code that is wanted of them straight from there."""
        (table, ids), output = node.inputs, node.outputs[0]
        if (stored := self.stored.get(table, table)).type.quant is not None:
            self.forms.give_rows(output, builder.emit(node.op, stored, ids))
            return
        if not table.is_constant:
            raise KeptFloat(f"the table %{table.name} is not a constant")
        assert isinstance(node.op, Embedding)
        code = self._coding_of(node).for_rows(
            table.array,
            factor=node.op.factor,
            output_scale=float(self.plan.code_for(output).scale.array.max()),
        )
        code = replace(code, expressed=expressed_type(output.type))
        self.plan.check_weight(code, node.op.name)
        rows = builder.emit(node.op, self.forms.constant(table, code, builder), ids)
        self.forms.give_rows(output, rows)
        self._round_narrow(output, builder)

    def convert_wide_sum(self, node: Node, builder: Builder) -> None:
        output = node.outputs[0]
        code = self.plan.wide_code(output)
        sums = self.forms.sums
        totals = [sums[value] for value in node.inputs if value in sums]
        if output in self.plan.divided and len(totals) == len(node.inputs):
            code = quotient_code(totals, expressed_type(output.type)) or code
        operands = [self.forms.wide_form(value, code, builder) for value in node.inputs]
        op = node.op if isinstance(node.op, Concat) else node.op.with_code(code)
        self._give_sum(output, builder.emit(op, *operands), builder)

    def _give_sum(self, output: Value, total: Value, builder: Builder) -> None:
        self.forms.give_sum(output, total)
        # What is cut off is rounded once, straight to the code of what is left.
        if not output.uses or not all(user.op.clip_bounds() for user in output.users):
            self._round_narrow(output, builder)

    def _round_narrow(self, output: Value, builder: Builder) -> None:
        """Rounds a value for which few bits are chosen, so that nothing reads it as it was."""
        if output in self.plan.narrow:
            self.forms.code(output, builder)
            for finer in (self.forms.sums, self.forms.rows, self.forms.floats):
                finer.pop(output, None)

    def _coding_of(self, node: Node) -> WeightCoding:
        return self._chosen.get(node, self._coding)

    def weights(
        self, kernel: Value, bias: Value | None, x: Value, node: Node, builder: Builder
    ) -> Value:
        if kernel in self.stored:
            return self.stored[kernel]
        activations = x.type.code
        code = self._coding_of(node).for_sums(
            kernel.array,
            activations,
            output_scale=float(self.plan.code_for(node.outputs[0]).scale.array.max()),
            bias=None if bias is None else bias.array,
        )
        self.plan.check_weight(code, node.op.name)
        return self.forms.constant(kernel, replace(code, expressed=activations.expressed), builder)

    def convert_same(self, node: Node, builder: Builder) -> None:
        x = node.inputs[0]
        if x in self.forms.sums and (
            node in self.plan.moved or self.plan.wide.intersection(node.outputs)
        ):
            moved = self.forms.moved_sum(node, builder)
            if moved is not None:
                for old, new in zip(node.outputs, moved, strict=True):
                    self._give_sum(old, new, builder)
                return
        if node.op.clip_bounds() and (x in self.forms.sums or x not in self.forms.main):
            # The sum is rounded once anyway: straight to the code of what is left of it.
            code = self.plan.equal.get(x) or self.plan.code_for(node.outputs[0])
            operands = [self.forms.code(x, builder, code)]
        else:
            operands = self.forms.alike(node.inputs, builder)
        results = builder.emit_node(node.op, operands).outputs
        for old, new in zip(node.outputs, results, strict=True):
            if self.plan.is_chosen(old) and isinstance(new.type.quant, Affine):
                own = self.plan.code_for(old)
                if own.storage is not new.type.quant.storage:
                    new = builder.emit(self.forms.requantize(new, own, self.forms.rounding), new)
            self.forms.give(old, new)

    def convert_norm(self, node: Node, builder: Builder) -> None:
        x, *parameters = node.inputs
        varying = next((value for value in parameters if not value.is_constant), None)
        if varying is not None:
            raise KeptFloat(f"%{varying.name} is not a constant")
        if not self.forms.is_activation(x):
            raise KeptFloat(f"%{x.name} is a constant where an activation belongs")
        output = node.outputs[0]
        op = node.op.with_code(self.plan.norm_code(output))
        self.forms.give(
            output, builder.emit(op, self.forms.norm_operand(op, x, builder), *parameters)
        )

    def convert_fixed(self, node: Node, builder: Builder) -> None:
        output = node.outputs[0]
        # A mask is the same in both programs.
        operands = [
            self.forms.scores(value, node.op, builder) if self.forms.is_real(value) else value
            for value in node.inputs
        ]
        tables = node.op.integer_tables([operand.type for operand in operands])
        operands += [
            builder.const(array, f"{output.name}.{name}") for name, array in tables.items()
        ]
        self.forms.give(
            output, builder.emit(node.op.with_code(self.plan.code_for(output)), *operands)
        )

    def unchanged(self, node: Node) -> Value | None:
        """Returns the operand that a sum leaves as it is: the other was never seen but at 0."""
        output = node.outputs[0]
        if not isinstance(node.op, Add | Sub):
            return None
        pairs = [tuple(node.inputs), tuple(reversed(node.inputs))][
            : 1 if isinstance(node.op, Sub) else 2
        ]
        for x, y in pairs:
            never = not y.is_constant and y.range is not None and y.range.bounds == (0.0, 0.0)
            if never and self.forms.is_activation(x) and x.type == output.type:
                return x
        return None

    def convert_quotient(self, node: Node, rule: Quotient, builder: Builder) -> None:
        """Divides codes, and exact sums as they are: nothing is rounded between them."""
        output, (x, y) = node.outputs[0], node.inputs
        # A sum has its own rounded form too, where others read it.
        totals = {value: self.forms.sums.get(value) for value in (x, y)}
        dividend, divisor = (
            self.forms.code(value, builder) if total is None or is_long(total.type) else total
            for value, total in totals.items()
        )
        code = divisor.type.quant
        if not isinstance(code, Affine) or not code.per_tensor:
            raise KeptFloat(f"the scale of the divisor %{y.name} varies")
        if (reason := too_coarse(y, code, rule)) is not None:
            raise KeptFloat(reason)
        wanted = self.plan.result_code(output)
        self.forms.give(output, builder.emit(node.op.with_code(wanted), dividend, divisor))

    def convert_cone(self, output: Value, builder: Builder) -> None:
        """Puts the float ops between a value and a function of it alone between two casts."""
        source, code, first = self.plan.cones[output], None, 0
        try:
            wanted = self.plan.smooth_code(source, output) or self.plan.operand_code(source, 12)
            coded = self.forms.code(source, builder, wanted)
            first = len(builder.emitted)
            real, code = builder.emit(Dequantize(), coded), coded.type.affine
        except QirError:  # No scale brings the steps of its sum to so small a range.
            real = self.forms.real(source, builder)
        if source.range is not None and (code is None or not defined(output, source, code)):
            low, high = source.range.bounds
            real = builder.emit(Clip(float(low), float(high)), real)
        copies = {source: real}

        def copy(value: Value) -> Value:
            if value.is_constant:
                return value
            if value not in copies:
                assert value.op is not None
                operands = [copy(operand) for operand in value.inputs]
                copies[value] = builder.emit(value.op, *operands)
            return copies[value]

        quantize = self.forms.quantize(self.plan.function_code(output))
        self.forms.give(output, builder.emit(quantize, copy(output)))
        self.tabled.update(builder.emitted[first:])


def _is_integer(node: Node) -> bool:
    """Whether an op computes on codes already, and gives no floating-point numbers."""
    if node.regions:
        return False
    coded = any(value.type.quant is not None for value in node.inputs)
    return coded and bool(node.outputs) and not any(value.type.is_float for value in node.outputs)
