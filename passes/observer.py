"""Observation: the statistics of the values of a float program on batches of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from qir.errors import PassError, QirError
from qir.interval import Interval
from qir.ir import Graph, Node, Value
from qir.ops import Const, Reshape, Return, Reverse, Transpose
from qir.pipeline import Executor
from qir.signature import Sizes
from qir.statistics import NonFiniteError, Statistic, observe
from qir.types import Array

SEGMENT_BYTES = 2**28
"""Size of the observed values at which a segment ends. The host takes 0.3 s to count as many, three
times as long as XLA to compile a segment."""


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
class _Stage:
    """A segment computed on a batch.

    Args:
        computed: The inputs and outputs of the segment.
        statistics: Those of the batch so far.
        batch: The number of the batch.
        is_last: Whether the batch ends here.
    """

    computed: dict[Value, Any]
    statistics: dict[Value, Statistic]
    batch: int
    is_last: bool


class Observer:
    """Takes the statistics of the values of a float program on one batch after another.

    The program runs in segments. While one computes, the host counts what the one before it has
    computed: executors return before their results are there. No more than the values of two
    segments are in memory. XLA could count where it computes, but takes 60 ms to compile that for
    one tensor, in which time the host counts 15 million values.

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

    def observe(
        self, batches: Iterable[tuple[Sequence[Array], Sizes]]
    ) -> Iterator[list[Statistic]]:
        """Yields the statistics of each batch, one for each of `values`.

        Args:
            batches: An array for each input, and the sizes that they tell of named dimensions.

        Raises:
            QirError: A value is not finite.
        """
        stages = self._stages(batches)
        current = next(stages, None)
        while current is not None:
            following = next(stages, None)
            self._count(current)
            if current.is_last:
                yield [current.statistics[value] for value in self.values]
            current = following

    def _stages(self, batches: Iterable[tuple[Sequence[Array], Sizes]]) -> Iterator[_Stage]:
        segments: list[_Segment] = []
        for batch, (arrays, sizes) in enumerate(batches):
            segments = segments or self._cut(sizes)
            computed: dict[Value, Any] = dict(zip(self.graph.inputs, arrays, strict=True))
            statistics: dict[Value, Statistic] = {}
            for segment in segments:
                operands = [computed[value] for value in segment.inputs]
                results = segment.compute(*operands)
                computed = dict(zip(segment.inputs, operands, strict=True))
                computed |= zip(segment.outputs, results, strict=True)
                yield _Stage(computed, statistics, batch, segment is segments[-1])

    def _count(self, stage: _Stage) -> None:
        for value, array in stage.computed.items():
            if self._sources.get(value) is not value or value in stage.statistics:
                continue
            try:
                stage.statistics[value] = observe(np.asarray(array), self.bins)
            except NonFiniteError as error:
                raise self._located(value, stage) from error

    def _located(self, value: Value, stage: _Stage) -> QirError:
        problem = _not_finite(np.asarray(stage.computed[value]))
        subject = f"{'' if value.node else 'input '}%{value.name} in batch {stage.batch}"
        places = [value.place(), self._blame(value, stage.computed)] if value.node else []
        return PassError(f"calibrate: {subject}: expected finite values, got {problem}", places)

    def _blame(self, value: Value, computed: dict[Value, Any]) -> str:
        """Says what the operands of the op were that made the first value that is not finite."""
        assert value.op is not None
        ranges = []
        for operand in dict.fromkeys(value.inputs):
            source = self._sources.get(operand, operand)
            found = operand.array if operand.is_constant else computed.get(operand)
            found = computed.get(source) if found is None else found
            if found is None or not operand.type.is_float or not found.size:
                continue
            array = np.asarray(found)
            if problem := _not_finite(array):
                return f"its operand %{operand.name} is a constant with {problem}"
            ranges.append(f"%{operand.name} in {Interval.of(array.min(), array.max())}")
        return f"{value.op.name} made it of finite operands: {', '.join(ranges) or 'none'}"

    def _cut(self, sizes: Sizes) -> list[_Segment]:
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
                if self._sources.get(value) is value
            )
        segments: list[_Segment] = []
        # From the last to the first, each hands on what those behind it read.
        read = dict.fromkeys(self.graph.inputs)
        for nodes in reversed(parts):
            made = dict.fromkeys(value for node in nodes for value in node.outputs)
            outputs = [
                value for value in made if self._sources.get(value) is value or value in read
            ]
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
