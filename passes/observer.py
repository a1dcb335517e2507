"""Observation: the statistics of the values of a float program on batches of data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from threading import Semaphore
from typing import Any

import numpy as np

from qir.errors import PassError, QirError
from qir.interval import Interval
from qir.ir import Graph, Node, Value
from qir.ops import Clip, Const, Relu, Reshape, Return, Reverse, Transpose
from qir.pipeline import Executor
from qir.signature import Sizes
from qir.statistics import NonFiniteError, Statistic, observe, observe_clipped
from qir.types import Array

SEGMENT_BYTES = 2**25
"""Size of the observed values at which a segment ends. The host takes 30 ms to count as many."""

WORKERS = 2
"""Threads that compute batches: XLA computes one with hardly more than two cores."""

STAGES = WORKERS + 1
"""Segments whose values are in memory: those that are being computed, and one to be counted."""


def float_values(graph: Graph) -> list[Value]:
    """Returns the values that are observed: floating-point numbers, but for constants."""
    return [value for value in graph.values() if value.type.is_float and not value.is_constant]


def sources(values: Sequence[Value]) -> dict[Value, Value]:
    """Returns for each value the one whose numbers it holds in another order, or itself."""
    found: dict[Value, Value] = {}
    for value in values:
        moved = isinstance(value.op, Reshape | Transpose | Reverse)
        found[value] = found.get(value.inputs[0], value) if moved else value
    return found


@dataclass(frozen=True, eq=False)
class _Segment:
    """Consecutive nodes of a program.

    Args:
        inputs: The inputs of the program, which tell the sizes of named dimensions, and the values
            from before that the nodes read or that are read behind them.
        outputs: Those of their values that are observed or read behind them.
        compute: Maps inputs to outputs.
    """

    inputs: Sequence[Value]
    outputs: Sequence[Value]
    compute: Callable[..., list[Any]]


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch and what is known of it so far.

    Args:
        number: Its number.
        inputs: The arrays of the graph's inputs.
        statistics: Those of the values that are counted.
        counting: The work of counting, segment by segment.
    """

    number: int
    inputs: Mapping[Value, Any]
    statistics: dict[Value, Statistic] = field(default_factory=dict)
    counting: list[Future[None]] = field(default_factory=list)


def _clip_of(value: Value) -> tuple[Value, float, float] | None:
    """Returns the operand and the bounds, float32 values, if a value is another one clipped."""
    match value.op:
        case Relu():
            low, high = 0.0, np.inf
        case Clip(low, high):
            pass
        case _:
            return None
    # A bound is a number of the value's type.
    element = value.type.dtype.numpy
    low, high = (float(np.float32(np.asarray(bound, element))) for bound in (low, high))
    return (value.inputs[0], low, high) if low < np.inf and high > -np.inf else None


