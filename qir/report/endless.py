"""Loops that come to an end in floating point and not in codes, found without waiting for them."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from qir.errors import EndlessError
from qir.ir import Graph, Node, OwnError
from qir.ops import While

MOST_TRIPS = 500
"""After how many trips a loop counts as one without an end: seconds of the interpreter's time."""


def stopped_early(graph: Graph) -> Graph:
    """Returns a copy whose loops are stopped after `MOST_TRIPS` trips."""
    copy = graph.copy()
    for node in copy.walk():
        if isinstance(node.op, While):
            node.op = replace(node.op, max_trips=min(node.op.max_trips, MOST_TRIPS))
    return copy


def loop_of(error: EndlessError, program: Graph) -> Node:
    """Returns the loop of a program that an error is about."""
    loops = [node for node in program.walk() if isinstance(node.op, While)]
    return next((node for node in loops if node.place() in error.places), loops[0])


def own_error_of(loop: Node) -> OwnError:
    """Returns what is told of a loop whose condition is met in the float program alone."""
    assert isinstance(loop.op, While)
    result, trips = loop.outputs[0], loop.op.max_trips
    name = (*result.origin, result.name)[0]
    detail = f"the float program's comes to its end, this one's had none after {trips:,} trips"
    return OwnError(loop.op.name, name, loop.loc, -inf, -inf, "no end", name, detail)
