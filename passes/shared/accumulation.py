"""What loops carry and add to in each trip: how its rounding errors gather, and what they cost.

Behind a saturating function, a product of matrices or a convolution a trip makes its values anew:
errors of the trip before are errors of an operand. What is only added to, scaled or chosen, such as
the cell of an LSTM, a GRU's state or a running sum, keeps each trip's rounding error to the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import log10

import numpy as np

from qir.ir import Graph, Node, Value
from qir.ir.passages import passing
from qir.numbers.interval import Interval
from qir.observe.statistics import Statistics
from qir.ops import Mul
from qir.ops.elementwise import Sum
from qir.ops.rules import SameCode
from qir.ops.traits import Moves
from qir.passes.shared.observed_parts import statistic_names
from qir.types import Affine, Size

LEAST_DECIBELS = 40.0
"""What the roundings of all trips must stay below, in decibels of signal to noise, or what is
carried has 16 bits: 8 bits rounded once have about 48, and a trip's other roundings as many."""

UNKNOWN_TRIPS = 100
"""How many trips are reckoned with where nobody knows before they are run."""


def accumulations(
    body: Graph, taken: Sequence[Value], returned: Sequence[Value]
) -> list[set[Value]]:
    """Finds the values through which a loop's body adds up what it carries, trip by trip.

    Args:
        body: The region.
        taken: The inputs that are carried.
        returned: What is returned for each.

    Returns:
        For each the values on the ways that only add, scale, move or choose, from what it is made
        of in turn; none where there is no such way or where all that is on it is moved.
    """
    behind = _behind(body, taken)
    makers = [behind.get(value, frozenset()) for value in returned]
    reach = [_closure(makers, index) for index in range(len(makers))]
    circles = [
        {other for other in reach[index] if index in reach[other]} for index in range(len(makers))
    ]
    paths = [
        _path(value, {each for each, of in behind.items() if circle & of})
        for value, circle in zip(returned, circles, strict=True)
    ]
    return [
        path if any(_rounds(value) for other in circle for value in paths[other]) else set()
        for path, circle in zip(paths, circles, strict=True)
    ]


def ways_within(region: Graph, taken: Sequence[Value], returned: Value) -> set[Value]:
    """Finds the values on the ways that only add, scale, move or choose, in one run of a region.

    Args:
        region: The region.
        taken: The inputs at which ways begin.
        returned: The value at which they end.
    """
    return _path(returned, set(_behind(region, taken)))


def _behind(body: Graph, taken: Sequence[Value]) -> dict[Value, frozenset[int]]:
    """Returns for each value which inputs ways lead to it from."""
    behind = {value: frozenset({index}) for index, value in enumerate(taken)}
    for node in body.nodes:
        for operand, result in _ways(node):
            found = behind.get(operand, frozenset()) | behind.get(result, frozenset())
            if found:
                behind[result] = found
    return behind


def _closure(makers: Sequence[frozenset[int]], index: int) -> set[int]:
    found: set[int] = set()
    stack = list(makers[index])
    while stack:
        other = stack.pop()
        if other not in found:
            found.add(other)
            stack.extend(makers[other])
    return found


def _path(returned: Value, among: set[Value]) -> set[Value]:
    found: set[Value] = set()
    stack = [returned]
    while stack:
        value = stack.pop()
        if value in among and value not in found:
            found.add(value)
            if value.node is not None:
                stack.extend(x for x, result in _ways(value.node) if result is value)
    return found


def _rounds(value: Value) -> bool:
    return value.node is not None and (
        bool(value.node.regions) or isinstance(value.node.op, Sum | Mul)
    )


def _ways(node: Node) -> Iterator[tuple[Value, Value]]:
    """Yields the operands and results between which a node only adds, scales, moves or chooses."""
    if node.regions:
        yield from _ways_through(node)
        return
    op = node.op
    chooses = isinstance(op.quant, SameCode) and (op.moves is not Moves.NONE or op.clip_bounds())
    if isinstance(op, Sum | Mul) or chooses:
        for result in node.outputs:
            yield from ((x, result) for x in node.inputs if x.type.is_float and not x.is_constant)


def _ways_through(node: Node) -> Iterator[tuple[Value, Value]]:
    """Yields the ways through a node with regions: what it carries, and those in branches."""
    ways = [way for way in passing(node) if any(value.type.is_float for value in way.values)]
    for way in ways:
        if way.result is None:
            continue
        if way.operand is not None:
            yield way.operand, way.result
            continue
        for returned in way.returned:
            for other in ways:
                begins = [value for value in other.inputs if value.owner is returned.owner]
                if other.operand and begins and ways_within(returned.owner, begins, returned):
                    yield other.operand, way.result


def gathered(power: float, code: Affine, trips: Size | None) -> float:
    """Returns the signal to noise ratio that the roundings of all trips leave, in decibels.

    Args:
        power: The mean square of the signal.
        code: The code that each trip rounds to.
        trips: How often; None where that is decided as the loop runs.
    """
    count = trips if isinstance(trips, int) else UNKNOWN_TRIPS
    noise = float(code.scale.array.max()) ** 2 / 12 * max(count, 1)
    return 10 * log10(max(power, 1e-300) / noise)


def mean_square(values: Iterable[Value], observed: Interval, statistics: Statistics) -> float:
    """Returns the mean square of what values hold, as if evenly spread where that is unknown.

    Args:
        values: The values; the first of which something is known is asked.
        observed: Their range.
        statistics: What calibration observed.
    """
    for name in (name for value in values for name in statistic_names(value)):
        seen = statistics.get(name)
        if seen is not None and seen.histogram is not None and seen.histogram.count:
            edges = seen.histogram.edges
            squares = np.square((edges[:-1] + edges[1:]) / 2)
            return float((squares * seen.histogram.counts).sum() / seen.histogram.count)
    low, high = (float(bound) for bound in observed.bounds)
    return (low**2 + low * high + high**2) / 3