class Observer:
    """Takes the statistics of the values of a float program on one batch after another.

    The program runs in segments, whose values are let go when they are counted. A few threads
    compute, each a batch, and one counts. A clipped value, such as what a relu returns, is neither
    fetched nor counted: its statistic follows from that of its operand. XLA could count where it
    computes, but takes 60 ms to compile that for one tensor, in which time the host counts 20
    million values.

    Args:
        graph: The program.
        executor: Runs it.
        bins: Bins of the statistics.

    Attributes:
        values: The values that are observed: those of `float_values` that are their own sources.
    """

    def __init__(self, graph: Graph, executor: Executor, bins: int) -> None:
        self.graph = graph
        self.executor = executor
        self.bins = bins
        self._sources = sources(float_values(graph))
        self.values = [value for value, source in self._sources.items() if value is source]
        self._clips: dict[Value, tuple[Value, float, float]] = {}
        clipped: set[Value] = set()
        for value in self.values:
            if (found := _clip_of(value)) is None:
                continue
            operand, low, high = found
            source = self._sources.get(operand)
            # One value clipped twice is rare: the further ones are counted.
            if source is not None and source not in self._clips and source not in clipped:
                self._clips[source] = value, low, high
                clipped.add(value)
        self._counted = [value for value in self.values if value not in clipped]

    def observe(
        self, batches: Iterable[tuple[Sequence[Array], Sizes]]
    ) -> Iterator[list[Statistic]]:
        """Yields the statistics of each batch, one for each of `values`.

        Args:
            batches: An array for each input, and the sizes that they tell of named dimensions.

        Raises:
            QirError: A value is not finite.
        """
        segments: list[_Segment] = []
        pending: deque[tuple[_Batch, Future[None]]] = deque()
        free = Semaphore(STAGES)
        with ThreadPoolExecutor(WORKERS) as workers, ThreadPoolExecutor(1) as counter:
            try:
                for number, (arrays, sizes) in enumerate(batches):
                    segments = segments or self._cut(sizes)
                    batch = _Batch(number, dict(zip(self.graph.inputs, arrays, strict=True)))
                    done = workers.submit(self._compute, segments, batch, counter, free)
                    pending.append((batch, done))
                    del arrays, batch
                    # One waits, so that no worker is idle while the oldest one is counted.
                    if len(pending) > WORKERS:
                        yield self._finish(*pending.popleft())
                while pending:
                    yield self._finish(*pending.popleft())
            finally:
                for _, done in pending:
                    done.cancel()

    def _finish(self, batch: _Batch, computed: Future[None]) -> list[Statistic]:
        """Waits for a batch."""
        computed.result()
        for counted in batch.counting:
            counted.result()
        return [batch.statistics[value] for value in self.values]

    def _compute(
        self,
        segments: Sequence[_Segment],
        batch: _Batch,
        counter: ThreadPoolExecutor,
        free: Semaphore,
    ) -> None:
        """Computes a batch and has it counted; runs in a worker."""
        computed = batch.inputs
        for segment in segments:
            free.acquire()
            operands = {value: computed[value] for value in segment.inputs}
            try:
                results = segment.compute(*operands.values())
                for result in results:
                    np.asarray(result)  # Executors return before their results are there.
            except BaseException:
                free.release()
                raise
            computed = operands | dict(zip(segment.outputs, results, strict=True))
            counting = counter.submit(self._count, computed, batch)
            counting.add_done_callback(lambda _: free.release())
            batch.counting.append(counting)

    def _count(self, computed: Mapping[Value, Any], batch: _Batch) -> None:
        statistics = batch.statistics
        for value in self._counted:
            if value not in computed or value in statistics:
                continue
            array = np.asarray(computed[value])
            try:
                if value in self._clips:
                    clipped, low, high = self._clips[value]
                    both = observe_clipped(array, low, high, self.bins)
                    statistics[value], statistics[clipped] = both
                else:
                    statistics[value] = observe(array, self.bins)
            except NonFiniteError as error:
                raise self._located(value, array, batch) from error

    def _located(self, value: Value, array: Array, batch: _Batch) -> QirError:
        subject = f"{'' if value.node else 'input '}%{value.name} in batch {batch.number}"
        places = [value.place(), self._blame(value, batch.statistics)] if value.node else []
        problem = _not_finite(array)
        return PassError(f"calibrate: {subject}: expected finite values, got {problem}", places)

    def _blame(self, value: Value, statistics: Mapping[Value, Statistic]) -> str:
        """Says what the operands of the op were that made the first value that is not finite."""
        assert value.op is not None
        ranges = []
        for operand in dict.fromkeys(value.inputs):
            if operand.is_constant and operand.type.is_float and operand.array.size:
                if problem := _not_finite(operand.array):
                    return f"its operand %{operand.name} is a constant with {problem}"
                bounds = operand.array.min(), operand.array.max()
            else:
                known = statistics.get(self._sources.get(operand, operand))
                if known is None or not known.count:
                    continue
                bounds = known.minimum, known.maximum
            ranges.append(f"%{operand.name} in {Interval.of(*bounds)}")
        return f"{value.op.name} made it of finite operands: {', '.join(ranges) or 'none'}"

    def _cut(self, sizes: Sizes) -> list[_Segment]:
        counted = set(self._counted)
        parts: list[list[Node]] = [[]]
        size = 0
        for node in self.graph.nodes:
            if isinstance(node.op, Const | Return):
                continue
            if size >= SEGMENT_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(node)
            size += sum(
                prod(sizes.shape(value.type.shape)) * value.type.dtype.numpy.itemsize
                for value in node.outputs
                if value in counted
            )
        segments: list[_Segment] = []
        # From the last to the first, each hands on what those behind it read.
        read = dict.fromkeys(self.graph.inputs)
        for nodes in reversed(parts):
            made = dict.fromkeys(value for node in nodes for value in node.outputs)
            outputs = [value for value in made if value in counted or value in read]
            read |= dict.fromkeys(value for node in nodes for value in node.inputs)
            inputs = [value for value in read if value not in made and not value.is_constant]
            read = dict.fromkeys(inputs)
            part = self.graph.extract(inputs, outputs)
            segments.append(_Segment(inputs, outputs, self.executor.probe(part, part.outputs)))
        return segments[::-1]


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
