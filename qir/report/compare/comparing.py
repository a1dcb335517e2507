"""Compares an integer program with the float program that it was made of, value by value."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from qir.analysis.equivalence import Interpreter
from qir.errors import EndlessError, QirError, counted
from qir.ir import Graph, Node, OutputAccuracy, Value
from qir.ir.places import placed_name, regions_placed
from qir.observe.sample import MOST_ROWS, batch_name, rows_between
from qir.ops import Reshape, Transpose
from qir.ops.products import Products
from qir.report.compare.both_runs import BothRuns, MetForm, few_at_a_time, given_to
from qir.report.compare.counterparts import decoded, kind_of_value, known_names
from qir.report.compare.culprits import (
    CURED,
    Cures,
    LeftErrors,
    OwnErrors,
    Sites,
    culprits,
    cure,
    rank,
    ratio,
)
from qir.report.compare.effects import Effects, ErrorSite, Prober
from qir.report.compare.read_forms import ReadForm
from qir.report.compare.result import (
    ComparisonReport,
    Culprit,
    GoneValue,
    MeasuredRemedy,
    Remedy,
    Subject,
    ValueAccuracy,
)
from qir.report.compare.sums import ErrorSums
from qir.report.endless import stopped_early
from qir.report.progress import watched_stream
from qir.report.work import work_of
from qir.types import Array

SAMPLES = MOST_ROWS
"""How many samples are compared unless another number is asked for."""

SAME = 1.0
"""Within so many dB, two programs count as made alike."""

EFFECT_WORK = 2**40
"""Products that may be computed for the effects of all values: a minute of XLA on two cores."""


class Comparing:
    """Compares two programs.

    Args:
        reference: The float program.
        program: The integer program that was made of it.
        interpreter: Computes all values of a program.
        prober: Compiles float programs; None for the interpreter alone.
    """

    def __init__(
        self,
        reference: Graph,
        program: Graph,
        interpreter: Interpreter,
        prober: Prober | None = None,
    ) -> None:
        self.reference, self.program = stopped_early(reference), stopped_early(program)
        if not any(value.origin for value in self.reference.values()):
            self.reference.record_origins()
        self._interpreter = interpreter
        self._prober = prober
        self._sums: dict[ReadForm, ErrorSums] = {}
        self._references: dict[ReadForm, Value] = {}
        self._of_outputs = {
            pair: ErrorSums()
            for pair in zip(self.reference.outputs, self.program.outputs, strict=True)
            if (pair[0].type.is_float or pair[0].type.quant) and not pair[0].is_constant
        }
        self._first: BothRuns | None = None
        self._notes: list[str] = []

    def run(
        self,
        batches: Iterable[Sequence[Array]],
        samples: int = SAMPLES,
        again: Callable[[Mapping[str, Any]], tuple[Graph, Graph]] | None = None,
    ) -> ComparisonReport:
        """Compares the programs on some samples.

        Args:
            batches: An array for each input of the float program, for each batch.
            samples: The most samples.
            again: Quantizes the float program as it was, and with a rule given by its fields; None
                leaves out to measure what the best remedy is worth.

        Raises:
            QirError: There are no samples, an input does not fit, or a loop has no end.
        """
        if not any(value.type.quant for value in self.program.values_inside()):
            self._notes.append("compare: the second program has no codes, it is a float one too")
        if not self._of_outputs:
            self._notes.append(
                "compare: no output is a real number, so that no effects on outputs are told; "
                "compare the model without what makes integers of them, as an argmax, or score both"
            )
        count = self._figures(batches, samples)
        assert self._first is not None
        values = self._values()
        outputs = self._outputs()
        order = {figures.name: place for place, figures in enumerate(outputs)}
        compared = sorted((old for old, _ in self._of_outputs), key=lambda old: order[old.name])
        rows, runs = self._few()
        own = OwnErrors()
        edges = self._meet(runs, own.add)
        sites = Sites(edges, runs.exact, own.references)
        readers = {
            node.outputs[0]: ErrorSite(node.outputs[0], tuple(node.outputs[0].uses))
            for node in self.reference.nodes
            if isinstance(node.op, Products)
        }
        effects = Effects(
            self.reference,
            runs.inputs,
            compared,
            runs.exact,
            [*(site for each in sites.of.values() for site in each), *readers.values()],
            self._interpreter,
            self._prober,
        )
        ranking = rank(effects, compared, runs.exact, own, sites)
        stands = self._standing()
        worst = {value: stands[value] for value, _ in ranking.ranked()[:CURED]}
        found_left = (
            cure(
                runs,
                self.reference,
                self.program,
                self._interpreter,
                set(worst.values()),
                known_names(self.program),
            )
            if worst
            else LeftErrors()
        )
        cures = Cures(effects, ranking, own, sites, readers, found_left)

        def remedies_of(value: Value, output: Value) -> tuple[Remedy, ...]:
            form = worst.get(value)
            return () if form is None else cures.remedies(form, output)

        found = culprits(ranking, values, remedies_of)
        independent = {
            output.name: ratio(ranking.signals[output], ranking.total(output))
            for output in compared
        }
        measured = None
        if again is not None and found:
            measured = self._measured(found[0], runs, again)
        return ComparisonReport(
            self._samples(count, rows),
            tuple(outputs),
            independent,
            tuple(values.values()),
            tuple(self._gone(values)),
            found,
            measured,
            tuple(self._notes),
        )

    def _figures(self, batches: Iterable[Sequence[Array]], samples: int) -> int:
        if samples < 1:
            raise QirError(f"compare: expected at least 1 sample, got {samples}")
        count = 0
        parts = few_at_a_time(self.reference, batches, samples)
        for inputs, rows in watched_stream(parts, "compare: figures"):
            runs = BothRuns.compute(self.reference, self.program, inputs, self._interpreter)
            count += rows
            self._first = self._first or runs
            for (old, new), sums in self._of_outputs.items():
                sums.add(decoded(old, runs.exact[old]), decoded(new, runs.found[new]))

            self._meet(runs, self._add)
        if not count:
            raise QirError("compare: expected at least one sample of data, got none")
        return count

    def _add(self, one: MetForm) -> None:
        if one.real is None:
            return
        sums = self._sums.setdefault(one.form, ErrorSums())
        self._references[one.form] = one.met.reference
        sums.add(one.met.exact, one.real)
        code = one.met.value.type.quant
        if code is not None and one.stored is not None:
            sums.add_stored(one.stored, code)
        sums.add_own(one.met.exact, one.real, one.parts)

    def _meet(
        self, runs: BothRuns, visit: Callable[[MetForm], None]
    ) -> Mapping[tuple[Node, int], ReadForm]:
        try:
            return runs.meet(self.reference, self.program, self._interpreter, visit).edges
        except EndlessError as error:
            note = f"compare: of exact numbers a loop has no end: {error.message}"
            if note not in self._notes:
                self._notes.append(note)
            return {}

    def _standing(self) -> dict[Value, ReadForm]:
        """Returns for each value of the float program the form that stands for it.

        Where there are several, that is the one with the largest error of its own.
        """
        found: dict[Value, ReadForm] = {}
        for form, old in self._references.items():
            best = found.get(old)
            if best is None or self._sums[form].own_noise > self._sums[best].own_noise:
                found[old] = form
        return found

    def _values(self) -> dict[Value, ValueAccuracy]:
        stands = self._standing()
        places = dict(_placed(self.reference))
        here = dict(_placed(self.program))
        outside = set(self.reference.values())
        named = {old: _computed(old, form[0], stands) for old, form in stands.items()}
        return {
            old: self._sums[stands[old]].figures(
                Subject(
                    places[named[old]],
                    kind_of_value(named[old], outside),
                    named[old].loc,
                    ", ".join(here[value] for value in stands[old]),
                    stands[old][0].type.dtype.value,
                )
            )
            for old in places
            if old in stands
        }

    def _outputs(self) -> list[OutputAccuracy]:
        found = [sums.output(old.name) for (old, _), sums in self._of_outputs.items()]
        return sorted(found, key=lambda one: one.sqnr)

    def _few(self) -> tuple[int, BothRuns]:
        """Returns as many of the first rows as there is time for, and both programs on them."""
        assert self._first is not None
        runs, name = self._first, batch_name(self.reference)
        if name is None:
            return 1, runs
        count = runs.sizes.names[name]
        work = work_of(self.reference, runs.inputs) * max(1, len(self._standing()))
        rows = max(1, min(count, EFFECT_WORK * count // max(work, 1)))
        if rows == count:
            return count, runs
        inputs = rows_between(self.reference, runs.inputs, 0, rows)
        return rows, BothRuns.compute(self.reference, self.program, inputs, self._interpreter)

    def _gone(self, values: Mapping[Value, ValueAccuracy]) -> list[GoneValue]:
        outside = set(self.reference.values())
        named = {figures.value for figures in values.values()}
        found = []
        for value, name in _placed(self.reference):
            if name in named or not value.type.is_float or value.is_constant:
                continue
            into = value if value in values else _into(value, values)
            shown = None if into is None else values[into].value
            found.append(GoneValue(name, kind_of_value(value, outside), value.loc, shown))
        return found

    def _measured(
        self,
        culprit: Culprit,
        runs: BothRuns,
        again: Callable[[Mapping[str, Any]], tuple[Graph, Graph]],
    ) -> MeasuredRemedy | None:
        output = next(old for old, _ in self._of_outputs if old.name == culprit.output)
        best: MeasuredRemedy | None = None
        for remedy in culprit.remedies:
            if remedy.rule is None or remedy.gain <= 0:
                continue
            try:
                before, after = again(remedy.rule)
            except QirError as error:
                self._notes.append(f"compare: {remedy.name} was not tried: {error.message}")
                continue
            given, old, new = (
                self._sqnr(program, output, runs) for program in (self.program, before, after)
            )
            if abs(old - given) > SAME:
                self._notes.append(
                    f"compare: quantized again as it was, %{output.name} has {old:.1f} dB "
                    f"where the program has {given:.1f}: it was made by another pipeline or on "
                    "other data, or is not what they make; pipeline= and recipe= tell by what"
                )
            found = MeasuredRemedy(
                culprit.value, remedy.name, culprit.output, old, new, remedy.gain, remedy.rule
            )
            if best is None or found.gain > best.gain:
                best = found
            if found.gain > 0:
                break
            self._notes.append(
                f"compare: {remedy.name} for %{culprit.value} was tried, and brings "
                f"{found.gain:+.1f} dB in place of {remedy.gain:+.1f}"
            )
        return best

    def _sqnr(self, program: Graph, output: Value, runs: BothRuns) -> float:
        given = given_to(program, self.reference, runs.inputs)
        index = self.reference.outputs.index(output)
        new = program.outputs[index]
        sums = ErrorSums()
        found = self._interpreter(program, *given)[new]
        sums.add(decoded(output, runs.exact[output]), decoded(new, found))
        return sums.output(output.name).sqnr

    def _samples(self, count: int, rows: int) -> str:
        what = "batch" if batch_name(self.reference) is None else "sample"
        text = counted(count, what) if what == "sample" else f"{count} batch{'es' * (count > 1)}"
        return text if rows == count else f"{text}, effects on outputs on {rows} of them"


def _placed(graph: Graph, around: str = "") -> Iterable[tuple[Value, str]]:
    """Yields the values of a program and of its regions with their names and places."""
    for value in graph.inputs:
        yield value, placed_name(value, around)
    for node in graph.nodes:
        for value in node.outputs:
            yield value, placed_name(value, around)
        for region, place in regions_placed(node, around):
            yield from _placed(region, place)


def _computed(old: Value, value: Value, named: Container[Value]) -> Value:
    """Returns what a value that only moves numbers moves, where the same one stands for both.

    Args:
        old: The value of the float program.
        value: That of the integer program.
        named: What has figures of its own.
    """
    while isinstance(old.op, Transpose | Reshape):
        (source,) = old.inputs
        if source in named or not value.origins.keys() & source.origins.keys():
            break
        old = source
    return old


def _into(value: Value, values: Mapping[Value, ValueAccuracy]) -> Value | None:
    """Returns the nearest value with figures that is computed from another one."""
    done, line = {value}, [value]
    while line:
        last = line.pop(0)
        for node in last.users:
            for result in node.outputs:
                if result in values:
                    return result
                if result not in done:
                    done.add(result)
                    line.append(result)
    return None
