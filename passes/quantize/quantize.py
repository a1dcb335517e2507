"""quantize: from a float program with ranges to one of codes and casts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import Literal

import numpy as np

from qir.analysis.properties import FLOAT, QUANTIZED, RANGED
from qir.errors import PassError, QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.numbers.interval import Interval
from qir.numbers.rounding import rounding_mode
from qir.ops import (
    Add,
    Clip,
    Const,
    Dequantize,
    Dot,
    Embedding,
    Quantize,
    Recode,
    Relu,
    Requantize,
    Return,
    Sub,
)
from qir.ops.elementwise import Sum
from qir.ops.op import (
    Accumulate,
    ExactSum,
    FixedCode,
    KeepFloat,
    Normalize,
    Op,
    Quotient,
    Rescale,
    RescaledRows,
    SameCode,
    SharedCode,
    Table,
    infer,
)
from qir.ops.softmax import Exponentials
from qir.ops.sums import rounded
from qir.passes.shared.codes import (
    activation_code,
    bias_code,
    fine_code,
    reach,
    rows_code,
    score_code,
    weight_code,
)
from qir.passes.shared.divisors import coarse_divisions, too_coarse
from qir.passes.shared.domains import inside_domain
from qir.passes.shared.functions import defined, elementwise_functions
from qir.passes.shared.islands import islands
from qir.passes.shared.multiples import multiple_of_sum
from qir.passes.shared.wide import (
    SMOOTH,
    WIDE_BITS,
    divided_sums,
    head_codes,
    moved_sums,
    quotient_code,
    short_code,
    wide_code,
    wide_values,
)
from qir.pipeline import Context, Pass, register
from qir.pipeline.selectors import select
from qir.report.explain import explain
from qir.types import Array, DType, FrozenArray, Quant, TensorType

Interface = Literal["float", "i8", "u8"]


@register
class QuantizePass(Pass):
    """Gives values codes and makes ops compute on them, each by its own quantization rule.

    Weights are coded symmetrically, activations per tensor from their ranges, biases in accumulator
    units. An exact sum becomes an i32 accumulator and a requantize for each code in which it is
    wanted; where a norm reads it, or a sum with others that does, it stays in i32 up to there, and
    parts of it get codes of their own. A function of one tensor stays between a dequantize and a
    quantize, for lookup-tables to turn into a table. What stays in floating point has a note that
    says why (`qir.explain`). Where that is everything, the program stays as it is, and later passes
    that need codes are left out.

    Attributes:
        weights: Storage of weights.
        activations: Storage of activations.
        per: Whether weights have a scale for each output channel or one for the tensor.
        symmetric: Whether activations have their zero point in the middle.
        inputs: What the program takes: floating-point numbers, or stored numbers of one of two
            types.
        outputs: What the program returns, likewise.
        keep_float: Selectors of the ops that stay in floating point; see qir.pipeline.selectors.
        rounding: The rounding mode of requantizes; ops that round their own sum, such as add, keep
            theirs.
    """

    weights: Literal["i8", "i4", "i2"] = "i8"
    activations: Literal["i8", "u8"] = "i8"
    per: Literal["channel", "tensor"] = "channel"
    symmetric: bool = False
    inputs: Interface = "float"
    outputs: Interface = "float"
    keep_float: tuple[str, ...] = ()
    rounding: str = "fixed31"

    name = "quantize"
    requires = (FLOAT, RANGED)
    keeps = "approximate"

    def check(self) -> None:
        try:
            rounding_mode(self.rounding)
        except QirError as error:
            raise QirError(f"quantize: {error.message}") from error

    def run(self, graph: Graph, context: Context) -> None:
        excluded = select(graph, self.keep_float)
        _Quantizer(self, graph, excluded, context).run()
        if QUANTIZED.missing(graph):
            context.unattained.add(QUANTIZED)
            context.diagnostics.append(f"quantize: nothing was quantized; {_reasons(graph)}")


def _reasons(graph: Graph) -> str:
    """Says why a program has no code after all."""
    lines = explain(graph).floats
    if not lines:
        return "no op computes in floating point"
    first = f"{lines[0].op} of %{lines[0].value}: {lines[0].reason}"
    return f"{first}, and {len(lines) - 1} more; see qir.explain" if lines[1:] else first


class _KeptFloat(Exception):
    """Why an op can't be computed on codes."""


