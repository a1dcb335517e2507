"""Decomposed forms raised back to ops: rules that any frontend applies to what it imports."""

from __future__ import annotations

from collections.abc import Sequence

from qir.frontends.raising.activations import ACTIVATIONS
from qir.frontends.raising.affine import AFFINE, BIAS
from qir.frontends.raising.kept_powers import KEPT_POWERS
from qir.frontends.raising.layout import LAYOUT
from qir.frontends.raising.lookups import LOOKUPS
from qir.frontends.raising.masks import MASKS
from qir.frontends.raising.named import NamedCall, raise_named
from qir.frontends.raising.norms import NORMS, raise_norms
from qir.frontends.raising.reductions import REDUCTIONS, SOFTMAX
from qir.frontends.raising.resizing import RESIZING
from qir.frontends.raising.shares import LOGARITHMS, SHARES
from qir.ir import Graph
from qir.pipeline.rewrite import Rule, rewrite

__all__ = ["NamedCall", "raise_named", "raise_ops"]


def raise_ops(graph: Graph, calls: Sequence[NamedCall] = ()) -> None:
    """Raises imported ops: by the names of functions, by structure, norms by their numbers.

    Dead code is dropped.

    Afterwards a per-channel affine, such as batch normalization at inference, is a mul and an add
    by constants. A rule that fails where it is applied leaves the ops there as they were imported.

    Args:
        graph: The graph to change.
        calls: Functions whose names the source kept, outer before inner.
    """
    raise_named(graph, calls)
    _apply(graph, [*ACTIVATIONS, *REDUCTIONS, *RESIZING, *LOOKUPS])
    raise_norms(graph)
    _apply(graph, [*LAYOUT, *BIAS, *SOFTMAX, *SHARES, *MASKS, *KEPT_POWERS])
    # Behind the masks: where one drops scores, the logarithm is that of softmax itself.
    _apply(graph, LOGARITHMS)
    _apply(graph, [*NORMS, *AFFINE, *LAYOUT])


def _apply(graph: Graph, rules: Sequence[Rule]) -> None:
    # A value whose other users have just gone may match what it did not match before.
    while rewrite(graph, rules, strict=False).applied:
        continue
