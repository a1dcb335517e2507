"""Observation: the statistics of the values of a float program on batches of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qir.errors import PassError, QirError
from qir.ir import Graph, Value
from qir.ir.reachability import reachable
from qir.ir.signature import Sizes
from qir.numbers.interval import Interval
from qir.observe.histograms import Histogram
from qir.ops import Select
from qir.ops.softmax import Exponentials
from qir.passes.shared.observed_parts import PartStatistics
from qir.passes.shared.segments import Driven, Piece, cut
from qir.passes.shared.tally import Tally, Trip, Watched, is_observed
from qir.passes.shared.trips import TripCounter
from qir.pipeline import Executor
from qir.types import Array

MOST_LAYER_ROWS = 24
"""Rows that are kept of what a chain of layers reads."""
LAYER_ROW_BYTES = 2**26
"""Bytes of them, over all chains, but for one row of each."""


@dataclass(frozen=True, eq=False)
class _Stage:
    """A piece of the program computed on a batch.

    Args:
        trip: The inputs and outputs of the piece.
        tally: What was counted on the batch so far.
        seen: The values among them; see `Watched.count`.
        returned: The numbers of outputs so far; None behind the first batch that has samples.
        batch: The number of the batch.
        is_last: Whether the batch ends here.
    """

    trip: Trip
    tally: Tally
    seen: set[tuple[str, Value]]
    returned: dict[Value, Array] | None
    batch: int
    is_last: bool


@dataclass(frozen=True, eq=False)
class Observation:
    """What was observed on a batch.

    Attributes:
        batch: The number of the batch.
        statistics: The statistic of each of the observer's values.
        parts: Those of parts of values.
        returned: The numbers of the program's floating-point outputs on the first batch that has
            samples; None on the others.
    """

    batch: int
    statistics: list[Histogram]
    parts: PartStatistics
    returned: dict[Value, Array] | None = None


class Observer:
    """Takes the statistics of the values of a float program on one batch after another.

    The program runs in segments. While one computes, the host counts what the one before it has
    computed: executors return before their results are there. No more than the values of two
    segments are in memory. XLA could count where it computes, but takes 60 ms to compile that for
    one tensor, in which time the host counts 20 million values. Between segments the host runs
    loops and branches, whose regions are cut likewise and compiled once.

    Args:
        graph: The program.
        executor: Runs it.
        bins: Bins of the statistics.

    Attributes:
        values: The values that are observed, those of regions among them: those that are their own
            sources.
        layer_rows: Rows of what chains of layers read, of the batches that were observed first.
    """

    def __init__(self, graph: Graph, executor: Executor, bins: int) -> None:
        self.graph = graph
        self.executor = executor
        self.bins = bins
        self._watched = Watched(graph, bins)
        self.values = self._watched.values
        self._outputs = {
            value: self._watched.path(value) for value in graph.outputs if is_observed(value)
        }
        starts = [chain[0].first.inputs[0] for chain in self._watched.chains]
        self._starts = {value: self._watched.path(value) for value in starts if is_observed(value)}
        self._most_rows: dict[Value, int] = {}
        self.layer_rows: dict[Value, Array] = {}

    def observe(
        self, batches: Iterable[tuple[Sequence[Array], Sizes]], first: int = 0
    ) -> Iterator[Observation]:
        """Yields what is observed on each batch.

        Args:
            batches: An array for each input, and the sizes that they tell of named dimensions.
            first: The number of the first of them.

        Raises:
            QirError: A value is not finite, or a loop does not come to an end.
        """
        stages = self._stages(batches, first)
        current = next(stages, None)
        while current is not None:
            following = next(stages, None)
            self._count(current)
            if current.is_last:
                none = Histogram.empty(self.bins)
                tally = current.tally
                found = [tally.statistics.get(value, none) for value in self.values]
                yield Observation(current.batch, found, tally.parts, current.returned)
            current = following

    def _stages(
        self, batches: Iterable[tuple[Sequence[Array], Sizes]], first: int
    ) -> Iterator[_Stage]:
        pieces: list[Piece] = []
        returned: dict[Value, Array] | None
        kept = False
        for batch, (arrays, sizes) in enumerate(batches, first):
            if not pieces:
                ways = (*self._outputs.values(), *self._starts.values())
                ends = {way[-1] for way in ways}
                pieces = cut(self.graph, self._watched.kept | ends, sizes, self.executor)
            # They are counted behind the next batch, which may come in the same buffers.
            copies = map(np.array, arrays)
            computed: dict[Value, Any] = dict(zip(self.graph.inputs, copies, strict=True))
            tally, seen = Tally(sizes), set[tuple[str, Value]]()
            returned = None if kept or not all(array.size for array in arrays) else {}
            kept = kept or returned is not None
            for piece in pieces:
                operands = [computed[value] for value in piece.inputs]
                if isinstance(piece, Driven):
                    # What is not finite before it is told first.
                    yield _Stage(Trip({}), tally, seen, returned, batch, is_last=False)
                    results = self._driven(piece, computed, tally, batch)
                else:
                    results = piece.run(operands, sizes)
                computed = dict(zip(piece.inputs, operands, strict=True))
                computed |= zip(piece.outputs, results, strict=True)
                is_last = piece is pieces[-1]
                yield _Stage(Trip(computed), tally, seen, returned, batch, is_last)

    def _driven(
        self, piece: Driven, computed: dict[Value, Any], tally: Tally, batch: int
    ) -> list[Any]:
        def refused(value: Value, array: Array, trip: Trip) -> QirError:
            return self._located(value, array, trip, tally, batch)

        trips = TripCounter(self._watched, tally, refused)
        operands = [
            value.array if value.is_constant else computed[value] for value in piece.node.inputs
        ]
        results = dict(zip(piece.node.outputs, trips.run(piece, operands), strict=True))
        trips.count()
        return [results[value] for value in piece.outputs]

    def _count(self, stage: _Stage) -> None:
        def refused(value: Value, array: Array) -> QirError:
            return self._located(value, array, stage.trip, stage.tally, stage.batch)

        self._watched.count(self.graph, [stage.trip], stage.tally, stage.seen, refused)
        for value, path in self._starts.items():
            self._keep_rows(value, path, stage)
        if stage.returned is not None:
            for value, path in self._outputs.items():
                output = stage.trip.array(path, stage.tally.sizes)
                if value not in stage.returned and output is not None:
                    stage.returned[value] = output

    def _keep_rows(self, value: Value, path: Sequence[Value], stage: _Stage) -> None:
        """Keeps rows of what a layer reads, evenly spaced in the batch, as long as some are wanted.

        Each is as large as what the layer reads of a sample, so that they may be few.
        """
        if ("rows", value) in stage.seen:
            return
        known = self.layer_rows.get(value)
        count = 0 if known is None else len(known)
        if count >= self._most_rows.get(value, MOST_LAYER_ROWS):
            return
        array = stage.trip.array(path, stage.tally.sizes)
        if array is None or not array.size:
            return
        stage.seen.add(("rows", value))
        room = LAYER_ROW_BYTES // len(self._starts) // array[:1].nbytes
        most = self._most_rows[value] = max(min(room, MOST_LAYER_ROWS), 1)
        places = np.linspace(0, len(array) - 1, min(most - count, len(array))).round().astype(int)
        rows = array[places]
        self.layer_rows[value] = rows if known is None else np.concatenate([known, rows])

    def _located(
        self, value: Value, array: Array, trip: Trip, tally: Tally, batch: int
    ) -> QirError:
        is_input = value.owner is self.graph and value.node is None
        where = " in ".join((f"%{value.name}", *trip.places, f"batch {batch}"))
        places = (
            [_remedy_of_data(array)]
            if is_input
            else [value.place(), self._blame(value, trip, tally)]
        )
        if _is_chosen_from(value):
            places.append(
                "what a select or a branch under jax.vmap leaves out is computed too: let the op "
                "read numbers that it can take there, as jnp.sqrt(jnp.where(x > 0, x, 1))"
            )
        return PassError(
            f"calibrate: {'input ' if is_input else ''}{where}: expected finite values, got "
            f"{_not_finite(array)}",
            places,
        )

    def _bounds(self, value: Value, trip: Trip, tally: Tally) -> tuple[float, float] | None:
        """Returns the extremes of a value: in a trip, or on the batch so far."""
        if trip.places and value in trip.computed and value.type.is_float:
            numbers = np.asarray(trip.computed[value])
            return (float(numbers.min()), float(numbers.max())) if numbers.size else None
        known = tally.statistics.get(self._watched.sources.get(value, value))
        return (known.minimum, known.maximum) if known is not None and known.count else None

    def _blame(self, value: Value, trip: Trip, tally: Tally) -> str:
        """Says what the operands of the op were that made the first value that is not finite."""
        if value.op is None:
            return "it was not finite where it went in"
        if isinstance(value.op, Exponentials) and value.op.masked_rows == "nan":
            return (
                f"{value.op.name} is NaN where a row is masked whole by -inf; keep a number of "
                "each row, or mask by a finite number such as -1e9"
            )
        ranges = []
        for operand in dict.fromkeys(value.inputs):
            if operand.is_constant and operand.type.is_float and operand.array.size:
                if problem := _not_finite(operand.array):
                    return (
                        f"its operand %{operand.name} is a constant with {problem}; for a mask, "
                        "take a finite number such as -1e9 instead"
                    )
                bounds = operand.array.min(), operand.array.max()
            else:
                found = self._bounds(operand, trip, tally)
                if found is None:
                    ranges.append(f"%{operand.name}")
                    continue
                bounds = found
            ranges.append(f"%{operand.name} in {Interval.of(*bounds)}")
        return f"{value.op.name} made it of finite operands: {', '.join(ranges) or 'none'}"


def _is_chosen_from(value: Value) -> bool:
    """Whether a select decides which numbers of a computed value are used."""
    if value.op is None:
        return False
    later = reachable([value], lambda known: (new for user in known.users for new in user.outputs))
    return any(isinstance(new.op, Select) for new in later)


def _remedy_of_data(array: Array) -> str:
    """Says what to do about data that is not finite."""
    if np.isneginf(array).any() and not (np.isnan(array).any() or np.isposinf(array).any()):
        return (
            "a mask that is added can't hold -inf: take -1e9 instead, or give the model bools that "
            "choose by jnp.where"
        )
    return "leave such samples out of the data, or fill in what the model gets for them in use"


def _not_finite(array: Array) -> str:
    """Says how many values are NaN or infinite and where the first one is; nothing if none is."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32, copy=False)
    if np.isfinite(single).all():
        return ""
    nan, infinite = int(np.isnan(single).sum()), int(np.isinf(single).sum())
    counts = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
    place = [int(index) for index in np.argwhere(~np.isfinite(single))[0]]
    return f"{' and '.join(counts)}, the first at {place}"
