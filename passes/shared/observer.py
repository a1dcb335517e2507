"""Observation: the statistics of the values of a float program on batches of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from qir.errors import PassError, QirError
from qir.ir import Graph, Node, Value
from qir.ir.signature import Sizes
from qir.numbers.interval import Interval
from qir.observe.channels import few_places, observe_moments
from qir.observe.histograms import Histogram, NonFiniteError, observe, observe_clipped
from qir.ops import Const, Reshape, Return
from qir.ops.softmax import Exponentials
from qir.ops.traits import Moves
from qir.passes.shared.observed_parts import PartStatistics, observe_parts, observed_parts
from qir.pipeline import Executor
from qir.types import Array

SEGMENT_BYTES = 2**25
"""Size of the observed values at which a segment ends. The host takes 25 ms to count as many."""


def float_values(graph: Graph) -> list[Value]:
    """Returns the values that are observed: floating-point numbers, but for constants."""
    return [value for value in graph.values() if value.type.is_float and not value.is_constant]


def sources(values: Sequence[Value]) -> dict[Value, Value]:
    """Returns for each value the one whose numbers it holds in another order, or itself."""
    found: dict[Value, Value] = {}
    for value in values:
        moved = value.op is not None and value.op.moves is Moves.ORDER
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
        sizes: The named sizes that the batch tells.
        statistics: Those of the batch so far.
        parts: Those of parts of values, likewise.
        returned: The numbers of outputs so far; None behind the first batch that has samples.
        batch: The number of the batch.
        is_last: Whether the batch ends here.
    """

    computed: dict[Value, Any]
    sizes: Sizes
    statistics: dict[Value, Histogram]
    parts: PartStatistics
    returned: dict[Value, Array] | None
    batch: int
    is_last: bool

    def array(self, path: Sequence[Value], *, few: bool = False) -> Array | None:
        """Returns the numbers of a value, from what was computed; None where that does not do.

        Args:
            path: The value, and what it is a move or a clip of, one behind the other.
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
                array = array.reshape(self.sizes.shape(moved.type.shape))
            else:
                assert moved.op is not None
                array = np.asarray(moved.op.evaluate(array))
        return few_places(array) if few else array


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


def _clip_of(value: Value) -> tuple[Value, float, float] | None:
    """Returns the operand and the bounds, float32 values, if a value is another one clipped."""
    bounds = None if value.op is None else value.op.clip_bounds()
    if bounds is None:
        return None
    # A bound is a number of the value's type.
    element = value.type.dtype.numpy
    low, high = (float(np.float32(np.asarray(bound, element))) for bound in bounds)
    return (value.inputs[0], low, high) if low < np.inf and high > -np.inf else None


class Observer:
    """Takes the statistics of the values of a float program on one batch after another.

    The program runs in segments. While one computes, the host counts what the one before it has
    computed: executors return before their results are there. No more than the values of two
    segments are in memory. A clipped value, such as what a relu returns, is neither fetched nor
    counted: its statistic follows from that of its operand. XLA could count where it computes, but
    takes 60 ms to compile that for one tensor, in which time the host counts 20 million values.

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
        self._parts = observed_parts(graph)
        self._paths = {value: self._path(value) for value in self._parts.values}
        self._outputs = {
            value: self._path(value)
            for value in graph.outputs
            if value.type.is_float and not value.is_constant
        }
        self._moment_paths = {value: self._path(value) for value in self._parts.moments}

    def _path(self, value: Value) -> list[Value]:
        counted, path = set(self._counted), [value]
        while path[-1] not in counted:
            path.append(path[-1].inputs[0])
        return path

    def observe(
        self, batches: Iterable[tuple[Sequence[Array], Sizes]], first: int = 0
    ) -> Iterator[Observation]:
        """Yields what is observed on each batch.

        Args:
            batches: An array for each input, and the sizes that they tell of named dimensions.
            first: The number of the first of them.

        Raises:
            QirError: A value is not finite.
        """
        stages = self._stages(batches, first)
        current = next(stages, None)
        while current is not None:
            following = next(stages, None)
            self._count(current)
            if current.is_last:
                found = [current.statistics[value] for value in self.values]
                yield Observation(current.batch, found, current.parts, current.returned)
            current = following

    def _stages(
        self, batches: Iterable[tuple[Sequence[Array], Sizes]], first: int
    ) -> Iterator[_Stage]:
        segments: list[_Segment] = []
        returned: dict[Value, Array] | None
        kept = False
        for batch, (arrays, sizes) in enumerate(batches, first):
            segments = segments or self._cut(sizes)
            # They are counted behind the next batch, which may come in the same buffers.
            copies = map(np.array, arrays)
            computed: dict[Value, Any] = dict(zip(self.graph.inputs, copies, strict=True))
            statistics: dict[Value, Histogram] = {}
            parts = PartStatistics()
            returned = None if kept or not all(array.size for array in arrays) else {}
            kept = kept or returned is not None
            for segment in segments:
                operands = [computed[value] for value in segment.inputs]
                results = segment.compute(*operands)
                computed = dict(zip(segment.inputs, operands, strict=True))
                computed |= zip(segment.outputs, results, strict=True)
                is_last = segment is segments[-1]
                yield _Stage(computed, sizes, statistics, parts, returned, batch, is_last)

    def _count(self, stage: _Stage) -> None:
        statistics = stage.statistics
        for value in self._counted:
            if value not in stage.computed or value in statistics:
                continue
            array = np.asarray(stage.computed[value])
            try:
                if value in self._clips:
                    clipped, low, high = self._clips[value]
                    both = observe_clipped(array, low, high, self.bins)
                    statistics[value], statistics[clipped] = both
                else:
                    statistics[value] = observe(array, self.bins)
            except NonFiniteError as error:
                raise self._located(value, array, stage) from error
        self._count_parts(stage)
        if stage.returned is not None:
            for value, path in self._outputs.items():
                if value not in stage.returned and (output := stage.array(path)) is not None:
                    stage.returned[value] = output

    def _count_parts(self, stage: _Stage) -> None:
        for value, path in self._paths.items():
            known = stage.parts
            if value in known.channels or value in known.rows or value in known.positions:
                continue
            mask = self._parts.rows[value][1] if value in self._parts.rows else None
            shown = mask.array if mask is not None and mask.is_constant else None
            if mask is not None and shown is None:
                if mask not in stage.computed:
                    continue
                shown = np.asarray(stage.computed[mask])
            array = stage.array(path)
            if array is not None:
                observe_parts(self._parts, value, array, shown, stage.parts)
        for value, path in self._moment_paths.items():
            if value not in stage.parts.moments:
                array = stage.array(path, few=True)
                if array is not None:
                    stage.parts.moments[value] = observe_moments(array)

    def _located(self, value: Value, array: Array, stage: _Stage) -> QirError:
        subject = f"{'' if value.node else 'input '}%{value.name} in batch {stage.batch}"
        places = (
            [value.place(), self._blame(value, stage.statistics)]
            if value.node
            else [_remedy_of_data(array)]
        )
        problem = _not_finite(array)
        return PassError(f"calibrate: {subject}: expected finite values, got {problem}", places)

    def _blame(self, value: Value, statistics: Mapping[Value, Histogram]) -> str:
        """Says what the operands of the op were that made the first value that is not finite."""
        assert value.op is not None
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
                known = statistics.get(self._sources.get(operand, operand))
                if known is None or not known.count:
                    continue
                bounds = known.minimum, known.maximum
            ranges.append(f"%{operand.name} in {Interval.of(*bounds)}")
        return f"{value.op.name} made it of finite operands: {', '.join(ranges) or 'none'}"

    def _cut(self, sizes: Sizes) -> list[_Segment]:
        counted = {*self._counted, *self._parts.masks}
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
