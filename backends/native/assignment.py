"""Buffer assignment: matches become steps, and each tensor gets its part of a buffer.

The operands of a concatenation are made where they are to lie. One that is the whole result from
some place to another, as along the outermost axis, lies there like any tensor. One along the last
axis has its rows apart, as far as a row of the result is long; its kernel must be able to write
that, and nothing else may read it. What is neither is copied by the concatenation's own match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from qir.backends.native.pattern import Match, Placement, sole_reader
from qir.ir import Node, Value
from qir.ops import Concat
from qir.report.progress import watched


def write(matches: Sequence[Match], placement: Placement) -> None:
    """Adds the steps of matches.

    Args:
        matches: The matches, in an order in which each finds what it reads.
        placement: Where to write.
    """
    makers = {value: match for match in matches for value in match.results}
    # What contains others gets its buffer before them.
    for match in reversed(matches):
        node = match.nodes[-1]
        if isinstance(node.op, Concat):
            _assign_operands(node, node.op.axis, makers, placement)
    for match in watched(matches, "packing weights"):
        placement.plan.nodes = match.nodes
        match.write(placement)


def _assign_operands(
    node: Node, axis: int, makers: Mapping[Value, Match], placement: Placement
) -> None:
    shape = placement.shape(node.output)
    strides = placement.strides(node.output)
    last = axis == len(shape) - 1
    outer = prod(shape[:axis])
    view = placement.write(node.output)
    for x in node.inputs:
        at = view
        view = view.further(placement.shape(x)[axis] * strides[axis])
        if x not in makers or placement.is_assigned(x):
            continue
        if outer == 1 and (last or not placement.is_apart(node.output)):
            placement.assign(x, at)
        elif (outer == 1 or last) and makers[x].rows_apart and sole_reader(x) is node:
            placement.assign(x, at, placement.pitch(node.output))
