"""What the regions of a loop or branch get, by the reference, to compare them on as programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from qir.backends.reference.interpreter import bind_inputs, run, run_all
from qir.ir import Graph, Node
from qir.ops.regions import RegionOp
from qir.types import Array

TRIPS = 4
"""Of how many trips a body is compared: the first, the last, and some between."""

Inputs: TypeAlias = tuple[Array, ...]


def region_samples(graph: Graph, node: Node, inputs: Sequence[Array]) -> list[list[Inputs]]:
    """Returns inputs of each region in some trips.

    Args:
        graph: The program.
        node: A node of it with regions.
        inputs: The inputs of the program.

    Raises:
        QirError: The reference has no result for them.
    """
    assert isinstance(node.op, RegionOp)
    values = run_all(graph, *inputs)
    _, sizes = bind_inputs(graph, inputs)
    calls: list[list[Inputs]] = [[] for _ in node.regions]

    def body(region: Graph, seen: list[Inputs]) -> Callable[..., tuple[Array, ...]]:
        def compute(*arrays: Array) -> tuple[Array, ...]:
            seen.append(tuple(map(np.asarray, arrays)))
            return run(region, *seen[-1])

        return compute

    node.op.run(
        list(map(body, node.regions, calls)),
        [values[value] for value in node.inputs],
        [sizes.shape(value.type.shape) for value in node.outputs],
    )
    return [_spread(seen) for seen in calls]


def _spread(seen: Sequence[Inputs]) -> list[Inputs]:
    places = {round(at) for at in np.linspace(0, len(seen) - 1, TRIPS)} if seen else set()
    return [seen[place] for place in sorted(places)]
