"""How good and how costly programs are, side by side."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from qir.analysis.properties import FLOAT
from qir.api.measuring import ScoredProgram
from qir.bench.timing import Times, interleave
from qir.errors import QirError, did_you_mean, kind_of
from qir.ir import Graph
from qir.metrics.asked import asked
from qir.metrics.paired import paired
from qir.metrics.registry import Answers, CostMetric, Figure, Metric
from qir.metrics.scores import Scores
from qir.types import Array


def score(
    programs: Graph | Mapping[str, Graph],
    data: Iterable[Any] | None,
    metrics: Any,
    *,
    backend: str = "xla",
    output: str | int | None = None,
    reference: str | Graph | None = None,
    seed: int = 0,
) -> Scores:
    """Computes metrics of programs on data with targets, which is read once for all of them.

    Metrics are over all samples: batches of any sizes weigh as their samples do. Those of costs are
    measured on the first batch, and programs that are timed take turns. Real numbers are put into
    the code of an input that has one, and outputs with a code become real numbers.

    Args:
        programs: A program, or several by name: `{"float": graph, "w8a8": integer}`.
        data: Batches, each a pair (inputs, targets), inputs an array, a tuple of arrays or a dict
            by input name. Inputs alone will do where no metric reads targets, and None, random
            inputs of one sample, where only costs are asked for.
        metrics: One or a sequence of these, or a dict of them by what the report is to call them: a
            name as `"accuracy"`, `"top-5"` or `"f1(average=micro)"`, see `qir.metrics`; an object,
            as `qir.metrics.F1(average="micro")`; any function of all outputs and all targets that
            returns a number.
        backend: What runs the programs, as for `qir.compile`.
        output: The output that metrics look at, by its name in the first program or its number from
            0; needed where there are several. Without it functions of the user's get a tuple.
        reference: What `sqnr` and `cosine` compare with: a program, or the name of one of
            `programs`; the first of these that has no codes when None.
        seed: Seed of random inputs.

    Returns:
        The figures: `scores["accuracy"]`, or `scores["w8a8", "accuracy"]` of several programs.
        Printed they are a table; `to_json` gives JSON.

    Raises:
        QirError: A metric, an option, an output or a backend does not exist; what a metric needs is
            not installed; there is no data; inputs, outputs and targets do not fit one another.
    """
    named = _named(programs)
    chosen = asked(metrics)
    judged = {name: each for name, each in chosen.items() if isinstance(each, Metric)}
    costs = {name: each for name, each in chosen.items() if isinstance(each, CostMetric)}
    index = _output_index(next(iter(named.values())), output)
    running = {name: ScoredProgram(name, graph, backend, index) for name, graph in named.items()}
    exact = None
    if against := [name for name, each in judged.items() if each.reads_exact]:
        found = _reference(named, reference, against[0])
        exact = (
            running[found]
            if isinstance(found, str)
            else ScoredProgram(found.name, found, backend, index)
        )
    _check_outputs(judged, [*running.values(), *([] if exact is None else [exact])])
    if data is None and judged:
        raise QirError(
            f"score: expected data, which {next(iter(judged))} is computed of, got None; a list "
            "of pairs (inputs, targets)"
        )
    for name, metric in judged.items():
        with _subject(name):
            metric.prepare()
    gathered = _Gathered(judged, list(running.values()), exact)
    if data is not None:
        gathered.read(data)
    figures = {name: gathered.figures(name) for name in running}
    if costs:
        _measure(costs, list(running.values()), figures, seed)
    return Scores(
        chosen,
        {name: {each: found[each] for each in chosen} for name, found in figures.items()},
        gathered.samples,
        gathered.batches,
        next(iter(running.values())).samples if costs else 0,
        "" if exact is None else exact.name,
        tuple(note for program in running.values() for note in program.notes()),
    )


def _named(programs: Any) -> dict[str, Graph]:
    if isinstance(programs, Graph):
        return {programs.name: programs}
    if not isinstance(programs, Mapping) or not programs:
        raise QirError(
            'score: expected a graph, or graphs by name as {"float": graph, "w8a8": integer}, got '
            f"{'no program' if isinstance(programs, Mapping) else kind_of(programs)}"
        )
    for name, graph in programs.items():
        if not isinstance(graph, Graph):
            raise QirError(f"score: expected a graph as program '{name}', got {kind_of(graph)}")
    return {str(name): graph for name, graph in programs.items()}


def _output_index(graph: Graph, output: str | int | None) -> int | None:
    if output is None:
        return None
    names = [value.name for value in graph.outputs]
    if isinstance(output, str) and output.removeprefix("%") in names:
        return names.index(output.removeprefix("%"))
    if isinstance(output, int) and not isinstance(output, bool) and 0 <= output < len(names):
        return output
    listing = ", ".join(f"%{name}" for name in names)
    raise QirError(
        f"score: output: expected one of {listing}, or its number from 0, got {output!r}"
        + (did_you_mean(output, names) if isinstance(output, str) else "")
    )


def _reference(
    named: Mapping[str, Graph], reference: str | Graph | None, metric: str
) -> str | Graph:
    """Returns the name of the program to compare with, or the program itself."""
    if isinstance(reference, Graph):
        return next((name for name, graph in named.items() if graph is reference), reference)
    if isinstance(reference, str):
        if reference not in named:
            hint = did_you_mean(reference, named) or f"; there are {', '.join(named)}"
            raise QirError(f"score: reference: no program '{reference}'{hint}")
        return reference
    if reference is not None:
        raise QirError(
            f"score: reference: expected a graph or the name of a program, got {kind_of(reference)}"
        )
    for name, graph in named.items():
        if FLOAT.missing(graph) is None:
            return name
    raise QirError(
        f"score: {metric}: expected a float program to compare with, got none without codes; "
        "reference=graph gives one that is not scored itself"
    )


def _check_outputs(metrics: Mapping[str, Metric], programs: list[ScoredProgram]) -> None:
    for name, metric in metrics.items():
        for program in programs:
            if len(program.outputs) > 1 and not metric.reads_all:
                names = [f"%{value.name}" for value in program.outputs]
                raise QirError(
                    f"score: {name}: expected one output, got {', '.join(names)} of "
                    f"{program.name}; say which by output='{names[0][1:]}'"
                )


class _Gathered:
    """What metrics keep of the batches.

    Args:
        metrics: The metrics that are computed of outputs.
        programs: The programs.
        exact: The program that others are compared with; None where none is.

    Attributes:
        samples: Samples of the batches so far.
        batches: How many these are.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        programs: list[ScoredProgram],
        exact: ScoredProgram | None,
    ) -> None:
        self._metrics = metrics
        self._programs = programs
        self._all = programs if exact is None or exact in programs else [*programs, exact]
        self._exact = exact
        self._parts: dict[tuple[str, str], list[Any]] = {
            (program.name, metric): [] for program in programs for metric in metrics
        }
        self.samples = 0
        self.batches = 0

    def read(self, data: Iterable[Any]) -> None:
        """Computes the programs on all batches; takes one to measure on where nothing is judged."""
        first = self._programs[0]
        needed = next((name for name, each in self._metrics.items() if each.reads_targets), "")
        for number, (inputs, targets) in enumerate(paired(data, len(first.graph.inputs), needed)):
            taken = {each: each.take(inputs, f"score: batch {number}") for each in self._all}
            samples = taken[first][1]
            if not samples:
                continue
            if not self._metrics:
                return
            outputs = {each: each.run(arrays) for each, (arrays, _) in taken.items()}
            self._add(outputs, targets, f"batch {number}")
            self.samples += samples
            self.batches += 1
        if not first.samples:
            raise QirError("score: expected batches with samples, got empty ones only")

    def _add(
        self, outputs: Mapping[ScoredProgram, tuple[Array, ...]], targets: Any, batch: str
    ) -> None:
        exact = () if self._exact is None else outputs[self._exact]
        for program in self._programs:
            answers = Answers(outputs[program], targets, exact)
            for name, metric in self._metrics.items():
                with _subject(name, batch, program.name):
                    part = metric.part(answers)
                self._parts[program.name, name].append(part)

    def figures(self, program: str) -> dict[str, Figure]:
        """Returns the figures of a program, by metric."""
        found: dict[str, Figure] = {}
        for name, metric in self._metrics.items():
            with _subject(name, program):
                found[name] = metric.total(self._parts[program, name])
        return found


@contextmanager
def _subject(metric: str, *places: str) -> Generator[None]:
    """Lets an error begin with the metric at fault, and end with where that was met."""
    try:
        yield
    except QirError as error:
        met = [f"in {place}" for place in places]
        raise QirError(f"score: {metric}: {error.message}", [*error.places, *met]) from error
    except Exception as error:  # of a function of the user's
        error.add_note(f"qir.score: in {', '.join([f'the metric {metric}', *places])}")
        raise


def _measure(
    costs: Mapping[str, CostMetric],
    programs: list[ScoredProgram],
    figures: Mapping[str, dict[str, Figure]],
    seed: int,
) -> None:
    """Adds what programs cost."""

    @cache
    def race(rounds: int) -> tuple[Times, ...]:
        return interleave([each.contender() for each in programs], rounds)

    needed = any(metric.is_of_a_call for metric in costs.values())
    for place, program in enumerate(programs):
        if needed and not program.samples:
            program.measure_on_random(seed)
        program.enter(race, place)
    for program in programs:
        for name, metric in costs.items():
            with _subject(name, program.name):
                figures[program.name][name] = metric.cost(program)
