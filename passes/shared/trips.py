"""Loops and branches run from the host, so that what their regions compute is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ops import Cond
from qir.ops import regions as region_ops
from qir.passes.shared import segments
from qir.passes.shared.segments import Driven, RegionPieces, Segment
from qir.passes.shared.tally import Tally, Trip, Watched, is_observed
from qir.types import Array

_LEAST_BYTES = 2**12
"""What an array counts for at least, however small: it takes as long to fetch."""


class TripCounter:
    """The trips of a node with regions, and of those inside, gathered to be counted together.

    A trip computes little at a time, and counting an array takes longer than its numbers do where
    they are few.

    Args:
        watched: What is counted.
        tally: Where it goes.
        refused: Makes the error of a value whose numbers in a trip are not finite.
    """

    def __init__(
        self,
        watched: Watched,
        tally: Tally,
        refused: Callable[[Value, Array, Trip], QirError],
    ) -> None:
        self._watched = watched
        self._tally = tally
        self._refused = refused
        self._done: dict[Graph, list[Trip]] = {}
        # What was computed in which trip, in order, of those that are not counted.
        self._order: list[tuple[Trip, list[Value]]] = []
        self._sizes: dict[Graph, int] = {}
        self._bytes = 0

    def run(
        self, piece: Driven, operands: Sequence[Any], places: tuple[str, ...] = ()
    ) -> list[Any]:
        """Runs a node; returns an array for each result.

        Args:
            piece: The node.
            operands: An array for each operand.
            places: Where the node stands; see `Trip`.

        Raises:
            QirError: A value is not finite, or a loop does not come to an end.
        """
        node, op = piece.node, piece.op
        counts = len(node.inputs), len(node.outputs), len(node.regions)
        stacked = {passage.operand for passage in op.passages(*counts) if passage.kind == "stacked"}
        # A slice of an array on a device takes as long to begin as a trip.
        given = [
            np.asarray(array) if place in stacked else array for place, array in enumerate(operands)
        ]
        shapes = [self._tally.sizes.shape(value.type.shape) for value in node.outputs]
        bodies = [
            self._body(body, piece, region, places) for region, body in enumerate(piece.bodies)
        ]
        try:
            found = op.run(bodies, given, shapes)
        except QirError as error:
            if not error.places:  # What is not finite has its place already.
                error.at(node.place())
            raise
        return [
            array
            if array.dtype == value.type.dtype.numpy
            else np.asarray(array).astype(value.type.dtype.numpy)
            for array, value in zip(found, node.outputs, strict=True)
        ]

    def _body(
        self, body: RegionPieces, piece: Driven, region: int, places: tuple[str, ...]
    ) -> region_ops.Body:
        graph, node = body.region, piece.node
        name = f"{node.op.name} %{node.outputs[0].name}" if node.outputs else node.op.name
        trips = 0

        def run(*arrays: Any) -> list[Any]:
            nonlocal trips
            own = f"region {region}" if isinstance(node.op, Cond) else f"trip {trips}"
            trips += 1
            trip = Trip({}, (f"{own} of {name}", *places))
            computed = dict(zip(graph.inputs, arrays, strict=True))
            self._note(trip, graph.inputs, computed)
            for part in body.pieces:
                if isinstance(part, Segment):
                    values = part.outputs
                    operands = [computed[value] for value in part.inputs]
                    results = part.run(operands, self._tally.sizes)
                else:
                    values = part.node.outputs
                    operands = [_numbers(value, computed) for value in part.node.inputs]
                    results = self.run(part, operands, trip.places)
                computed |= zip(values, results, strict=True)
                self._note(trip, values, computed)
            self._done.setdefault(graph, []).append(trip)
            # All trips of a batch have arrays of the same shapes.
            if graph not in self._sizes:
                sizes = (max(array.nbytes, _LEAST_BYTES) for array in trip.computed.values())
                self._sizes[graph] = sum(sizes)
            self._bytes += self._sizes[graph]
            if self._bytes >= segments.SEGMENT_BYTES:
                self.count()
            return [_numbers(value, computed) for value in graph.outputs]

        return run

    def _note(self, trip: Trip, values: Sequence[Value], computed: dict[Value, Any]) -> None:
        kept = [value for value in values if value in self._watched.kept]
        trip.computed.update((value, computed[value]) for value in kept)
        self._order.append((trip, kept))

    def count(self) -> None:
        """Counts the trips that are through.

        Raises:
            QirError: A value is not finite.
        """
        for graph, trips in self._done.items():
            self._watched.count(graph, trips, self._tally, set(), self._first_refused)
        counted = {id(trip) for trips in self._done.values() for trip in trips}
        self._order = [entry for entry in self._order if id(entry[0]) not in counted]
        self._done.clear()
        self._bytes = 0

    def _first_refused(self, value: Value, array: Array) -> QirError:
        """Returns the error of the first value that is not finite, in whatever trip."""
        for trip, values in self._order:
            for known in filter(is_observed, values):
                numbers = np.asarray(trip.computed[known])
                with np.errstate(over="ignore"):
                    is_finite = np.isfinite(numbers.astype(np.float32, copy=False)).all()
                if not is_finite:
                    return self._refused(known, numbers, trip)
        return self._refused(value, array, Trip({}))


def _numbers(value: Value, computed: dict[Value, Any]) -> Any:
    return value.array if value.is_constant else computed[value]
