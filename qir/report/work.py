"""How long a program takes, told by its size and not by a clock: the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from qir.ir import Graph
from qir.ir.signature import bind
from qir.ops.regions import RegionOp
from qir.types import Array, Dim, Size

RESULT = 256
"""How many products take as long as making one result, with its rounding and checks."""

TRIP = 2**19
"""How many products take as long as an op in one trip of a loop at least, whatever it computes."""


def work_of(graph: Graph, inputs: Sequence[Array]) -> int:
    """Returns how many products take as long as a program on some inputs in the interpreter."""
    names = {name: int(size) for name, size in bind(graph.inputs, inputs).names.items()}
    return _work_inside(graph, names, 0)


def _work_inside(graph: Graph, names: Mapping[str, int], least: int) -> int:
    """Returns the work of a graph or region, at least some for each op."""
    total = 0
    for node in graph.nodes:
        if not node.outputs or node.outputs[0].is_constant:
            continue
        types = [value.type for value in node.inputs]
        if node.regions:
            known = node.op.trip_count(types) if isinstance(node.op, RegionOp) else None
            trips = 1 if known is None else _number(known, names)
            total += trips * sum(_work_inside(region, names, TRIP) for region in node.regions)
            continue
        products = node.op.multiply_adds(types, node.outputs[0].type)
        work = _number(products, names) + RESULT * _number(node.outputs[0].type.size, names)
        total += max(work, least)
    return total


def _number(size: Size, names: Mapping[str, int]) -> int:
    if not isinstance(size, Dim):
        return size
    return size.factor * prod(names.get(name, 1) for name in size.names)
