"""Writing covers as steps: each concatenation's operands are made where they are to lie.

An operand that is the whole result from some place to another, as along the outermost axis, lies
there like any tensor. One along the last axis has its rows apart, as far as a row of the result is
long; its kernel must be able to write that, and nothing else may read it. What is neither is copied
by the concatenation's own cover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from qir.backends.native.pattern import Cover, Region, sole_reader
from qir.ir import Node, Value
from qir.ops import Concat
from qir.report.progress import watched


def write(covers: Sequence[Cover], region: Region) -> None:
    """Adds the steps of covers.

    Args:
        covers: The covers, in an order in which each finds what it reads.
        region: Where to write.
    """
    makers = {value: cover for cover in covers for value in cover.nodes[-1].outputs}
    # What contains others is placed before them.
    for cover in reversed(covers):
        node = cover.nodes[-1]
        if isinstance(node.op, Concat):
            _place_operands(node, node.op.axis, makers, region)
    for cover in watched(covers, "packing weights"):
        region.plan.nodes = cover.nodes
        cover.write(region)


def _place_operands(node: Node, axis: int, makers: Mapping[Value, Cover], region: Region) -> None:
    shape = region.shape(node.output)
    strides = region.strides(node.output)
    last = axis == len(shape) - 1
    outer = prod(shape[:axis])
    place = region.write(node.output)
    for x in node.inputs:
        at = place
        place = place.further(region.shape(x)[axis] * strides[axis])
        if x not in makers or region.is_placed(x):
            continue
        if outer == 1 and (last or not region.is_apart(node.output)):
            region.place(x, at)
        elif (outer == 1 or last) and makers[x].rows_apart and sole_reader(x) is node:
            region.place(x, at, region.pitch(node.output))
