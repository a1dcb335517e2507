"""What passes get beside the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from qir.analysis.equivalence import Interpreter
from qir.analysis.properties import Property
from qir.ir import Graph, Value
from qir.observe.checkpoint import Checkpoint
from qir.observe.observations import Observations
from qir.observe.statistics import Statistics
from qir.pipeline.recipes import Recipe
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
        checkpoint: Where calibrate keeps what it has counted, to go on after an interrupt.
        seed: Seed of anything random.
        progress: Whether long passes show a progress bar.
        allow: The least exactness that rewrites may have; the pipeline's directive `allow(...)`
            sets it.
        target: The runtime that the program is for: passes make nothing that it does not accept.
        recipe: What ops that it selects have otherwise than the options of passes say.

    Attributes:
        diagnostics: Sentences that passes leave for the user.
        statistics: What calibration observed, by the name of the imported value, and what passes
            that rescale or split values made of it. A program goes on with the statistics of the
            context that the passes before had.
        reference: The float program as it was given to the manager, which sets it and shares its
            arrays; values of the program and of this one that have a name in common in their
            `origin` stand for the same. None where the program has codes already, unless the caller
            sets it.
        sample: Rows of the first batch that calibration read, an array for each input; None before.
        sample_outputs: What the float program returned for these rows as it was calibrated, an
            array for each output, None for one that is no float or has no such rows; else empty.
        layer_rows: Rows of what chains of layers read as the program was calibrated, by the value,
            for passes that compare ways to compute a chain.
        timings: (pass, seconds) of every pass that ran, and of the `accuracy-check` of `quantize`.
        edited: For each of these whether it edited the program: an op, operand, type, name, range,
            origin or note.
        versions: The passes that edited the program, each with a copy of it as the pass left it;
            kept where a list is given.
        unattained: What a pass is there for but found nothing to make it of, as quantize in a
            program that only returns its inputs: passes that need it are left out.
    """

    data: Iterable[Batch] | None = None
    executor: Executor | None = None
    interpreter: Interpreter | None = None
    checkpoint: Checkpoint | None = None
    seed: int = 0
    progress: bool = False
    allow: Exactness = "exact"
    target: Target | None = None
    recipe: Recipe | None = None
    diagnostics: list[str] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    reference: Graph | None = None
    sample: Sequence[Array] | None = None
    sample_outputs: Sequence[Array | None] = ()
    layer_rows: Mapping[Value, Array] = field(default_factory=dict)
    timings: list[tuple[str, float]] = field(default_factory=list)
    edited: list[bool] = field(default_factory=list)
    versions: list[tuple[Any, Graph]] | None = None
    unattained: set[Property] = field(default_factory=set)
    _observations: Observations | None = field(default=None, init=False, repr=False)

    @property
    def observations(self) -> Observations | None:
        """The calibration data, to be read as often as it can be; None where there is none.

        Passes read this view and not `data`, so that data which can be read only once is kept where
        it is small.
        """
        if self.data is None:
            return None
        if self._observations is None or self._observations.data is not self.data:
            self._observations = Observations(self.data)
        return self._observations
