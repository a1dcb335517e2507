"""check-overflow: proves that every integer an op forms fits its type, or refuses the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qir.analysis.reach import (
    LONG,
    Reach,
    StoredReach,
    Sums,
    corners,
    exact_sums,
    products,
    with_zero,
)
from qir.errors import PassError
from qir.ir import Graph, Node
from qir.ops import (
    Add,
    Div,
    Embedding,
    ExpBelowMax,
    ExpBelowMaxHigh,
    ExpBelowMaxLow,
    GroupNorm,
    L2Norm,
    LayerNorm,
    Requantize,
    RmsNorm,
    Softmax,
    Sub,
)
from qir.ops.cast import is_long
from qir.ops.elementwise import Sum
from qir.ops.normalization import Normalization
from qir.ops.op import Op
from qir.ops.rules import ExactSum, FixedCode, Rescale
from qir.pipeline import Context, Pass, register


@register
class CheckOverflow(Pass):
    """Proves for every op on codes that no integer it forms can overflow, or refuses the program.

    What operands can store follows from their codes' bounds, narrowed by clamps, tables, constants
    and clipping; what is summed, from the weights of each output channel. The arithmetic is exact,
    and calibrated ranges play no part. Integers may wrap on the way: modulo 2^32 only the complete
    sum counts. The graph stays as it is.
    """

    name = "check-overflow"

    def run(self, graph: Graph, context: Context) -> None:
        stored = StoredReach()
        errors = []
        for node in graph.walk():
            added = products(node, stored)
            sums = added if added is not None else formed(node, stored)
            if sums is not None and np.any(sums.excess > 0):
                errors.append(f"check-overflow: {_describe(node, sums)}\n  {node.place()}")
            stored.add(node, added)
        if errors:
            raise PassError("\n".join(errors))


def _describe(node: Node, sums: Sums) -> str:
    excess = sums.excess
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    place, count = f"%{node.outputs[0].name}", ""
    if excess.ndim:
        index = [int(axis) for axis in worst]
        place = f"channel {index[0] if len(index) == 1 else index} of {place}"
        count = f"; channels that overflow: {np.count_nonzero(excess > 0)} of {excess.size}"
    (low, high), least, greatest = sums.limit, sums.least[worst], sums.greatest[worst]
    return (
        f"{node.op.name}: {place}: expected integers in [{low}, {high}], "
        f"got up to [{least}, {greatest}]{count}"
    )


def formed(node: Node, stored: StoredReach) -> Sums | None:
    """Returns the integers that a node which stores no exact sums forms on the way.

    Args:
        node: A node.
        stored: What its operands can store.

    Returns:
        None where the node forms none, as it moves or looks up stored numbers or is no integer op.

    Raises:
        PassError: The node's op is not known here.
    """
    if not any(value.type.quant is not None for value in node.outputs):
        return None
    if isinstance(node.op.quant, ExactSum):
        return exact_sums(node, stored)
    rule = INTERMEDIATES.get(type(node.op))
    if rule is not None:
        sums = Sums.of(rule(node, stored))
        types = [value.type for value in node.inputs]
        long = node.op.is_long(*types) if isinstance(node.op, Sum) else is_long(types[0])
        return replace(sums, limit=LONG) if long else sums
    if isinstance(node.op.quant, Rescale | FixedCode):
        raise PassError(
            f"check-overflow: no bound is known for {node.op.name}; enter one into INTERMEDIATES",
            [node.place()],
        )
    return None


def _added(node: Node, stored: StoredReach) -> Reach:
    assert isinstance(node.op, Add | Sub)
    x, y = node.inputs
    if node.op.is_exact:
        a, b = stored.steps(x), corners(stored.steps(y), (node.op.sign, node.op.sign))
        return a[0] + b[0], a[1] + b[1]
    (mx, my), shift = node.op.factors(x.type, y.type)
    a, b = corners(stored.steps(x), (mx, mx)), corners(stored.steps(y), (my, my))
    return a[0] + b[0], a[1] + b[1] + 2 ** (shift - 1)


def _exponentials(node: Node, stored: StoredReach) -> Reach:
    assert isinstance(node.op, Softmax)
    x, *_, table = node.inputs
    low, high = with_zero(stored[table])
    count = node.op.count(x.type)
    doubled = 256 * high + count * high // 2 if node.op.has_default_code else 0
    return count * low, max(count * high, doubled)


def _looked_up(node: Node, stored: StoredReach) -> Reach:
    return stored[node.inputs[-1]]


def _divided(node: Node, stored: StoredReach) -> Reach:
    # A negative divisor turns the sign of either.
    reaches = [stored.steps(value) for value in node.inputs]
    largest = max(abs(bound) for reach in reaches for bound in reach)
    return -largest, largest


def _normalized(node: Node, stored: StoredReach) -> Reach:
    assert isinstance(node.op, Normalization)
    x = node.inputs[0]
    form = node.op.standard(x.type)
    low, high = stored.steps(x)
    if form.centred:
        return form.factor * (low - high), form.factor * (high - low)
    return form.factor * low, form.factor * high


def _requantized(node: Node, stored: StoredReach) -> Reach:
    return stored.steps(node.inputs[0])


INTERMEDIATES: dict[type[Op], Callable[[Node, StoredReach], Reach]] = {
    Add: _added,
    Sub: _added,
    Softmax: _exponentials,
    **dict.fromkeys([ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow], _looked_up),
    Div: _divided,
    Requantize: _requantized,
    **dict.fromkeys([LayerNorm, GroupNorm, RmsNorm, L2Norm], _normalized),
    Embedding: _requantized,
}
"""For each op that rescales: the integers that it forms, all of which must fit int32.

Ops of one's own are entered here.
"""
