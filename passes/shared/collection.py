"""Statistics of a model from what is observed on its batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from qir.errors import PassError
from qir.ir import Graph, Value
from qir.ir.signature import Sizes
from qir.observe.extremes import MOST_BATCHES, BatchExtremes
from qir.observe.fingerprint import Fingerprint
from qir.observe.histograms import Histogram
from qir.observe.observations import Observations
from qir.observe.sample import MOST_ROWS, few_rows, same_rows
from qir.observe.statistics import Statistics, TensorStatistics
from qir.passes.shared.calibration_data import read_batches
from qir.passes.shared.observed_parts import PartStatistics, keep_parts, known_part, statistic_names
from qir.passes.shared.observer import Observation, Observer
from qir.passes.shared.tally import sources
from qir.pipeline import Context
from qir.types import Array


class Collection:
    """Adds up what an observer yields.

    Args:
        observer: The observer.

    Attributes:
        batches: How many batches were added.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.batches = 0
        self._histograms = [Histogram.empty(observer.bins)] * len(observer.values)
        # Of each batch the number, and the minimum and maximum of each value: inf, -inf of none.
        self._extremes = deque[tuple[int, Array]](maxlen=MOST_BATCHES)
        self._parts = PartStatistics()

    def add(self, observed: Observation) -> None:
        """Adds what was observed on a batch."""
        self.batches += 1
        self._parts.add(observed.parts)
        for index, histogram in enumerate(observed.statistics):
            self._histograms[index] = self._histograms[index].merge(histogram)
        bounds = [(histogram.minimum, histogram.maximum) for histogram in observed.statistics]
        self._extremes.append((observed.batch, np.array(bounds, np.float32)))

    def _extremes_of(self, index: int) -> BatchExtremes:
        batches = ((number, *bounds[index].tolist()) for number, bounds in self._extremes)
        return BatchExtremes.of((number, low, high) for number, low, high in batches if low <= high)

    def statistics(self, model: Fingerprint | None, program: Fingerprint) -> Statistics:
        """Returns the statistics of all that was added.

        Args:
            model: The float program as it was given.
            program: That which is observed.
        """
        whole = Statistics(model=model, observed=program, batches=self.batches)
        values = self._observer.values
        place = {value: index for index, value in enumerate(values)}
        extremes = list(map(self._extremes_of, range(len(values))))
        for value, source in sources(self._observer.graph).items():
            index = place[source]
            for name in statistic_names(value):
                whole.add(name, histogram=self._histograms[index], extremes=extremes[index])
        kinds: Mapping[str, Mapping[Value, Any]] = {
            "channels": self._parts.channels,
            "moments": self._parts.moments,
            "positions": self._parts.positions,
            "rows": self._parts.rows,
        }
        for kind, known in kinds.items():
            # Where two values stand for one, that counts whose axes are the imported one's.
            for value in sorted(known, key=lambda value: not any(value.origins.values())):
                keep_parts(value, whole, {kind: known[value]})
        return whole


def tell_apart(graph: Graph) -> None:
    """Lets no two values inside of regions have their statistics under one name.

    A name is unique in its own graph. So values that passes made get other names, and those that
    stand for themselves, as all do in a text, other origins.

    Args:
        graph: The program.
    """
    values = [value for value in graph.values_inside() if not value.is_constant]
    origins = {name for value in values for name in value.origin}
    names = {value.name for value in values if not value.origin}
    met: set[tuple[bool, str]] = set()
    for value in values:
        if value.origins not in ({}, {value.name: None}):
            continue
        is_made, name, number = not value.origin, value.name, 0
        if (is_made, name) in met:
            taken = names if is_made else origins
            if is_made:
                taken |= {other.name for other in value.owner.values()}
            while name in taken:
                number += 1
                name = f"{value.name}_{number}"
            taken.add(name)
            if is_made:
                value.owner.name_after(value, name)
            else:
                value.origins = {name: None}
        met.add((is_made, name))


