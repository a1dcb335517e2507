"""lower-requantize: the machine numbers behind every requantize, add and sub, written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qir.analysis.properties import QUANTIZED
from qir.ir import Graph, Node
from qir.numbers.rounding import rounding_mode
from qir.ops import Requantize
from qir.ops.elementwise import Sum
from qir.pipeline import Context, Pass, register
from qir.types import Array, FrozenArray, known


@register
class LowerRequantize(Pass):
    """Gives every requantize the multiplier and shift that its rounding mode makes of the scales.

    One pair where the codes are per tensor, one for each channel otherwise. The numbers are those
    that the requantize had been computed with, so the program keeps every bit; what has a
    multiplier already, from an import or an earlier run, keeps it. A requantize whose codes vary
    along several axes has no such form: it stays, and a diagnostic names it. An add or sub gets a
    multiplier for each operand, and the shift that they share.
    """

    name = "lower-requantize"
    requires = (QUANTIZED,)
    whole_program = True

    def run(self, graph: Graph, context: Context) -> None:
        for node in graph.walk():
            if isinstance(node.op, Sum) and node.op.to is not None and not node.op.is_exact:
                (mx, my), shift = node.op.factors(*(value.type for value in node.inputs))
                node.op = replace(node.op, multipliers=(mx, abs(my)), shift=shift)
            if isinstance(node.op, Requantize) and node.op.multiplier is None:
                lowered = _lowered(node, node.op)
                if lowered is None:
                    context.diagnostics.append(
                        f"lower-requantize: %{node.output.name} keeps its scales, "
                        "which vary along several axes"
                    )
                else:
                    node.op = lowered


def _lowered(node: Node, op: Requantize) -> Requantize | None:
    x = node.inputs[0].type
    factors = op.factors(x)
    varying = [axis for axis, size in enumerate(factors.value.shape) if size > 1]
    if len(varying) > 1:
        return None

    def flat(numbers: Array) -> FrozenArray:
        if not varying:
            return FrozenArray(numbers.reshape(()))
        size = known(x.shape[varying[0]], "lower-requantize")
        return FrozenArray(np.repeat(numbers.ravel(), size // numbers.size))

    shift = flat(factors.shift) if rounding_mode(op.rounding).has_shift else None
    return replace(op, multiplier=flat(factors.value), shift=shift)
