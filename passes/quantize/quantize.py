"""quantize: from a float program with ranges to one of codes and casts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from qir.analysis.properties import QUANTIZED, RANGED, Property
from qir.errors import QirError
from qir.ir import Graph
from qir.numbers.rounding import rounding_mode
from qir.passes.shared.boundary import Boundary, Interface
from qir.passes.shared.chosen_codes import OF_CODES, ChosenCodes, tell_of_all
from qir.passes.shared.code_options import Carries, CodeOptions
from qir.passes.shared.kept import kept_float
from qir.passes.shared.lifting import Lifting
from qir.passes.shared.region_conversion import Quantization
from qir.passes.shared.target_options import expect_accepted, for_target
from qir.passes.shared.weight_codes import WeightCoding
from qir.passes.shared.weight_only import WeightCoder
from qir.pipeline import Context, Pass, register
from qir.report.explain import explain
from qir.targets import Target
from qir.targets.obstacles import obstacles
from qir.types import DType


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

    What has a code already keeps it. Ops between dequantize and quantize become integer ones as
    by lift-qdq, decoded constants are the weights that they are stored as, and the code of a
    quantize is that of what it rounds. Ranges are asked of the other values alone.

    Where the program is for a target, options at their default become what it accepts, others are
    refused unless it does, and what it can't compute on codes stays in floating point. Codes that
    the program has already stay, with a sentence where the target does not accept them.

    What goes through a loop or a branch has one code on its way: that of the hull of what comes in,
    is handed on and leaves. Regions are converted as the program around them is, and what nothing
    inside computes on codes of stays in floating point.

    With `activations=float` the weights alone get codes: they are dequantized where they are read,
    and nothing needs a range. See qir.passes.shared.weight_only.

    Attributes:
        weights: Storage of weights.
        activations: Storage of activations; `float` leaves them as they are.
        per: What has a scale of its own: each output `channel`, the `tensor`, each `row` of what is
            summed, or so many rows of a channel, as `block:32`, by scales of two levels. Where that
            does not divide the rows, it is the greatest number below that does and is at least half
            of it, else the least above.
        scheme: The kind of code of the weights; see qir.passes.shared.weight_codes.
        symmetric: Whether activations have their zero point in the middle.
        inputs: What the program takes: floating-point numbers, or stored numbers of one of two
            types.
        outputs: What the program returns, likewise.
        carries: The storage of what a loop carries; `auto` has 16 bits where the roundings of all
            trips would leave less than 40 dB at 8 bits, as an LSTM's cell does.
        keep_float: Selectors of the ops that stay in floating point; see `qir opt --list`.
        rounding: The rounding mode of requantizes; ops that round their own sum, such as add, keep
            theirs.
        correct_bias: Whether biases take in what rounding the weights costs on average; see
            qir.passes.shared.bias_correction.
    """

    weights: Literal["i8", "i4", "i2", "i16"] = "i8"
    activations: Literal["i8", "u8", "i16", "float"] = "i8"
    per: str = "channel"
    scheme: str = "affine"
    symmetric: bool = False
    inputs: Interface = "float"
    outputs: Interface = "float"
    carries: Carries = "auto"
    keep_float: tuple[str, ...] = ()
    rounding: str = "fixed31"
    correct_bias: bool = True

    name = "quantize"
    requires = (RANGED,)
    whole_program = True
    follows = OF_CODES
    keeps = "approximate"

    def check(self) -> None:
        try:
            rounding_mode(self.rounding)
        except QirError as error:
            raise QirError(f"quantize: {error.message}") from error
        self.coding.check(exact=self.activations != "float")
        if self.activations == "float" and {self.inputs, self.outputs} != {"float"}:
            raise QirError(
                "quantize: activations=float leaves inputs and outputs as floats, got "
                f"inputs={self.inputs}, outputs={self.outputs}; write activations=i8 for codes"
            )

    @property
    def coding(self) -> WeightCoding:
        """The codes that weights get."""
        return WeightCoding(self.weights, self.per, self.scheme)

    @property
    def needs(self) -> tuple[Property, ...]:
        """What must hold before: ranges, unless activations stay floats."""
        return () if self.activations == "float" else self.requires

    def run(self, graph: Graph, context: Context) -> None:
        options = self
        if context.target is not None:
            context.diagnostics += _refused_codes(graph, context.target)
            options = for_target(self, context.target)
        options.convert(graph, context)
        if QUANTIZED.missing(graph):
            context.unattained.add(QUANTIZED)
            context.diagnostics.append(f"quantize: nothing was quantized; {_reasons(graph)}")

    def convert(self, graph: Graph, context: Context) -> None:
        """Gives values codes by the options as they are."""
        kept = kept_float(graph, self.keep_float)
        chosen = ChosenCodes.of(
            graph,
            context,
            kept,
            storage_of=partial(self._storage_with, context),
            coding_of=partial(self._coding_with, context),
        )
        if context.recipe is not None:
            tell_of_all(graph, self, OF_CODES)
        if self.activations == "float":
            WeightCoder(graph, self.coding, chosen, context, correct_bias=self.correct_bias).run()
            return
        if QUANTIZED.missing(graph) is None:
            Lifting(graph, kept=chosen.kept, target=context.target).run()
        chosen.spread(graph, DType(self.activations))
        options = CodeOptions(
            storage=DType(self.activations),
            symmetric=self.symmetric,
            weights=self.coding,
            rounding=self.rounding,
            correct_bias=self.correct_bias,
            carries=self.carries,
            target=context.target,
            chosen=chosen,
        )
        boundary = Boundary.of_program(graph, self.inputs, self.outputs)
        Quantization(options, context).convert(graph, boundary)

    def _coding_with(self, context: Context, wanted: Mapping[str, Any]) -> WeightCoding:
        """Returns the codes of weights with what a rule chooses, which a target has to accept."""
        options = replace(self, **wanted)
        if context.target is not None:
            expect_accepted(self, wanted, context.target)
            options = for_target(options, context.target)
        return options.coding

    def _storage_with(self, context: Context, wanted: str) -> DType:
        """Returns the storage that a rule chooses, which the pass has to have and a target too."""
        if self.activations == "float":
            raise QirError(
                "quantize: expected a pass that codes activations, got activations=float; take a "
                "pipeline such as w8a8"
            )
        given: dict[str, Any] = {"activations": wanted}
        replace(self, **given)
        if context.target is not None:
            expect_accepted(self, {"activations": wanted}, context.target)
        return DType(wanted)


def _refused_codes(graph: Graph, target: Target) -> list[str]:
    """Says which casts that a program has before it is quantized a target does not accept."""
    found = [each for each in obstacles(graph, target) if each.op in ("quantize", "dequantize")]
    if not found:
        return []
    more = f", and {len(found) - 1} more" if found[1:] else ""
    return [
        f"quantize: what has a code keeps it, also where target {target.name} does not accept it: "
        f"{found[0].op} of %{found[0].value}, {found[0].rule}{more}; give it another code before"
    ]


def _reasons(graph: Graph) -> str:
    """Says why a program has no code after all."""
    lines = explain(graph).floats
    if not lines:
        return "no op computes in floating point"
    first = f"{lines[0].op} of %{lines[0].value}: {lines[0].reason}"
    return f"{first}, and {len(lines) - 1} more; see qir.explain" if lines[1:] else first