def collect(graph: Graph, data: Observations, bins: int, context: Context) -> None:
    """Leaves the statistics of data in the context, and rows of the first batch with any.

    With a checkpoint the batches that it counts are read and not computed.

    Args:
        graph: A float program.
        data: The batches.
        bins: Bins of the histograms.
        context: Where it goes; what it has is replaced when all data was read.

    Raises:
        QirError: A batch does not fit, a value is not finite, or there are no samples.
    """
    if context.executor is None:
        raise PassError("calibrate: expected an executor to run the program on data, got none")
    observer = Observer(graph, context.executor, bins)
    collection = Collection(observer)
    model = None if context.reference is None else Fingerprint.of(context.reference)
    program = Fingerprint.of(graph, _clipped_by_data(graph, context.statistics))
    checkpoint, counted = context.checkpoint, 0
    if checkpoint is not None:
        checkpoint.begin(model, program, Fingerprint.of(graph).numbers, bins)
        counted = checkpoint.batches
    # What clip-scores has just seen of the same data.
    scores = {name: seen.scores for name, seen in context.statistics.items() if seen.scores}

    def whole() -> Statistics:
        found = collection.statistics(model, program)
        for name, peaks in scores.items():
            found.add(name, scores=peaks)
        return found if checkpoint is None else checkpoint.statistics.merge(found)

    with tqdm(desc="calibrate", unit="batch", total=data.size, disable=not context.progress) as bar:
        bar.update(counted)
        for observed in observer.observe(_batches(graph, data, context), counted):
            collection.add(observed)
            if observed.returned is not None and not counted:
                context.sample_outputs = _sample_outputs(graph, observed.returned)
            if checkpoint is not None and collection.batches % checkpoint.every == 0:
                checkpoint.write(whole())
            bar.update()
    found = whole()
    if not all(value.type.size == 0 for value in observer.values) and not any(
        seen.histogram is not None and seen.histogram.count for seen in found.values()
    ):
        raise PassError("calibrate: expected batches with samples, got empty ones only")
    if checkpoint is not None:
        checkpoint.write(found)
    context.statistics = found
    context.layer_rows = observer.layer_rows


def _clipped_by_data(graph: Graph, known: Statistics) -> set[Value]:
    """Returns what clip-scores clipped at bounds that differ between parts of the data."""
    return {
        value
        for value in graph.values_inside()
        if value.op is not None
        and value.op.clip_bounds() is not None
        and known_part(value.inputs[0], known, "scores") is not None
    }


def _batches(
    graph: Graph, data: Observations, context: Context
) -> Iterator[tuple[Sequence[Array], Sizes]]:
    """Yields the batches that are to be counted; leaves rows of the first one with any."""
    context.sample, context.sample_outputs = None, ()
    checkpoint, number = context.checkpoint, -1
    for number, (arrays, sizes) in enumerate(read_batches(graph, data)):
        if context.sample is None and not sizes.empty:
            context.sample = few_rows(graph, arrays, MOST_ROWS)
        if checkpoint is None or not checkpoint.read(number, arrays):
            yield arrays, sizes
    if checkpoint is not None:
        checkpoint.end(number + 1)


def _sample_outputs(graph: Graph, returned: Mapping[Value, Array]) -> list[Array | None]:
    """Cuts outputs of the first batch to the rows that `_batches` leaves of its inputs."""
    return [
        same_rows(graph, value, returned[value], MOST_ROWS) if value in returned else None
        for value in graph.outputs
    ]


def look_up(graph: Graph, known: Statistics) -> dict[Value, TensorStatistics]:
    """Finds the statistics of values, or of those whose numbers they hold in another order.

    Args:
        graph: The program.
        known: The statistics.
    """

    def own(value: Value) -> TensorStatistics | None:
        seen = [known[name] for name in statistic_names(value) if name in known]
        return next((tensor for tensor in seen if tensor.histogram is not None), None)

    found: dict[Value, TensorStatistics] = {}
    for value, source in sources(graph).items():
        entry = own(value) or own(source)
        if entry is not None:
            found[value] = entry
    return found
