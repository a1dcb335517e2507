"""calibrate: what the values of a float program range over, observed on data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Literal, TypeVar

from tqdm import tqdm

from qir.analysis.properties import FLOAT, RANGED
from qir.errors import PassError
from qir.ir import Graph, Value
from qir.ir.signature import Sizes
from qir.numbers.interval import Interval
from qir.observe.sample import MOST_ROWS, few_rows, same_rows
from qir.observe.solvers import Solver, solver
from qir.observe.statistics import BINS, MovingAverage, Statistic
from qir.passes.shared.calibration_data import read_batches
from qir.passes.shared.observed_parts import (
    PartStatistics,
    Turning,
    by_name,
    moment_names,
    statistic_names,
)
from qir.passes.shared.observer import Observer, float_values, sources
from qir.pipeline import Batch, Context, Pass, register
from qir.types import Array

Method = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
Kept = TypeVar("Kept", Statistic, MovingAverage)

_CLIPPING: tuple[Method, ...] = ("percentile", "entropy", "mse")
_METHODS: dict[str, tuple[Method, ...]] = {
    "percentile": _CLIPPING,
    "momentum": ("moving_average",),
    "bits": ("entropy", "mse"),
    "symmetric": _CLIPPING,
    "bins": _CLIPPING,
}
"""The methods that read an option."""


@register
class Calibrate(Pass):
    """Observes every floating-point value on `Context.data`: what it ranges over.

    Each batch is reduced to one histogram a tensor, which merge exactly: but for the moving
    average, neither the order of the batches nor how data is cut into them makes a difference, and
    memory does not grow with the number of batches. The statistics stay in the context. Without
    data, ranges are solved anew from the statistics that the context has.

    Beside that, the context gets the extremes and the mean square of the channels of what products
    read, mean and variance of those and of what convolutions read, the least row maximum of what a
    softmax reads, and the extremes and the mean square at each position of what attention returns.

    Attributes:
        method: How a range follows from a statistic: its extremes; averages of the extremes of each
            batch; or where it loses least by share of values, by information or by squared error.
            See qir.observe.solvers.
        percentile: The share of values, in percent, that the range keeps; left out, 99.99 for
            percentile and nothing in particular for entropy and mse.
        momentum: The share that the moving average keeps at each batch.
        bits: Bits of the codes that entropy and mse reckon with.
        symmetric: Whether the codes have their zero point in the middle; for percentile, entropy
            and mse.
        bins: Bins of the histograms that percentile, entropy and mse look at.
        optional: Whether it does nothing where there is neither data nor a statistic, as for
            weights alone, whose biases are better for data.
    """

    method: Method = "minmax"
    percentile: float | None = None
    momentum: float = 0.9
    bits: int = 8
    symmetric: bool = False
    bins: int = BINS
    optional: bool = False

    name = "calibrate"
    requires = (FLOAT,)
    ensures = (RANGED,)

    def check(self) -> None:
        MovingAverage(self.momentum)
        Statistic.empty(self.bins)
        if not 2 <= self.bits <= 16:
            raise PassError(f"calibrate: expected 2 to 16 bits, got {self.bits}")
        self._check_method()
        if self.method != "moving_average":
            self._solver()

    def run(self, graph: Graph, context: Context) -> None:
        if self.optional and context.data is None and not context.statistics:
            context.unattained.add(RANGED)
            return
        values = float_values(graph)
        if context.data is not None:
            self._observe(graph, values, context.data, context)
        if self.method == "moving_average":
            ranges = self._averaged(values, context)
        else:
            ranges = self._solved(values, context)
        for value, (low, high) in zip(values, ranges, strict=True):
            value.observed = Interval.of(low, high)

    def _observe(
        self, graph: Graph, values: Sequence[Value], data: Iterable[Batch], context: Context
    ) -> None:
        if context.executor is None:
            raise PassError("calibrate: expected an executor to run the program on data, got none")
        observer = Observer(graph, context.executor, self.bins)
        statistics = [Statistic.empty(self.bins)] * len(observer.values)
        averages = [MovingAverage(self.momentum)] * len(observer.values)
        parts = PartStatistics()
        total = len(data) if isinstance(data, Sized) else None
        with tqdm(desc=self.name, unit="batch", total=total, disable=not context.progress) as bar:
            for observed in observer.observe(_keep_first(graph, data, context)):
                parts.add(observed.parts)
                if observed.returned is not None:
                    context.sample_outputs = _sample_outputs(graph, observed.returned)
                for index, statistic in enumerate(observed.statistics):
                    statistics[index] = statistics[index].merge(statistic)
                    averages[index] = averages[index].update(statistic)
                bar.update()
        if not all(value.type.size == 0 for value in observer.values) and not any(
            statistic.count for statistic in statistics
        ):
            raise PassError("calibrate: expected batches with samples, got empty ones only")
        place = {value: index for index, value in enumerate(observer.values)}
        context.statistics.clear()
        context.averages.clear()
        for value, source in sources(values).items():
            for name in statistic_names(value):
                context.statistics[name] = statistics[place[source]]
                context.averages[name] = averages[place[source]]
        context.channels = _by_name(parts.channels)
        context.positions = _by_name(parts.positions)
        context.moments = {
            name: moments
            for value, moments in parts.moments.items()
            for name in moment_names(value)
        }
        context.row_peaks = _by_name(parts.rows)

    def _check_method(self) -> None:
        for option, methods in _METHODS.items():
            given = getattr(self, option)
            if self.method not in methods and given != getattr(type(self), option):
                raise PassError(
                    f"calibrate: expected no {option} with {self.method}, which does without, "
                    f"got {given}; add method={' or '.join(methods)}"
                )

    def _solver(self) -> Solver:
        options = {} if self.percentile is None else {"percentile": self.percentile}
        return solver(self.method, **options)

    def _solved(self, values: Sequence[Value], context: Context) -> list[tuple[float, float]]:
        chosen = self._solver()

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


def _by_name(parts: Mapping[Value, Turning]) -> dict[str, Turning]:
    # Where two values stand for one, that counts whose axes are the imported one's.
    values = sorted(parts, key=lambda value: not any(value.origins.values()))
    return {name: found for value in values for name, found in by_name(value, parts[value]).items()}


def _keep_first(
    graph: Graph, data: Iterable[Batch], context: Context
) -> Iterator[tuple[Sequence[Array], Sizes]]:
    """Leaves rows of the first batch with any in the context; data may be readable only once."""
    context.sample, context.sample_outputs = None, ()
    for arrays, sizes in read_batches(graph, data):
        if context.sample is None and not sizes.empty:
            context.sample = few_rows(graph, arrays, MOST_ROWS)
        yield arrays, sizes


def _sample_outputs(graph: Graph, returned: Mapping[Value, Array]) -> list[Array | None]:
    """Cuts outputs of the first batch to the rows that `_keep_first` leaves of its inputs."""
    return [
        same_rows(graph, value, returned[value], MOST_ROWS) if value in returned else None
        for value in graph.outputs
    ]


def _look_up(values: Sequence[Value], known: Mapping[str, Kept]) -> list[Kept]:
    """Returns what is known of each value; raises PassError where that is not all of them."""
    found: dict[Value, Kept] = {}
    for value, source in sources(values).items():
        entry = next((known[name] for name in statistic_names(value) if name in known), None)
        entry = found.get(source) if entry is None else entry
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
