"""Folding constant factors and offsets into weights, on a floating-point program."""

from __future__ import annotations

import numpy as np

from qir.ir import Builder, Graph, Value
from qir.ops import Softmax
from qir.ops.products import Products
from qir.passes.shared.affine import affine_chain, at_linear_ops, chain_goes_on
from qir.passes.shared.commute import backward, extracted
from qir.passes.shared.masking import MASKED
from qir.passes.shared.weights import cannot_enter, emit_for, into_inputs
from qir.pipeline.rewrite import Skip, rewrite, rule

MOST_READERS = 16
"""Readers of a value that are asked whether all can take in its map; more would not stay linear."""


@rule()
def fold_back(y: Value, b: Builder) -> Value | Skip | None:
    """conv(x, w) * c -> conv(x, w * c), also through ops between them that commute."""
    if chain_goes_on(y) or (chain := affine_chain(y)) is None:
        return None
    source = chain.source
    if np.min(chain.affine.offset, initial=0) <= MASKED and any(
        isinstance(node.op, Softmax) for node in y.users
    ):
        return Skip("it masks scores, beside which nothing else would have a range", y)
    if len(source.uses) != 1:
        return Skip("what it scales is read elsewhere too", source)
    plan = backward(source, chain.affine)
    return plan if isinstance(plan, Skip) else emit_for(y, plan, b)


@rule(Products)
def fold_forward(y: Value, b: Builder) -> Value | Skip | None:
    """conv(x * c, w) -> conv(x, c * w), also through ops between them that commute."""
    x = y.inputs[0]
    if len(x.uses) > 1:
        return _fold_into_all(y, x, b)
    found = extracted(x)
    if found is None or isinstance(found, Skip):
        return found
    plan = into_inputs(y, found.affine, found.plan)
    return plan if isinstance(plan, Skip) else emit_for(y, plan, b)


def _fold_into_all(y: Value, x: Value, b: Builder) -> Value | Skip | None:
    """Folds the affine map that computes x into one of several readers, if all of them can."""
    if (chain := affine_chain(x)) is None:
        return None
    if len(x.uses) > MOST_READERS:
        return Skip(f"has more than {MOST_READERS} readers", x)
    for node, index in x.uses:
        if index != 0 or not isinstance(node.op, Products):
            return Skip(f"is read by {node.op.name} too", x)
        if skip := cannot_enter(node.outputs[0], chain.affine):
            return skip
    plan = into_inputs(y, chain.affine, lambda _: chain.source)
    return plan if isinstance(plan, Skip) else emit_for(y, plan, b)


AFFINE_RULES = (fold_back, fold_forward)


def fold_affine(graph: Graph) -> None:
    """Folds all affine maps that can reach weights, after dropping what nothing reads."""
    rewrite(graph, (), nested=False)
    # A rule looks past its operands: what another one freed far away shows in the next round.
    rules = at_linear_ops(fold_back), fold_forward
    while rewrite(graph, rules, nested=False).applied:
        pass
