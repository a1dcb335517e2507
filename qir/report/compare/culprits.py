"""Which values' own errors cost the outputs most, and what each remedy would bring back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.ir import Graph, Node, Value
from qir.report.causes import far_middle
from qir.report.compare.both_runs import BothRuns, MetForm
from qir.report.compare.counterparts import turned_to
from qir.report.compare.effects import Effects, Errors, ErrorSite, WrongNumbers
from qir.report.compare.read_forms import ReadForm
from qir.report.compare.remedies import LeftError, left_errors, wrong_numbers
from qir.report.compare.result import Culprit, Remedy, ValueAccuracy
from qir.report.decibels import decibels
from qir.report.progress import watched
from qir.types import Array

CURED = 5
"""For how many of the worst values remedies are worked out."""

FLOAT_ROUNDING = 2.0**-48
"""The share of an output's squares that its own rounding to float32 makes: no remedy leaves less,
so that a gain is a finite number."""


@dataclass
class OwnErrors:
    """The own errors of forms on some rows, with the axes of the integer program.

    Attributes:
        wrong: What the float program has with them, for each trip of a region.
        references: What each form stands for.
    """

    wrong: dict[ReadForm, list[WrongNumbers]] = field(default_factory=dict)
    references: dict[ReadForm, Value] = field(default_factory=dict)

    def add(self, one: MetForm) -> None:
        """Keeps the own error of a form."""
        if one.parts is not None:
            numbers = one.parts.numbers.astype(np.float32)
            error = None if one.met.trip is None else one.parts.error.astype(np.float32)
            self.wrong.setdefault(one.form, []).append(WrongNumbers(numbers, error))
            self.references[one.form] = one.met.reference

    def of(self, value: Value) -> dict[ReadForm, list[WrongNumbers]]:
        """Returns the errors of the forms of one value."""
        return {form: each for form, each in self.wrong.items() if self.references[form] is value}


class Sites:
    """Where the forms of values are read in the float program.

    Args:
        edges: Node and operand, and the form that is read there.
        outside: The values that are in no region.
        references: What each form stands for.
    """

    def __init__(
        self,
        edges: Mapping[tuple[Node, int], ReadForm],
        outside: Container[Value],
        references: Mapping[ReadForm, Value],
    ) -> None:
        found: dict[tuple[ReadForm, Value], list[tuple[Node, int]]] = {}
        for (node, operand), form in edges.items():
            found.setdefault((form, node.inputs[operand]), []).append((node, operand))
        self.of: dict[ReadForm, list[ErrorSite]] = {}
        for form, reference in references.items():
            if reference not in outside:
                self.of[form] = [ErrorSite(reference, ())]
        for (form, old), places in found.items():
            if old in outside and form in references:
                self.of.setdefault(form, []).append(ErrorSite(old, tuple(places)))

    def errors(
        self, forms: Mapping[ReadForm, Sequence[WrongNumbers]]
    ) -> dict[ErrorSite, list[WrongNumbers]]:
        """Returns the errors of forms where they are read."""

        def turned(wrong: WrongNumbers, form: ReadForm, old: Value) -> WrongNumbers:
            error = None if wrong.error is None else turned_to(wrong.error, form[0], old)
            return WrongNumbers(turned_to(wrong.numbers, form[0], old), error)

        return {
            site: [turned(each, form, site.value) for each in wrong]
            for form, wrong in forms.items()
            for site in self.of.get(form, ())
        }


@dataclass(frozen=True)
class Ranking:
    """The values by what their own errors do to the outputs.

    Args:
        outputs: The outputs, the least accurate first.
        signals: The sum of the squares of each output.
        noises: Of each value the sum of the squares of what its own error does to each output.
    """

    outputs: Sequence[Value]
    signals: Mapping[Value, float]
    noises: Mapping[Value, Mapping[Value, float]]

    def total(self, output: Value) -> float:
        """Returns the noise at an output where errors of values add independently."""
        return sum(noise[output] for noise in self.noises.values())

    def ranked(self) -> list[tuple[Value, Value]]:
        """Returns the values that do anything, each with the output that suffers most, in order."""
        found: list[tuple[int, float, Value, Value]] = []
        for value, noise in self.noises.items():
            for place, output in enumerate(self.outputs):
                if noise[output] > 0:
                    found.append((place, -noise[output], value, output))
                    break
        found.sort(key=lambda each: each[:2])
        return [(value, output) for _, _, value, output in found]

    def share(self, value: Value, output: Value) -> float:
        """Returns the share of the noise at an output that one value makes."""
        noise, total = self.noises[value][output], self.total(output)
        return noise / total if np.isfinite(total) else float(noise == np.inf)

    def sqnr(self, value: Value, output: Value) -> float:
        """Returns the signal to noise in dB at an output with the error of one value alone."""
        return ratio(self.signals[output], self.noises[value][output])


def ratio(signal: float, noise: float) -> float:
    """Returns a ratio of sums of squares in dB."""
    return float(decibels(np.array([signal]), np.array([noise]))[0])


def rank(
    effects: Effects,
    outputs: Sequence[Value],
    exact: Mapping[Value, Array],
    own: OwnErrors,
    sites: Sites,
) -> Ranking:
    """Adds the own error of one value at a time to the float program.

    Args:
        effects: Tells what errors do to the outputs.
        outputs: The outputs, the least accurate first.
        exact: The numbers of the float program.
        own: The own errors.
        sites: Where they are read.
    """
    noises = {}
    values = list(dict.fromkeys(own.references.values()))
    for value in watched(values, "compare: effects on the outputs"):
        if errors := sites.errors(own.of(value)):
            noises[value] = effects.noise(errors)
    signals = {output: _signal(exact[output]) for output in outputs}
    return Ranking(outputs, signals, noises)


def _signal(array: Array) -> float:
    wide = np.asarray(array, np.float64) - far_middle(np.asarray(array))
    return float((wide[np.isfinite(wide)] ** 2).sum())


@dataclass
class LeftErrors:
    """What remedies leave of the errors of the worst values, for each trip of a region.

    Attributes:
        left: By the form that a remedy is for.
        exact_weights: What those that read one of these have without the errors of their weights.
        readers: Which these are.
    """

    left: dict[ReadForm, list[list[LeftError]]] = field(default_factory=dict)
    exact_weights: dict[ReadForm, list[WrongNumbers]] = field(default_factory=dict)
    readers: dict[ReadForm, set[ReadForm]] = field(default_factory=dict)


def cure(
    runs: BothRuns,
    reference: Graph,
    program: Graph,
    interpreter: Interpreter,
    worst: Collection[ReadForm],
    known: Container[str],
) -> LeftErrors:
    """Works out what remedies leave of the errors of the worst values.

    Args:
        runs: Both programs on some rows.
        reference: The float program.
        program: The integer program.
        interpreter: Computes all values of a program.
        worst: The forms of the values.
        known: The names by which rules know values.
    """
    found = LeftErrors()

    def visit(one: MetForm) -> None:
        if one.parts is None:
            return
        if one.form in worst:
            left = list(left_errors(one.met, one.parts, one.run, one.ops, known))
            found.left.setdefault(one.form, []).append(left)
        read = [form for form in one.ops.forms_read(one.met.value) if form in worst]
        if read and one.parts.weights.any():
            error = one.parts.error - one.parts.weights
            exact = wrong_numbers(one.met, one.parts, error)
            found.exact_weights.setdefault(one.form, []).append(exact)
            for form in read:
                found.readers.setdefault(form, set()).add(one.form)

    runs.meet(reference, program, interpreter, visit)
    return found


@dataclass(frozen=True)
class Cures:
    """What remedies gain at the outputs.

    Args:
        effects: Tells what errors do to the outputs.
        ranking: The noises of all values.
        own: The own errors.
        sites: Where they are read.
        readers: Where results of products may get errors, by the float program's value.
        found: What remedies leave.
    """

    effects: Effects
    ranking: Ranking
    own: OwnErrors
    sites: Sites
    readers: Mapping[Value, ErrorSite]
    found: LeftErrors

    def remedies(self, form: ReadForm, output: Value) -> tuple[Remedy, ...]:
        """Returns the remedies of a value with what they would gain, the best first.

        Args:
            form: The form of it that the remedies are for.
            output: The output.
        """
        value = self.own.references[form]
        total = self.ranking.total(output)
        others = total - self.ranking.noises[value][output]
        least = self.ranking.signals[output] * FLOAT_ROUNDING
        found = []
        for kind in zip(*self.found.left.get(form, []), strict=True):
            first = kind[0]
            left = self.own.of(value) | {form: [each.wrong for each in kind]}
            rest = others + self._noise(self.sites.errors(left), output)
            if first.name == "keep float":
                rest -= self._of_weights(form, output)
            for reader, now, then in first.moved:
                if (site := self.readers.get(reader)) is not None:
                    rest += self._noise({site: [WrongNumbers(then)]}, output)
                    rest -= self._noise({site: [WrongNumbers(now)]}, output)
            names = [_escaped(name) for name in first.selected]
            rule = {"select": names, **first.rule} if first.rule and names else None
            gain = ratio(max(total, least), max(rest, least)) if np.isfinite(rest) else 0.0
            found.append(Remedy(first.name, gain, first.detail, rule))
        return tuple(sorted(found, key=lambda remedy: -remedy.gain))

    def _of_weights(self, form: ReadForm, output: Value) -> float:
        """Returns the noise that goes where those that read a form have their own weights."""
        gone = 0.0
        for reader in self.found.readers.get(form, ()):
            value = self.own.references[reader]
            left = self.own.of(value) | {reader: self.found.exact_weights[reader]}
            gone += self.ranking.noises[value][output] if value in self.ranking.noises else 0.0
            gone -= self._noise(self.sites.errors(left), output)
        return gone

    def _noise(self, errors: Errors, output: Value) -> float:
        return self.effects.noise(errors)[output] if errors else 0.0


def _escaped(name: str) -> str:
    """Returns a selector of nothing but a name."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def culprits(
    ranking: Ranking,
    accuracies: Mapping[Value, ValueAccuracy],
    remedies_of: Callable[[Value, Value], tuple[Remedy, ...]],
) -> tuple[Culprit, ...]:
    """Returns the values by the effect of their own errors, the worst first.

    Args:
        ranking: The noises of all values.
        accuracies: Their figures.
        remedies_of: The remedies of a value at an output.
    """
    found = []
    for value, output in ranking.ranked():
        figures = accuracies[value]
        found.append(
            Culprit(
                figures.value,
                figures.op,
                figures.loc,
                output.name,
                ranking.sqnr(value, output),
                ranking.share(value, output),
                {each.name: ranking.sqnr(value, each) for each in ranking.outputs},
                figures.source,
                remedies_of(value, output),
            )
        )
    return tuple(found)
