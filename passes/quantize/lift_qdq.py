"""lift-qdq: ops between dequantize and quantize become integer ones."""

from __future__ import annotations

from qir.errors import QirError
from qir.ir import Graph
from qir.numbers.rounding import rounding_mode
from qir.passes.shared.chosen_codes import ChosenCodes
from qir.passes.shared.lifting import Lifting
from qir.pipeline import Context, Pass, register


@register
class LiftQdq(Pass):
    """Turns `quantize(op(dequantize(x), …))` into the op on codes, wherever those are given.

    What dequantize decodes is read as it is stored, and each quantize becomes the integer form of
    what it rounds. What stays in floating point has a note that says why (`qir.explain`).

    Measured against the float program in real arithmetic:

    - What moves, compares or clamps stored numbers, and what goes from one code to another, gives
      the same integers, bit for bit, as quantize and dequantize of the reference do. A requantize
      is used where it does that for every stored number, else a table.
    - A function of one tensor stays between its dequantize and quantize, for lookup-tables, which
      computes the same in float64.
    - Sums of products, products, means and pools are summed exactly, and rounded once by a
      requantize. What it rounds is off by 2^-30 of itself or less for `fixed31`, by 2^-22 for
      `f32_rne` and where a constant factor goes into its scale: an integer differs only where the
      real number is that near to halfway between two, and then by one.
    - A bias is stored in steps of the accumulator. One that was not is rounded to half of one.
    - add and sub round their sum once, halves up, within the bound of `qir.numbers.common_shift`:
      2^-14 of a step for operands of the result's scale.
    - softmax, quotients and norms have an integer meaning of their own, within the bounds that
      their ops state.

    A value that a float op reads as well is still there in floating point, unrounded; for an
    accumulator that is what it decodes to. A program without codes stays as it is.

    Attributes:
        rounding: The rounding mode of requantizes; `source` for that which the source of each
            quantize has, told by its mode: `fixed31` for reciprocal, `f32_rne` for divide (ONNX
            Runtime) and zero_point_first (PyTorch), `tflite_double` for half_away (TFLite); or the
            first of a target that lacks it.
        round_bias: Whether biases that are no whole steps of the accumulator may be rounded to
            such; otherwise what has one stays in floating point.
    """

    rounding: str = "source"
    round_bias: bool = True

    name = "lift-qdq"
    whole_program = True
    follows = ("keep_float",)
    keeps = "approximate"

    def check(self) -> None:
        if self.rounding == "source":
            return
        try:
            rounding_mode(self.rounding)
        except QirError as error:
            raise QirError(f"lift-qdq: {error.message}, or source") from error

    def run(self, graph: Graph, context: Context) -> None:
        rounding = None if self.rounding == "source" else self.rounding
        kept = ChosenCodes.of(graph, context, set(), names=self.follows).kept
        Lifting(
            graph,
            rounding=rounding,
            round_bias=self.round_bias,
            kept=kept,
            target=context.target,
        ).run()
