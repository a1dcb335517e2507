"""quantize-dynamic: weights in codes, activations in codes that are found at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

from qir.analysis.properties import FLOAT, QUANTIZED
from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.numbers.int32 import INT32_MAX
from qir.ops import Add, Dequantize, Dot, Embedding, Mul, QuantizeDynamic, Reshape
from qir.ops.op import Op
from qir.ops.quantize_dynamic import steps_code
from qir.ops.rules import Accumulate
from qir.passes.shared.chosen_codes import OF_CODES, ChosenCodes, serves_codes, tell_of_all
from qir.passes.shared.kept import kept_float
from qir.passes.shared.plan import KeptFloat
from qir.passes.shared.target_options import expect_accepted
from qir.passes.shared.weight_codes import WeightCoding
from qir.pipeline import Context, Pass, register
from qir.targets import Target
from qir.types import SMALLEST_SCALE, Code, Dim, DType, product

STEPS = {"i8": 127, "i4": 7}
"""The largest step of activations of each width; those of 4 bits are stored in i8."""

StepsAndScale: TypeAlias = tuple[Value, Value]
"""Steps, and what they are to be multiplied by."""

_STAYS = "quantize-dynamic codes products, convolutions and embeddings, and nothing else"


@register
class QuantizeDynamicPass(Pass):
    """Computes products and convolutions on integers, without calibration.

    Weights are coded symmetrically, as by pass quantize. The tensor that meets them is quantized at
    run time, so that its range is that of its own numbers: each row of a product has a scale, and
    each sample of a convolution. What comes out is a float again: the sum times the scales, plus
    the bias. A product of two activations gives the second one a scale for each column. Tables of
    embeddings are coded by row; everything else stays in floating point and has a note that says
    why (`qir.explain`).

    It needs no data and no ranges. Outliers of one token take no steps from another, so that
    transformers lose little; what calibrated codes save, the floats between two products, it does
    not save.

    Attributes:
        weights: Storage of weights and tables.
        activations: Width of activations; steps of 4 bits are stored in i8.
        per: What of the weights has a scale of its own, as in pass quantize.
        scheme: The kind of code of the weights, likewise; one whose scale multiplies integers.
        scales: Whether each row of a product and each sample of a convolution has a scale, or the
            tensor has one, as in ONNX Runtime.
        products: Which products: those with weights, or also those of two activations, as in
            attention.
        keep_float: Selectors of the ops that stay in floating point; see `qir opt --list`.
    """

    weights: Literal["i8", "i4", "i2"] = "i8"
    activations: Literal["i8", "i4"] = "i8"
    per: str = "channel"
    scheme: str = "affine"
    scales: Literal["row", "tensor"] = "row"
    products: Literal["weights", "all"] = "all"
    keep_float: tuple[str, ...] = ()

    name = "quantize-dynamic"
    requires = (FLOAT,)
    whole_program = True
    follows = OF_CODES
    keeps = "approximate"

    def check(self) -> None:
        self.coding.check(exact=True)

    @property
    def coding(self) -> WeightCoding:
        """The codes that weights get."""
        return WeightCoding(self.weights, self.per, self.scheme, self.name)

    def run(self, graph: Graph, context: Context) -> None:
        target = context.target
        modes = None if target is None else target.dynamic_modes
        if target is not None and modes is not None and "symmetric" not in modes:
            raise QirError(
                f"quantize-dynamic: expected a target that finds symmetric scales at run time, got "
                f"{target.name}; calibrate on data, as by pipeline w8a8"
            )
        chosen = ChosenCodes.of(
            graph,
            context,
            kept_float(graph, self.keep_float),
            storage_of=partial(self._storage_with, target),
            coding_of=partial(self._coding_with, target),
            serves=_serves,
        )
        if context.recipe is not None:
            tell_of_all(graph, self, OF_CODES)
        _DynamicQuantizer(self, graph, chosen, target).run()
        if QUANTIZED.missing(graph):
            context.unattained.add(QUANTIZED)
            context.diagnostics.append(
                "quantize-dynamic: nothing was quantized, as there is no product, convolution or "
                "embedding that could be; see qir.explain"
            )

    def _coding_with(self, target: Target | None, wanted: Mapping[str, Any]) -> WeightCoding:
        """Returns the codes of weights with what a rule chooses, which a target has to accept."""
        options = replace(self, **wanted)
        if target is not None:
            expect_accepted(self, wanted, target)
        return options.coding

    def _storage_with(self, target: Target | None, wanted: str) -> DType:
        """Returns the width that a rule chooses for what products read."""
        given: dict[str, Any] = {"activations": wanted}
        replace(self, **given)
        if target is not None:
            expect_accepted(self, {"activations": "i8"}, target)
        return DType(wanted)


def _serves(name: str, value: Value) -> bool:
    """Whether a choice can mean something here: codes of activations are of what products read."""
    if name != "activations":
        return serves_codes(name, value)
    return value.type.is_float and any(
        isinstance(user.op.quant, Accumulate) for user in value.users
    )


class _DynamicQuantizer:
    """One run over one graph, in order."""

    def __init__(
        self,
        options: QuantizeDynamicPass,
        graph: Graph,
        chosen: ChosenCodes,
        target: Target | None,
    ) -> None:
        self.options = options
        self.chosen = chosen
        self.target = target
        self.graph = graph
        self.names = Inheritance(graph)
        self.steps: dict[tuple[Value, tuple[int, ...]], StepsAndScale] = {}
        self.constants: dict[tuple[Value, Code], Value] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            match node.op:
                case Embedding():
                    convert = self.convert_rows
                case Op(quant=Accumulate() as rule):
                    convert = partial(self.convert_sum, rule)
                case _:
                    for region in node.regions:
                        _DynamicQuantizer(self.options, region, self.chosen, self.target).run()
                    if not node.note:
                        node.note = _STAYS
                    continue
            if node in self.chosen.kept:
                node.note = "a selector keeps it in floating point"
                continue
            if self.target is not None and (lacking := self.target.why_float(node)) is not None:
                node.note = lacking
                continue
            builder = self.graph.before(node)
            try:
                new = convert(node, builder)
            except (KeptFloat, QirError) as reason:
                node.note = getattr(reason, "message", str(reason))
                self.take_back(builder)
                continue
            if (storage := self.chosen.storages.get(node.output)) is not None:
                self.chosen.storages[new] = storage
            node.output.replace_with(new)
            self.erase(node)
        self.names.settle(self.constants.values())

    def convert_rows(self, node: Node, builder: Builder) -> Value:
        table, ids = node.inputs
        if not table.is_constant:
            raise KeptFloat(f"the table %{table.name} is not a constant")
        assert isinstance(node.op, Embedding)
        code = self.coding_of(node).for_rows(
            table.array, factor=node.op.factor, output_scale=SMALLEST_SCALE
        )
        code = replace(code, expressed=table.type.dtype)
        self.check_code(code, node.op.name)
        return builder.emit(node.op, self.constant(table, code, builder), ids)

    def convert_sum(self, rule: Accumulate, node: Node, builder: Builder) -> Value:
        output = node.output
        x, kernel = node.inputs[rule.left], node.inputs[rule.right]
        self.check(node, x, kernel)
        # The axes of each operand that are summed, or for a convolution all of a sample.
        rows = (x.type.rank - 1,) if isinstance(node.op, Dot) else tuple(range(1, x.type.rank))
        steps, *scales = self.quantized(x, rows, builder)
        if kernel.is_constant:
            weights = self.weights(kernel, node, builder)
        else:
            weights, by_column = self.quantized(kernel, (kernel.type.rank - 2,), builder)
            scales.append(self.beside_rows(by_column, node, builder))
        total = builder.emit(node.op, steps, weights)
        self.graph.name_after(total, f"{output.name}.acc")
        real = builder.emit(Dequantize(), total)
        self.graph.name_after(real, f"{output.name}.unscaled")
        for scale in scales:
            real = builder.emit(Mul(), real, scale)
            self.graph.name_after(real, f"{output.name}.scaled")
            assert real.node is not None
            real.node.note = "it multiplies by a scale that is found at run time"
        for bias in node.inputs[rule.bias :]:
            real = builder.emit(Add(), real, bias)
            assert real.node is not None
            real.node.note = "it adds the bias to what a scale that is found at run time multiplied"
        return real

    def check(self, node: Node, x: Value, kernel: Value) -> None:
        """Raises KeptFloat where the operands of a sum can't be quantized at run time."""
        if x.is_constant:
            raise KeptFloat(f"%{x.name} is a constant where an activation belongs")
        if not x.type.is_float or not kernel.type.is_float:
            raise KeptFloat("it sums products of integers")
        if not kernel.is_constant and self.options.products == "weights":
            raise KeptFloat(f"%{kernel.name} is not a constant, and products=weights")
        if not kernel.is_constant and not isinstance(node.op, Dot):
            raise KeptFloat(f"the kernel %{kernel.name} is not a constant")
        batch = node.op.batch if isinstance(node.op, Dot) else 0
        terms = product(kernel.type.shape[batch:-1])
        if isinstance(terms, Dim):
            raise KeptFloat(f"it sums over the named dimension {terms}, so that no sum is bounded")
        largest = self.largest_step(x)
        weighed = kernel.is_constant
        most = self.coding_of(node).greatest_step if weighed else self.largest_step(kernel)
        if terms * largest * most > INT32_MAX:
            raise KeptFloat(f"its sums of {terms} products might leave 32 bits")

    def quantized(self, x: Value, axes: tuple[int, ...], builder: Builder) -> StepsAndScale:
        """Returns the steps of an activation and their scale; those of each axes once."""
        if self.options.scales == "tensor":
            axes = tuple(range(x.type.rank))
        if (x, axes) not in self.steps:
            code = steps_code(self.largest_step(x))
            self.check_code(code)
            steps, scale = builder.emit_node(QuantizeDynamic(axes, code), [x]).outputs
            self.graph.name_after(steps, f"{x.name}.q")
            self.graph.name_after(scale, f"{x.name}.scale")
            self.steps[x, axes] = steps, scale
        return self.steps[x, axes]

    def beside_rows(self, scale: Value, node: Node, builder: Builder) -> Value:
        """Returns the scale of a second operand in the rank of the result, 1 along its rows."""
        rank = node.output.type.rank
        if scale.type.rank == rank:
            return scale
        assert isinstance(node.op, Dot)
        batch, shape = node.op.batch, scale.type.shape
        return builder.emit(Reshape((*shape[:batch], *(1,) * (rank - batch - 1), shape[-1])), scale)

    def check_code(self, code: Code, op: str | None = None) -> None:
        """Raises KeptFloat where the target does not accept a code of an op's weights.

        Args:
            code: The code.
            op: The op; None where it is the code of an activation.
        """
        if self.target is None:
            return
        broken = (
            self.target.broken_by_activation(code)
            if op is None
            else self.target.broken_by_weight(code, op)
        )
        if broken is not None:
            raise KeptFloat(f"target {self.target.name}: expected {broken.expected}, got {code}")

    def coding_of(self, node: Node) -> WeightCoding:
        return self.chosen.codings.get(node, self.options.coding)

    def largest_step(self, x: Value) -> int:
        """Returns the largest step of an activation."""
        chosen = self.chosen.storages.get(x)
        return STEPS[self.options.activations if chosen is None else chosen.value]

    def weights(self, kernel: Value, node: Node, builder: Builder) -> Value:
        # No result has a code whose steps a channel could be too small for.
        steps = steps_code(STEPS["i8"])
        code = self.coding_of(node).for_sums(kernel.array, steps, output_scale=SMALLEST_SCALE)
        self.check_code(code, node.op.name)
        return self.constant(kernel, code, builder)

    def constant(self, value: Value, code: Code, builder: Builder) -> Value:
        if (value, code) not in self.constants:
            self.constants[value, code] = builder.const(code.encode(value.array), value.name, code)
        return self.constants[value, code]

    def take_back(self, builder: Builder) -> None:
        """Erases what was emitted for a conversion that failed."""
        for node in reversed(builder.emitted):
            for key in [key for key, made in self.steps.items() if made[0] in node.outputs]:
                del self.steps[key]
            for pair in [pair for pair, made in self.constants.items() if made in node.outputs]:
                del self.constants[pair]
            self.graph.erase(node)

    def erase(self, node: Node) -> None:
        """Erases a node, and the constants that nothing else reads."""
        operands = dict.fromkeys(node.inputs)
        self.graph.erase(node)
        for value in operands:
            if value.is_constant and not value.uses and value.node is not None:
                self.graph.erase(value.node)
