"""calibrate: what the values of a float program range over, observed on data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from math import prod
from typing import Any, Literal, TypeVar

import numpy as np
from tqdm import tqdm

from qir.errors import PassError, QirError
from qir.interval import Interval
from qir.ir import Graph, Value
from qir.ops import Reshape, Reverse, Transpose
from qir.passes.calibration_data import read_batches
from qir.passes.range_solvers import Solver, solver
from qir.pipeline import Batch, Context, Executor, Pass, register
from qir.properties import FLOAT, RANGED
from qir.signature import Sizes
from qir.statistics import (
    BINS,
    MovingAverage,
    NonFiniteError,
    Reduction,
    Statistic,
    observe,
    reduce_batch,
)
from qir.types import Array

Method = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
Kept = TypeVar("Kept", Statistic, MovingAverage)

HOST_BYTES = 2**31
"""Activations of a batch up to this size are counted on the host: that costs no compile time. XLA
takes 60 ms to compile the counting of one tensor, as long as the host takes to count 15 million
values; but where XLA counts, activations need not all be there at the same time."""


@register
class Calibrate(Pass):
    """Observes every floating-point value on `Context.data` and gives it a range.

    Each batch is reduced to one histogram a tensor, which merge exactly: but for the moving
    average, neither the order of the batches nor how data is cut into them makes a difference, and
    memory does not grow with the number of batches. The statistics stay in the context. Without
    data, ranges are solved anew from the statistics that the context has.

    Attributes:
        method: How a range follows from a statistic: its extremes; averages of the extremes of each
            batch; or where it loses least by share of values, by information or by squared error.
            See qir.passes.range_solvers.
        percentile: The share of values, in percent, that the range keeps; left out, 99.99 for
            percentile and nothing in particular for entropy and mse.
        momentum: The share that the moving average keeps at each batch.
        bits: Bits of the codes that entropy and mse reckon with.
        symmetric: Whether these codes have their zero point in the middle.
        bins: Bins of the histograms.
    """

    method: Method = "minmax"
    percentile: float | None = None
    momentum: float = 0.9
    bits: int = 8
    symmetric: bool = False
    bins: int = BINS

    name = "calibrate"
    requires = (FLOAT,)
    ensures = (RANGED,)

    def check(self) -> None:
        self._solver()
        MovingAverage(self.momentum)
        Statistic.empty(self.bins)
        if not 2 <= self.bits <= 16:
            raise PassError(f"calibrate: expected 2 to 16 bits, got {self.bits}")

    def run(self, graph: Graph, context: Context) -> None:
        values = _floats(graph)
        if context.data is not None:
            self._observe(graph, values, context.data, context)
        if self.method == "moving_average":
            ranges = self._averaged(values, context)
        else:
            ranges = self._solved(values, context)
        for value, (low, high) in zip(values, ranges, strict=True):
            value.range = Interval.of(low, high)

    def _observe(
        self, graph: Graph, values: Sequence[Value], data: Iterable[Batch], context: Context
    ) -> None:
        if context.executor is None:
            raise PassError("calibrate: expected an executor to run the program on data, got none")
        sources = _sources(values)
        observed = [value for value in values if sources[value] is value]
        observer = _Observer(graph, observed, context.executor, self.bins)
        statistics = [Statistic.empty(self.bins)] * len(observed)
        averages = [MovingAverage(self.momentum)] * len(observed)
        total = len(data) if isinstance(data, Sized) else None
        with tqdm(desc=self.name, unit="batch", total=total, disable=not context.progress) as bar:
            for number, (arrays, sizes) in enumerate(read_batches(graph, data)):
                for index, batch in enumerate(observer(arrays, sizes, number)):
                    statistics[index] = statistics[index].merge(batch)
                    averages[index] = averages[index].update(batch)
                bar.update()
        if observed and not any(statistic.count for statistic in statistics):
            raise PassError("calibrate: expected batches with samples, got empty ones only")
        place = {value: index for index, value in enumerate(observed)}
        context.statistics.clear()
        context.averages.clear()
        for value in values:
            for name in _names(value):
                context.statistics[name] = statistics[place[sources[value]]]
                context.averages[name] = averages[place[sources[value]]]

    def _solver(self) -> Solver | None:
        options = {} if self.percentile is None else {"percentile": self.percentile}
        if self.method != "moving_average":
            return solver(self.method, **options)
        if options:
            raise PassError(
                f"calibrate: expected no percentile with moving_average, got {self.percentile}"
            )
        return None

    def _solved(self, values: Sequence[Value], context: Context) -> list[tuple[float, float]]:
        chosen = self._solver()
        assert chosen is not None

        def solve(statistic: Statistic) -> tuple[float, float]:
            if not statistic.count:
                return 0.0, 0.0
            return chosen.solve(
                statistic, 2**self.bits, symmetric=self.symmetric, include_zero=False
            )

        found = _look_up(values, context.statistics)
        # Values that hold the same numbers share a statistic, which need be solved only once.
        distinct = {id(statistic): statistic for statistic in found}
        solved = {key: solve(statistic) for key, statistic in distinct.items()}
        return [solved[id(statistic)] for statistic in found]

    def _averaged(self, values: Sequence[Value], context: Context) -> list[tuple[float, float]]:
        averages = _look_up(values, context.averages)
        for average in averages:
            if average.momentum != self.momentum:
                raise PassError(
                    f"calibrate: expected averages of momentum {self.momentum}, got some of "
                    f"{average.momentum}; that can't be changed without data"
                )
        return [(average.low, average.high) for average in averages]


class _Observer:
    """Computes the statistics of some values on one batch after another."""

    def __init__(
        self, graph: Graph, values: Sequence[Value], executor: Executor, bins: int
    ) -> None:
        self.graph = graph
        self.values = values
        self.executor = executor
        self.bins = bins
        self._probes: dict[bool, Callable[..., list[Any]]] = {}

    def __call__(self, arrays: Sequence[Array], sizes: Sizes, batch: int) -> list[Statistic]:
        """Returns the statistic of each value; raises QirError where one is not finite."""
        try:
            return [self._statistic(result) for result in self._probe(sizes)(*arrays)]
        except NonFiniteError as error:
            raise self._located(arrays, batch, error) from error

    def _probe(self, sizes: Sizes) -> Callable[..., list[Any]]:
        size = sum(
            prod(sizes.shape(value.type.shape)) * value.type.dtype.numpy.itemsize
            for value in self.values
        )
        on_host = size <= HOST_BYTES
        if on_host not in self._probes:
            reduce = None if on_host else self._reduce
            self._probes[on_host] = self.executor.probe(self.graph, self.values, reduce)
        return self._probes[on_host]

    def _reduce(self, array: Any, xp: Any) -> Reduction:
        return reduce_batch(array, xp, self.bins)

    def _statistic(self, result: Any) -> Statistic:
        if isinstance(result, Reduction):
            return result.statistic()
        return observe(np.asarray(result), self.bins)

    def _located(self, arrays: Sequence[Array], batch: int, error: NonFiniteError) -> QirError:
        """Finds the first value in the order of the program that is not finite."""
        values = _floats(self.graph)
        found = self.executor.probe(self.graph, values)(*arrays)
        computed: dict[Value, Array] = {}
        for value, result in zip(values, found, strict=True):
            computed[value] = np.asarray(result)
            if problem := _not_finite(computed[value]):
                subject = f"{'' if value.node else 'input '}%{value.name} in batch {batch}"
                places = [value.place(), _blame(value, computed)] if value.node else []
                message = f"calibrate: {subject}: expected finite values, got {problem}"
                return PassError(message, places)
        return PassError(f"calibrate: batch {batch}: {error.message}")


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


def _blame(value: Value, computed: dict[Value, Array]) -> str:
    """Says whether the op that computed a value had finite operands."""
    assert value.op is not None
    operands = dict.fromkeys(operand for operand in value.inputs if operand.type.is_float)
    ranges = []
    for operand in operands:
        array = operand.array if operand.is_constant else computed.get(operand)
        if array is None or not array.size:
            continue
        if problem := _not_finite(array):
            return f"its operand %{operand.name} is a constant with {problem}"
        ranges.append(f"%{operand.name} in {Interval.of(array.min(), array.max())}")
    return f"{value.op.name} made it of finite operands: {', '.join(ranges) or 'none'}"


def _floats(graph: Graph) -> list[Value]:
    return [value for value in graph.values() if value.type.is_float and not value.is_constant]


def _sources(values: Sequence[Value]) -> dict[Value, Value]:
    """Returns for each value the one whose numbers it holds in another order, or itself."""
    sources: dict[Value, Value] = {}
    for value in values:
        moved = isinstance(value.op, Reshape | Transpose | Reverse)
        sources[value] = sources.get(value.inputs[0], value) if moved else value
    return sources


def _names(value: Value) -> tuple[str, ...]:
    """Returns the keys of a value's statistic."""
    # The % keeps a value that stands for no imported one from an imported one of the same name.
    return value.origin or (f"%{value.name}",)


def _look_up(values: Sequence[Value], known: Mapping[str, Kept]) -> list[Kept]:
    """Returns what is known of each value; raises PassError where that is not all of them."""
    sources = _sources(values)
    found: dict[Value, Kept] = {}
    for value in values:
        entry = next((known[name] for name in _names(value) if name in known), None)
        if entry is None and sources[value] in found:
            entry = found[sources[value]]
        if entry is not None:
            found[value] = entry
    missing = [f"%{value.name}" for value in values if value not in found]
    if missing and not known:
        raise PassError("calibrate: expected data, or statistics of the model, got neither")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise PassError(
            f"calibrate: expected data, or statistics of {', '.join(missing[:3])}{more}; "
            "those given are of other values"
        )
    return [found[value] for value in values]
