"""What passes get beside the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from qir.analysis.equivalence import Interpreter
from qir.analysis.properties import Property
from qir.ir import Graph, Value
from qir.observe.channels import ChannelMoments, ChannelStatistic, RowPeaks
from qir.observe.statistics import MovingAverage, Statistic
from qir.pipeline.rewrite import Exactness
from qir.targets import Target
from qir.types import Array

Batch: TypeAlias = Any
"""An array for the only input, a tuple of arrays in the order of the inputs, or a dict by name."""


class Executor(Protocol):
    """Runs float graphs for passes; supplied by the caller, so that passes import no backend."""

    def probe(
        self, graph: Graph, values: Sequence[Value], reduce: Callable[[Any, Any], Any] | None = None
    ) -> Callable[..., list[Any]]:
        """Compiles a function from input arrays to values inside the graph.

        Args:
            graph: The graph.
            values: The values to return.
            reduce: `reduce(array, xp)`, written against an array namespace, applied to each value
                where it is computed, so that only its result is kept.
        """
        ...

    def as_jax(self, graph: Graph) -> Callable[..., Any]:
        """Returns a differentiable function `f(parameters, *inputs)` of a float graph."""
        ...


@dataclass
class Context:
    """What passes get beside the graph.

    Args:
        data: Calibration batches, an iterable; see Batch.
        executor: Runs float graphs.
        interpreter: The reference interpreter, for checks.
        seed: Seed of anything random.
        progress: Whether long passes show a progress bar.
        allow: The least exactness that rewrites may have; the pipeline's directive `allow(...)`
            sets it.
        target: The runtime that the program is for: passes make nothing that it does not accept.

    Attributes:
        diagnostics: Sentences that passes leave for the user.
        statistics: What calibration observed, by the name of the imported value.
        sample: Rows of the first batch that calibration read, an array for each input; None before.
        sample_outputs: What the float program returned for these rows as it was calibrated, an
            array for each output, None for one that is no float or has no such rows; else empty.
        averages: Moving averages of the extremes of its batches, likewise.
        channels: What it observed of the channels of the values that products read, likewise;
            for other values, and where statistics were given instead of data, there is nothing.
        moments: Mean and variance of the channels of what products and convolutions with constant
            weights read, likewise; where a sum is split, of the parts too.
        row_peaks: The least row maximum of the operands of each softmax, likewise.
        positions: The extremes and the mean square at each position of a sequence of what is
            divided row by row, as attention is, likewise.
        timings: (pass, seconds) of every pass that ran, and of the `accuracy-check` of `quantize`.
        edited: For each of these whether it edited the program: an op, operand, type, name, range,
            origin or note.
        unattained: What a pass is there for but found nothing to make it of, as quantize in a
            program that only returns its inputs: passes that need it are left out.
    """

    data: Iterable[Batch] | None = None
    executor: Executor | None = None
    interpreter: Interpreter | None = None
    seed: int = 0
    progress: bool = False
    allow: Exactness = "exact"
    target: Target | None = None
    diagnostics: list[str] = field(default_factory=list)
    statistics: dict[str, Statistic] = field(default_factory=dict)
    sample: Sequence[Array] | None = None
    sample_outputs: Sequence[Array | None] = ()
    averages: dict[str, MovingAverage] = field(default_factory=dict)
    channels: dict[str, ChannelStatistic] = field(default_factory=dict)
    moments: dict[str, ChannelMoments] = field(default_factory=dict)
    row_peaks: dict[str, RowPeaks] = field(default_factory=dict)
    positions: dict[str, ChannelStatistic] = field(default_factory=dict)
    timings: list[tuple[str, float]] = field(default_factory=list)
    edited: list[bool] = field(default_factory=list)
    unattained: set[Property] = field(default_factory=set)