class _Quantizer:
    """One run over one graph, in order.

    A value of the float program has up to three forms in the new one.
    """

    def __init__(
        self, options: QuantizePass, graph: Graph, excluded: set[Node], context: Context
    ) -> None:
        self.options = options
        self.graph = graph
        self.excluded = excluded
        self.storage = DType(options.activations)
        self.names = Inheritance(graph)
        self.sums: dict[Value, Value] = {}
        self.rows: dict[Value, Value] = {}
        self.coded: dict[tuple[Value, Quant], Value] = {}
        self.main: dict[Value, Quant] = {}
        self.floats: dict[Value, Value] = {}
        self.constants: dict[tuple[Value, Quant], Value] = {}
        self.heads = head_codes(graph, context.channels)
        self.islands: set[Node] = set()
        self.cones, self.inside = elementwise_functions(graph, excluded)
        self.coarse = coarse_divisions(graph, self.code_for)
        kept = excluded | self.coarse.keys()
        self.cones, self.inside = elementwise_functions(graph, kept)
        self.islands = islands(
            graph,
            {node for node in graph.nodes if self.stays_float(node)},
            coded_inputs=options.inputs != "float",
            coded_outputs=options.outputs != "float",
        )
        kept |= self.islands
        self.cones, self.inside = elementwise_functions(graph, kept)
        ranges = {value: value.range for value in graph.values() if value.range is not None}
        self.wide = wide_values(graph, kept, ranges)
        self.moved = moved_sums(graph, ranges, self.heads)
        self.divided = divided_sums(graph)

    def run(self) -> None:
        for value in self.graph.inputs:
            self.take_input(value)
        replaced: list[Value] = []
        for node in list(self.graph.nodes):
            if isinstance(node.op, Const):
                continue
            builder = self.graph.before(node)
            if isinstance(node.op, Return):
                self.finish(node, builder)
            elif self.becomes_integer(node, builder):
                replaced.extend(node.outputs)
            else:
                for index, value in enumerate(node.inputs):
                    node.set_input(index, self.operand(node, index, value, builder))
        for value in replaced:
            self.hand_over(value)
        for forms in (self.coded, self.sums, self.floats):
            for form in forms.values():
                form.named = True
        self.tidy()

    def stays_float(self, node: Node) -> bool:
        """Whether an op keeps floating point, by a selector or by its rule."""
        if node in self.excluded or node in self.coarse:
            return True
        known = any(output in self.cones or output in self.inside for output in node.outputs)
        rule = node.op.quant
        return isinstance(rule, KeepFloat) or (isinstance(rule, Table) and not known)

    def take_input(self, value: Value) -> None:
        if self.options.inputs == "float" or not value.type.is_float or value.range is None:
            return
        code = self.code_for(value, DType(self.options.inputs))
        value.type = value.type.with_element(code)
        value.observed = None
        self.coded[value, code], self.main[value] = value, code

    def finish(self, node: Node, builder: Builder) -> None:
        for index, value in enumerate(node.inputs):
            if self.options.outputs == "float" or not self.is_activation(value):
                node.set_input(index, self.real(value, builder))
                continue
            code = self.main.get(value) or self.code_for(value)
            wanted = DType(self.options.outputs)
            if code.storage is not wanted:
                points = int(code.zero_points) + wanted.bounds[0] - code.storage.bounds[0]
                code = Quant.of(wanted, code.scale.array, points, expressed=code.expressed)
            node.set_input(index, self.code(value, builder, code))

    def becomes_integer(self, node: Node, builder: Builder) -> bool:
        if not isinstance(node.op.quant, RescaledRows) and not any(
            self.is_activation(value) for value in node.inputs
        ):
            return False
        output = node.outputs[0]
        if output in self.cones:
            self.convert_cone(output, builder)
        if output in self.cones or output in self.inside:
            return True
        if node in self.islands:
            node.note = "it stands between ops of floating point, where codes only cost accuracy"
            return False
        if node in self.excluded or node in self.coarse:
            node.note = self.coarse.get(node, "a selector keeps it in floating point")
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
        except (_KeptFloat, QirError) as reason:
            node.note = (
                str(reason)
                if isinstance(reason, _KeptFloat)
                else getattr(reason, "message", str(reason))
            )
            for emitted in reversed(builder.emitted):
                self.forget(emitted)
            return False
        return True

    def forget(self, node: Node) -> None:
        """Takes back a node of a conversion that failed, unless another one reads it already."""
        if any(value.uses for value in node.outputs):
            return
        for forms in (self.sums, self.rows, self.floats):
            for key in [key for key, form in forms.items() if form in node.outputs]:
                del forms[key]
        for table in (self.coded, self.constants):
            for pair in [pair for pair, form in table.items() if form in node.outputs]:
                del table[pair]
                if table is self.coded and self.main.get(pair[0]) == pair[1]:
                    del self.main[pair[0]]
        self.graph.erase(node)

    def convert(self, node: Node, builder: Builder) -> None:
        op, output = node.op, node.outputs[0]
        match op.quant:
            case Accumulate() as rule:
                self.convert_sum(node, rule, builder)
            case SharedCode():
                code = self.code_for(output)
                operands = [
                    self.code(value, builder, code) if self.is_real(value) else value
                    for value in node.inputs
                ]
                self.give(output, builder.emit(op, *operands))
            case SameCode():
                self.convert_same(node, builder)
            case ExactSum():
                self.convert_exact_sum(node, builder)
            case RescaledRows():
                self.convert_rows(node, builder)
            case Quotient() as quotient_rule:
                self.convert_quotient(node, quotient_rule, builder)
            case Rescale() if (kept := self.unchanged(node)) is not None:
                self.alias(kept, output)
            case Rescale() if isinstance(op, Sum) and output in self.wide:
                self.convert_wide_sum(node, builder)
            case Normalize():
                self.convert_norm(node, builder)
            case Rescale():
                operands = [self.code(value, builder) for value in node.inputs]
                self.give(output, builder.emit(op.with_code(self.code_for(output)), *operands))
            case FixedCode():
                self.convert_fixed(node, builder)
            case Table(otherwise=reason) if reason:
                raise _KeptFloat(reason)
            case _:
                raise _KeptFloat("it is no function of one tensor alone")

    def convert_sum(self, node: Node, rule: Accumulate, builder: Builder) -> None:
        output = node.outputs[0]
        x, kernel = node.inputs[rule.left], node.inputs[rule.right]
        bias = node.inputs[rule.bias] if len(node.inputs) > rule.bias else None
        if not self.is_activation(x):
            raise _KeptFloat(f"%{x.name} is a constant where an activation belongs")
        if bias is not None and not bias.is_constant:
            raise _KeptFloat(f"the bias %{bias.name} is not a constant")
        activations = self.code(x, builder)
        right = (
            self.weights(kernel, bias, activations, output, builder)
            if kernel.is_constant
            else self.code(kernel, builder)
        )
        (accumulator,) = infer(node.op, [activations.type, right.type])
        # A sum that can't be rounded to its own code is of no use to later ops.
        self.rounded(node.op, [activations.type, right.type], self.code_for(output))
        operands = [activations, right]
        if (centred := self.centred_bias(x, kernel, bias, activations, right)) is not None:
            assert accumulator.quant is not None
            code = bias_code(accumulator.quant, centred.size)
            operands.append(builder.const(code.encode(centred), f"{output.name}.bias", code))
        elif bias is not None:
            assert accumulator.quant is not None
            operands.append(
                self.constant(bias, bias_code(accumulator.quant, bias.array.size), builder)
            )
        self.sums[output] = _form(output, "acc", builder.emit(node.op, *operands))

    def centred_bias(
        self, x: Value, kernel: Value, bias: Value | None, activations: Value, right: Value
    ) -> Array | None:
        """Returns a bias [channels] that makes up for rounded weights at the middle of x's range.

        Where x is far from zero beside its width, what rounding takes off the weights is multiplied
        by a large number that is nearly constant. None where x is not.
        """
        code = activations.type.quant
        if code is None or code.holds_zero or not kernel.is_constant or x.range is None:
            return None
        lost = kernel.array.astype(np.float64) - right.real.astype(np.float64)
        middle = sum(x.range.bounds) / 2
        more: Array = middle * lost.sum(axis=tuple(range(lost.ndim - 1)))
        return more if bias is None else more + bias.array

    def convert_exact_sum(self, node: Node, builder: Builder) -> None:
        op, output = node.op, node.outputs[0]
        operands = [self.code(value, builder) for value in node.inputs]
        types = [operand.type for operand in operands]
        if op.divisor(types) is None:
            self.give(output, builder.emit(op.with_code(self.code_for(output)), *operands))
            return
        self.rounded(op, types, self.code_for(output))
        self.sums[output] = _form(output, "acc", builder.emit(op, *operands))

    def convert_rows(self, node: Node, builder: Builder) -> None:
        """Codes a table; its rows get each code that is wanted of them straight from there."""
        (table, ids), output = node.inputs, node.outputs[0]
        if not table.is_constant:
            raise _KeptFloat(f"the table %{table.name} is not a constant")
        assert isinstance(node.op, Embedding)
        code = rows_code(
            table.array,
            DType(self.options.weights),
            per_row=self.options.per == "channel",
            factor=node.op.factor,
            output_scale=float(self.code_for(output).scale.array),
        )
        code = replace(code, expressed=_float_type(output.type))
        rows = builder.emit(node.op, self.constant(table, code, builder), ids)
        self.rows[output] = self.floats[output] = _form(output, "real", rows)

    def convert_wide_sum(self, node: Node, builder: Builder) -> None:
        output = node.outputs[0]
        code = self.wide_code(output)
        if output in self.divided and all(value in self.sums for value in node.inputs):
            totals = [self.sums[value] for value in node.inputs]
            code = quotient_code(totals, _float_type(output.type)) or code
        operands = [self.wide_form(value, code, builder) for value in node.inputs]
        self.sums[output] = _form(output, "acc", builder.emit(node.op.with_code(code), *operands))

    def wide_code(self, value: Value, bits: int = WIDE_BITS) -> Quant:
        """Returns the code in which a value is summed without a loss that 8 bits would show."""
        terms = value.inputs if isinstance(value.op, Sum) else ()
        ranges = [self.range_of(term) for term in terms]
        return wide_code(self.range_of(value), ranges, _float_type(value.type), bits)

    def wide_form(self, value: Value, code: Quant, builder: Builder) -> Value:
        """Returns a value in a wide code: from its sum, or from the finest that there is of it."""
        if value.is_constant:
            return self.constant(value, code, builder)
        if value in self.rows:
            return self.code(value, builder, code)
        total = self.sums.get(value)
        if total is not None and total.type.quant is not None:
            own = total.type.quant
            if own.bounds is not None and own.scale == code.scale:
                return total
        if (found := self.from_sum(value, code, builder, "fixed31")) is not None:
            return found
        if (value, code) not in self.coded:
            source = self.finest(value, builder)
            new = builder.emit(self.requantize(source, code, "fixed31"), source)
            self.coded[value, code] = _form(value, "wide", new)
        return self.coded[value, code]

    def finest(self, value: Value, builder: Builder) -> Value:
        """Returns a value that is no sum in its own code, or in 16 bits where it is computed so."""
        if value.range is None or not self.is_in_float(value):
            return self.code(value, builder)
        return self.quantized(value, short_code(value.range, _float_type(value.type)), builder)

    def is_in_float(self, value: Value) -> bool:
        """Whether a value that is no sum is computed in floating point."""
        own = self.main.get(value)
        in_float = own is None or isinstance(self.coded[value, own].op, Quantize)
        return in_float and value not in self.cones

    def quantized(self, value: Value, code: Quant, builder: Builder) -> Value:
        """Returns a value of floating point in a code."""
        if (value, code) not in self.coded:
            self.coded[value, code] = _form(value, "q", builder.emit(Quantize(code), value))
        return self.coded[value, code]

    def requantize(self, total: Value, to: Quant, rounding: str) -> Requantize:
        """Returns what rounds a sum to a code; raises QirError as `qir.ops.sums.rounded`."""
        op = total.op
        if op is not None and isinstance(op.quant, ExactSum):
            return rounded(op, [operand.type for operand in total.inputs], to, rounding)
        found = Requantize(to, rounding)
        found.factors(total.type)
        return found

    def weights(
        self, kernel: Value, bias: Value | None, x: Value, output: Value, builder: Builder
    ) -> Value:
        assert x.type.quant is not None
        code = weight_code(
            kernel.array,
            DType(self.options.weights),
            per_channel=self.options.per == "channel",
            input_scale=float(x.type.quant.scale.array),
            output_scale=float(self.code_for(output).scale.array),
            bias=None if bias is None else bias.array,
            reach=max(reach(x.type.quant), 255),
        )
        return self.constant(kernel, replace(code, expressed=x.type.quant.expressed), builder)

    def convert_same(self, node: Node, builder: Builder) -> None:
        x = node.inputs[0]
        if x in self.sums and (node in self.moved or self.wide.intersection(node.outputs)):
            moved = self.moved_sum(node, builder)
            if moved is not None:
                for old, new in zip(node.outputs, moved, strict=True):
                    self.sums[old] = _form(old, "acc", new)
                return
        if isinstance(node.op, Relu | Clip) and (x in self.sums or x not in self.main):
            # The sum is rounded once anyway: straight to the code of what is left of it.
            operands = [self.code(x, builder, self.code_for(node.outputs[0]))]
        else:
            operands = self.alike(node.inputs, builder)
        results = builder.emit_node(node.op, operands).outputs
        for old, new in zip(node.outputs, results, strict=True):
            self.give(old, new)

    def moved_sum(self, node: Node, builder: Builder) -> Sequence[Value] | None:
        """Moves the numbers of a sum; None where its code can't follow them."""
        operands = [self.sums[node.inputs[0]], *node.inputs[1:]]
        try:
            infer(node.op, [operand.type for operand in operands])
        except QirError:
            return None
        return builder.emit_node(node.op, operands).outputs

    def alike(self, values: Sequence[Value], builder: Builder) -> list[Value]:
        """Codes operands that must have one code without rounding any of them a second time."""
        first = next(value for value in values if self.is_activation(value))
        code = self.code(first, builder).type.quant
        assert code is not None
        operands = []
        for value in values:
            operand = value
            if value.is_constant and value.type.is_float:
                if not np.array_equal(code.decode(code.encode(value.array)), value.array):
                    raise _KeptFloat(
                        f"the code of %{first.name} does not hold the numbers of %{value.name}"
                    )
                operand = self.constant(value, code, builder)
            elif self.is_real(value):
                operand = self.code(value, builder)
                if operand.type.quant != code:
                    raise _KeptFloat(f"%{first.name} and %{value.name} have different codes")
            operands.append(operand)
        return operands

    def convert_norm(self, node: Node, builder: Builder) -> None:
        x, *parameters = node.inputs
        varying = next((value for value in parameters if not value.is_constant), None)
        if varying is not None:
            raise _KeptFloat(f"%{varying.name} is not a constant")
        if not self.is_activation(x):
            raise _KeptFloat(f"%{x.name} is a constant where an activation belongs")
        output = node.outputs[0]
        wanted = self.wide_code(output) if output in self.wide else self.code_for(output)
        op = node.op.with_code(wanted)
        self.give(output, builder.emit(op, self.norm_operand(op, x, builder), *parameters))

    def norm_operand(self, op: Op, x: Value, builder: Builder) -> Value:
        """Returns the operand of a norm: a sum in a wide code, or the finest form there is.

        Rows and channels of very different size then keep bits of their own, which the norm brings
        to one size. A statistic of more numbers than 32 bits can sum gets fewer bits of each.
        """
        if x not in self.sums and x not in self.wide and x not in self.rows:
            return self.finest(x, builder)
        for bits in (WIDE_BITS, WIDE_BITS - 2, WIDE_BITS - 4):
            wide = self.wide_code(x, bits)
            with suppress(QirError):
                infer(op, [x.type.with_element(wide)])
                return self.wide_form(x, wide, builder)
        return self.code(x, builder)

    def convert_fixed(self, node: Node, builder: Builder) -> None:
        output = node.outputs[0]
        # A mask is the same in both programs.
        operands = [
            self.scores(value, node.op, builder) if self.is_real(value) else value
            for value in node.inputs
        ]
        tables = node.op.integer_tables([operand.type for operand in operands])
        operands += [
            builder.const(array, f"{output.name}.{name}") for name, array in tables.items()
        ]
        self.give(output, builder.emit(node.op.with_code(self.code_for(output)), *operands))

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
            if never and self.is_activation(x) and x.type == output.type:
                return x
        return None

    def alias(self, old: Value, new: Value) -> None:
        """Lets a value of the float program stand for another one, in every form."""
        if old in self.sums:
            self.sums[new] = self.sums[old]
        for (value, code), form in list(self.coded.items()):
            if value is old:
                self.coded[new, code] = form
        if old in self.main:
            self.main[new] = self.main[old]
        elif old not in self.sums:
            raise _KeptFloat("what it adds to stays in floating point")

    def scores(self, value: Value, op: Op, builder: Builder) -> Value:
        """Returns a value in its code; scores of softmax in 12 bits, from an exact sum or a float.

        A step of scores is a relative error of the shares, which 8 bits of peaked scores show.
        """
        if isinstance(op, Exponentials) and value.range is not None and value.range.is_finite:
            code = score_code(value.range, expressed=_float_type(value.type))
            found = self.from_sum(value, code, builder)
            if found is not None:
                return found
            if self.is_in_float(value):
                return self.quantized(value, code, builder)
        return self.code(value, builder)

    def from_sum(
        self, value: Value, code: Quant, builder: Builder, rounding: str | None = None
    ) -> Value | None:
        """Returns a value in a code straight from the exact sum that it is a multiple of.

        The factor goes into the scale of the rounding, moves act on what is rounded.
        """
        multiple = multiple_of_sum(value, self.sums)
        if multiple is None:
            return None
        if (value, code) not in self.coded:
            try:
                # A factor may be so small or large that no scale makes up for it.
                wanted = replace(code, scale=_scaled(code, 1 / multiple.factor))
                total = self.sums[multiple.source]
                op = self.requantize(total, wanted, rounding or self.options.rounding)
            except QirError:
                return None
            new = builder.emit(op, total)
            if wanted != code:
                new = builder.emit(Recode(code), new)
            for move in multiple.moves:
                new = builder.emit(move, new)
            self.coded[value, code] = _form(value, "q", new)
        return self.coded[value, code]

    def convert_quotient(self, node: Node, rule: Quotient, builder: Builder) -> None:
        """Divides codes, and exact sums as they are: nothing is rounded between them."""
        output, (x, y) = node.outputs[0], node.inputs
        # A sum has its own rounded form too, where others read it.
        dividend, divisor = (self.sums.get(value) or self.code(value, builder) for value in (x, y))
        code = divisor.type.quant
        if code is None or not code.per_tensor:
            raise _KeptFloat(f"the scale of the divisor %{y.name} varies")
        if (reason := too_coarse(y, code, rule)) is not None:
            raise _KeptFloat(reason)
        wanted = self.wide_code(output) if output in self.wide else self.code_for(output)
        self.give(output, builder.emit(node.op.with_code(wanted), dividend, divisor))

    def convert_cone(self, output: Value, builder: Builder) -> None:
        """Puts the float ops between a value and a function of it alone between two casts."""
        source = self.cones[output]
        coded = self.code(source, builder, self.smooth_code(source, output))
        real = builder.emit(Dequantize(), coded)
        assert coded.type.quant is not None
        if source.range is not None and not defined(output, source, coded.type.quant):
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

        self.give(output, builder.emit(Quantize(self.code_for(output)), copy(output)))

    def smooth_code(self, source: Value, output: Value) -> Quant | None:
        """Returns the code of 12 bits of a dot's sum of which a smooth function is wanted."""
        total = self.sums.get(source)
        if total is None or not isinstance(total.op, Dot | Sum) or source.range is None:
            return None
        between, stack = set[Value](), [output]
        while stack:
            value = stack.pop()
            if value is not source and value not in between and not value.is_constant:
                between.add(value)
                stack.extend(value.inputs)
        if not any(isinstance(value.op, SMOOTH) for value in between):
            return None
        return fine_code(source.range, expressed=_float_type(source.type))

    def give(self, old: Value, new: Value) -> None:
        """Records the coded form of a value."""
        code = new.type.quant
        if code is None:
            # An index or a mask is the same in both programs.
            old.replace_with(new)
            return
        if code.storage is DType.I32:
            self.sums[old] = _form(old, "acc", new)
            return
        self.coded[old, code], self.main[old] = _form(old, "q", new), code

    def code(self, value: Value, builder: Builder, code: Quant | None = None) -> Value:
        """Returns a value in a code: the given one, its own, or the one that its range asks for."""
        own = self.main.get(value)
        if value.is_constant:
            return self.constant(value, code or self.code_for(value), builder)
        wanted = code or own or self.code_for(value)
        if (value, wanted) not in self.coded:
            if value in self.rows:
                rows = self.rows[value]
                assert rows.op is not None
                new = builder.emit(rows.op.with_code(wanted), *rows.inputs)
            elif value in self.sums:
                total = self.sums[value]
                new = builder.emit(self.requantize(total, wanted, self.options.rounding), total)
            elif own is not None:
                new = builder.emit(
                    Requantize(wanted, self.options.rounding), self.coded[value, own]
                )
            else:
                new = builder.emit(Quantize(wanted), value)
            self.coded[value, wanted] = _form(value, "q", new)
        if code is None:
            self.main[value] = wanted
        return self.coded[value, wanted]

    def rounded(self, op: Op, operands: Sequence[TensorType], to: Quant) -> Requantize:
        """Returns the requantize of a sum in the wanted rounding; raises QirError as `rounded`."""
        return rounded(op, operands, to, self.options.rounding)

    def real(self, value: Value, builder: Builder) -> Value:
        """Returns a value in floating point; an exact sum straight from the accumulator."""
        if value in self.rows:
            return self.rows[value]
        coded = self.sums.get(value) or (
            self.coded[value, self.main[value]] if value in self.main else None
        )
        computed_in_float = (
            value in self.main and isinstance(coded, Value) and isinstance(coded.op, Quantize)
        )
        if coded is None or value.is_constant or (computed_in_float and value not in self.cones):
            return value
        if value not in self.floats:
            self.floats[value] = _form(value, "real", builder.emit(Dequantize(), coded))
        return self.floats[value]

    def operand(self, node: Node, index: int, value: Value, builder: Builder) -> Value:
        """Returns what an op of floating point reads: a value in floating point, in its domain."""
        real = self.real(value, builder)
        return real if real is value else inside_domain(node.op, index, value, real, builder)

    def constant(self, value: Value, code: Quant, builder: Builder) -> Value:
        if (value, code) not in self.constants:
            self.constants[value, code] = builder.const(code.encode(value.array), value.name, code)
        return self.constants[value, code]

    def code_for(self, value: Value, storage: DType | None = None) -> Quant:
        """Returns the code that a value's range asks for; the op's own where it is fixed."""
        rule = value.op.quant if value.op is not None else None
        if isinstance(rule, FixedCode) and rule.serves(value.range):
            return replace(rule.code, expressed=_float_type(value.type))
        if value in self.heads and storage is None:
            return self.heads[value]
        observed, storage = self.range_of(value), storage or self.storage
        expressed = _float_type(value.type)
        if not self.options.symmetric:
            far = activation_code(observed, storage, expressed=expressed, needs_zero=False)
            if not far.holds_zero and not self.needs_zero(value, reach(far)):
                return far
        return activation_code(
            observed, storage, symmetric=self.options.symmetric, expressed=expressed
        )

    def range_of(self, value: Value) -> Interval:
        """Returns what a value ranges over; raises where that is not finite."""
        observed = value.range
        if value.is_constant:
            observed = Interval.of(value.array.min(initial=0), value.array.max(initial=0))
            if not observed.is_finite:
                raise _KeptFloat(
                    f"the constant %{value.name} is not finite; for a mask, choose by jnp.where "
                    "with a finite number such as -1e9, or give the mask as an operand"
                )
        if observed is None or not observed.is_finite:
            raise PassError(f"quantize: %{value.name} has no finite range", [value.place()])
        return observed

    def needs_zero(self, value: Value, steps: int) -> bool:
        """Whether the op that computes a value, or one that reads it, needs a code that holds 0.

        Args:
            value: A value of the float program.
            steps: How many steps from 0 a code without it reaches.
        """
        if value.is_constant or (value.op is not None and value.op.needs_zero(*_types(value))):
            return True
        return any(self.reads_zero(node, steps) for node in value.users)

    def reads_zero(self, node: Node, steps: int) -> bool:
        rule = node.op.quant
        if isinstance(node.op, Return) or isinstance(rule, KeepFloat):
            return False
        if node in self.excluded or node in self.islands:
            return False
        if any(output in self.cones or output in self.inside for output in node.outputs):
            return False
        if node.op.needs_zero(*(value.type for value in node.inputs)):
            return True
        if isinstance(rule, Accumulate):
            kernel = node.inputs[rule.right]
            # A quarter of int32 is left to the bias, which has to be as large.
            return not kernel.is_constant or (
                prod(kernel.type.known_shape[:-1]) * 127 * steps > 2**29
            )
        if isinstance(rule, SameCode):
            return any(self.needs_zero(output, steps) for output in node.outputs)
        return False

    def tidy(self) -> None:
        """Erases what nothing reads any more; coded constants get the names of the float ones."""
        for node in reversed(list(self.graph.nodes)):
            if node.outputs and not any(value.uses for value in node.outputs):
                self.graph.erase(node)
        coded = [value for value in self.constants.values() if value.node and not value.node.erased]
        self.names.settle(coded)

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


def _form(value: Value, suffix: str, new: Value) -> Value:
    """Marks a new value as a form of an imported one; `hand_over` gives one form the plain name."""
    new.origin = value.origin
    new.owner.name_after(new, f"{value.name}.{suffix}")
    return new


def _scaled(code: Quant, factor: float) -> FrozenArray:
    """Returns the scale of a code times a number, in its own type."""
    scale = code.scale.array
    return FrozenArray(np.asarray(scale * factor, scale.dtype))


def _types(value: Value) -> list[TensorType]:
    """Returns the types of the operands of the op that computes a value."""
    return [operand.type for operand in value.inputs]


def _float_type(type: TensorType) -> DType:
    return type.quant.expressed if type.quant is not None else type.dtype
