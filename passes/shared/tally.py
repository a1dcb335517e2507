"""What is counted of the values of a program, and how it follows from what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ir.passages import passing
from qir.ir.signature import Sizes
from qir.observe.channels import few_places, observe_moments
from qir.observe.histograms import Histogram, NonFiniteError, observe, observe_clipped
from qir.ops import Cond, Reshape
from qir.ops.traits import Moves
from qir.passes.shared.channel_scaling import uneven_chains
from qir.passes.shared.observed_parts import PartStatistics, observe_parts, observed_parts
from qir.types import Array


def is_observed(value: Value) -> bool:
    """Whether a value is observed: floating-point numbers, but for constants."""
    return value.type.is_float and not value.is_constant


def float_values(graph: Graph) -> list[Value]:
    """Returns the values that are observed, those inside of regions among them."""
    return list(filter(is_observed, graph.values_inside()))


def sources(graph: Graph) -> dict[Value, Value]:
    """Returns for each observed value the one whose numbers it holds in another order, or itself.

    What is the same in each trip of a loop, or one part of it in each, holds the numbers of the
    operand; what the trips return to be stacked is what is inside.
    """
    values = float_values(graph)
    before: dict[Value, Value] = {}
    for node in graph.walk():
        if node.op.moves is Moves.ORDER:
            before |= dict.fromkeys(node.outputs, node.inputs[0])
        for passage, operand, inputs, returned, result in passing(node):
            # A branch may take no part of what goes into it.
            always = passage.kind != "carried" and not isinstance(node.op, Cond)
            if operand is not None and always:
                before |= dict.fromkeys(inputs, operand)
            if result is not None and passage.kind == "stacked":
                before[result] = returned[0]
    found: dict[Value, Value] = {}
    for value in values:
        way, step = list[Value](), value
        while step not in found:
            way.append(step)
            following = before.get(step)
            if following is None or not is_observed(following):
                found[step] = step
            else:
                step = following
        found |= dict.fromkeys(way, found[step])
    return {value: found[value] for value in values}


@dataclass(frozen=True, eq=False)
class Trip:
    """What was computed of a graph at one go.

    Args:
        computed: The numbers of values.
        places: Where that was, from the inside out, such as `trip 3 of scan %y`; none of a program.
    """

    computed: dict[Value, Any]
    places: tuple[str, ...] = ()

    def array(self, path: Sequence[Value], sizes: Sizes, *, few: bool = False) -> Array | None:
        """Returns the numbers of a value, from what was computed; None where that does not do.

        Args:
            path: The value, and what it is a move or a clip of, one behind the other.
            sizes: The sizes of named dimensions.
            few: Whether those of some places do; see `few_places`.
        """
        start = next((place for place, known in enumerate(path) if known in self.computed), None)
        if start is None:
            return None
        array = np.asarray(self.computed[path[start]])
        if few and all(clip.op and clip.op.clip_bounds() for clip in path[:start]):
            array, few = few_places(array), False
        for moved in reversed(path[:start]):
            if isinstance(moved.op, Reshape):
                array = array.reshape(sizes.shape(moved.type.shape))
            else:
                assert moved.op is not None
                array = np.asarray(moved.op.evaluate(array))
        return few_places(array) if few else array


@dataclass(frozen=True, eq=False)
class Tally:
    """What was counted on a batch so far.

    Attributes:
        sizes: The named sizes that the batch tells.
        statistics: The statistic of each counted value.
        parts: Those of parts of values.
    """

    sizes: Sizes
    statistics: dict[Value, Histogram] = field(default_factory=dict)
    parts: PartStatistics = field(default_factory=PartStatistics)


def _clip_of(value: Value) -> tuple[Value, float, float] | None:
    """Returns the operand and the bounds, float32 values, if a value is another one clipped."""
    bounds = None if value.op is None else value.op.clip_bounds()
    if bounds is None:
        return None
    # A bound is a number of the value's type.
    element = value.type.dtype.numpy
    low, high = (float(np.float32(np.asarray(bound, element))) for bound in bounds)
    return (value.inputs[0], low, high) if low < np.inf and high > -np.inf else None


class Watched:
    """The values of a program that are counted.

    A clipped value, such as what a relu returns, is neither fetched nor counted: its statistic
    follows from that of its operand.

    Args:
        graph: The program.
        bins: Bins of the statistics.

    Attributes:
        sources: What `sources` says of its values.
        values: Those that are their own sources: each gets a statistic.
        kept: Those whose numbers are looked at.
        chains: The chains of layers that may be equalized.
    """

    def __init__(self, graph: Graph, bins: int) -> None:
        self.bins = bins
        self.sources = sources(graph)
        self.values = [value for value, source in self.sources.items() if value is source]
        self._clips: dict[Value, tuple[Value, float, float]] = {}
        clipped: set[Value] = set()
        for value in self.values:
            if (found := _clip_of(value)) is None:
                continue
            operand, low, high = found
            source = self.sources.get(operand)
            # One value clipped twice is rare: the further ones are counted.
            if source is None or source in self._clips or source in clipped:
                continue
            if source.owner is value.owner:
                self._clips[source] = value, low, high
                clipped.add(value)
        counted = [value for value in self.values if value not in clipped]
        self._counted = set(counted)
        self._of_graph = _by_graph(counted)
        self.chains = uneven_chains(graph)
        self._parts = observed_parts(graph, self.chains)
        paths = {value: self.path(value) for value in (*self._parts.values, *self._parts.moments)}
        self._paths = paths
        self._parts_of_graph = _by_graph(self._parts.values)
        self._moments_of_graph = _by_graph(self._parts.moments)
        self.kept = {*counted, *self._parts.masks, *(way[-1] for way in paths.values())}

    def path(self, value: Value) -> list[Value]:
        """Returns a value and what it is a move or a clip of, up to one whose numbers are there."""
        way = [value]
        while way[-1] not in self._counted and way[-1].node and not way[-1].node.regions:
            way.append(way[-1].inputs[0])
        return way

    def count(
        self,
        graph: Graph,
        trips: Sequence[Trip],
        tally: Tally,
        seen: set[tuple[str, Value]],
        refused: Callable[[Value, Array], QirError],
    ) -> None:
        """Counts the values of a graph or region.

        Args:
            graph: The graph.
            trips: What was computed of it, of the same values each time.
            tally: Where it goes.
            seen: What was counted of these trips already, to which more is added.
            refused: Makes the error of a value whose numbers are not finite.

        Raises:
            QirError: Those of a value are not.
        """
        computed = trips[0].computed
        for value in self._of_graph.get(graph, ()):
            if value not in computed or ("range", value) in seen:
                continue
            seen.add(("range", value))
            array = _stacked([np.asarray(trip.computed[value]) for trip in trips])
            try:
                self._count(value, array, tally)
            except NonFiniteError as error:
                raise refused(value, array) from error
        found = PartStatistics()
        for value in self._parts_of_graph.get(graph, ()):
            if ("parts", value) in seen:
                continue
            arrays = self._arrays(value, trips, tally.sizes)
            shown = self._masks(value, trips)
            if arrays is not None and shown != []:
                seen.add(("parts", value))
                observe_parts(self._parts, value, arrays, shown, found)
        for value in self._moments_of_graph.get(graph, ()):
            if ("moments", value) in seen:
                continue
            arrays = self._arrays(value, trips, tally.sizes, few=True)
            if arrays is not None:
                seen.add(("moments", value))
                found.moments[value] = observe_moments(_stacked(arrays))
        tally.parts.add(found)

    def _count(self, value: Value, array: Array, tally: Tally) -> None:
        found: dict[Value, Histogram] = {}
        if value in self._clips:
            clipped, low, high = self._clips[value]
            found[value], found[clipped] = observe_clipped(array, low, high, self.bins)
        else:
            found[value] = observe(array, self.bins)
        for one, statistic in found.items():
            known = tally.statistics.get(one)
            tally.statistics[one] = statistic if known is None else known.merge(statistic)

    def _arrays(
        self, value: Value, trips: Sequence[Trip], sizes: Sizes, *, few: bool = False
    ) -> list[Array] | None:
        """Returns the numbers of a value in each trip; None where they do not follow."""
        way = self._paths[value]
        found = [array for trip in trips if (array := trip.array(way, sizes, few=few)) is not None]
        return found or None

    def _masks(self, value: Value, trips: Sequence[Trip]) -> Sequence[Array] | None:
        """Returns the masks of a value's rows; nothing if not there, None where it has none."""
        mask = self._parts.rows[value][1] if value in self._parts.rows else None
        if mask is None:
            return None
        if mask.is_constant:
            return [mask.array] * len(trips)
        return [np.asarray(trip.computed[mask]) for trip in trips if mask in trip.computed]


def _by_graph(values: Iterable[Value]) -> dict[Graph, list[Value]]:
    found: dict[Graph, list[Value]] = {}
    for value in values:
        found.setdefault(value.owner, []).append(value)
    return found


def _stacked(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.stack(arrays)
