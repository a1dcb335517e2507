"""fold-scales: constant factors and offsets of a float program go into weights."""

from __future__ import annotations

from dataclasses import replace

from qir.analysis.properties import FLOAT, FLOAT_OPS
from qir.ir import Graph
from qir.ir.names import Inheritance
from qir.passes.shared.folding import fold_affine
from qir.pipeline import Context, Pass, register

_REMEDY = "behind quantize it is cancel-casts that drops casts that undo others"


@register
class FoldScales(Pass):
    """Folds constant factors and offsets into weights.

    A product, quotient or sum with a constant that is the same everywhere or varies along one axis
    goes back into the weights that compute its operand, or on into the weights that read it,
    through every op that commutes with it: relu, leaky_relu, clip with its bounds scaled, pooling,
    mean, moves of numbers, concat and add on all branches. In between, values are scaled: they lose
    their range and stand for no imported value any more. The folded weights are computed in float64
    and rounded once. A program with codes beside its float ops stays as it is.
    """

    name = "fold-scales"
    requires = (replace(FLOAT_OPS, remedy=_REMEDY),)

    def run(self, graph: Graph, context: Context) -> None:
        if FLOAT.missing(graph):
            return
        names = Inheritance(graph)
        fold_affine(graph)
        names.settle()
