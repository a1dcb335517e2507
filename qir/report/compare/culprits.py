"""Which values' own errors cost the outputs most, and what each remedy would bring back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log10

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.ir import Graph, Value
from qir.report.compare.both_runs import BothRuns
from qir.report.compare.counterparts import turned_to
from qir.report.compare.effects import Effects
from qir.report.compare.forcing import ForcedRun, ForcedValue
from qir.report.compare.own_errors import FloatOps, OwnParts
from qir.report.compare.remedies import LeftError, left_errors
from qir.report.compare.result import Culprit, Remedy, ValueAccuracy
from qir.report.decibels import decibels
from qir.report.progress import watched
from qir.types import Array

CURED = 5
"""For how many of the worst values remedies are worked out."""


@dataclass
class OwnErrors:
    """The own errors of values on some rows, with the axes of the float program.

    Attributes:
        errors: By the float program's value, for each trip where it is inside of a region.
    """

    errors: dict[Value, list[Array]] = field(default_factory=dict)

    def add(self, met: ForcedValue, parts: OwnParts | None) -> None:
        """Keeps the own error of a value."""
        if parts is not None:
            error = turned_to(parts.error, met.value, met.reference).astype(np.float32)
            self.errors.setdefault(met.reference, []).append(error)


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

    def sqnr(self, value: Value, output: Value) -> float:
        """Returns the signal to noise in dB at an output with the error of one value alone."""
        return ratio(self.signals[output], self.noises[value][output])


def ratio(signal: float, noise: float) -> float:
    """Returns a ratio of sums of squares in dB."""
    return float(decibels(np.array([signal]), np.array([noise]))[0])


def rank(
    effects: Effects, outputs: Sequence[Value], exact: Mapping[Value, Array], own: OwnErrors
) -> Ranking:
    """Adds the own error of one value at a time to the float program.

    Args:
        effects: Tells what errors do to the outputs.
        outputs: The outputs, the least accurate first.
        exact: The numbers of the float program.
        own: The own errors.
    """
    noises = {}
    for value, errors in watched(list(own.errors.items()), "compare: effects on the outputs"):
        if any(error.any() for error in errors):
            noises[value] = effects.noise({value: errors})
    signals = {output: _signal(exact[output]) for output in outputs}
    return Ranking(outputs, signals, noises)


def _signal(array: Array) -> float:
    wide = np.asarray(array, np.float64)
    return float((wide[np.isfinite(wide)] ** 2).sum())


def cure(
    runs: BothRuns,
    reference: Graph,
    program: Graph,
    interpreter: Interpreter,
    worst: Mapping[Value, Value],
) -> dict[Value, list[list[LeftError]]]:
    """Works out what remedies leave of the errors of the worst values, trip by trip.

    Args:
        runs: Both programs on some rows.
        reference: The float program.
        program: The integer program.
        interpreter: Computes all values of a program.
        worst: The values, each with the integer program's value that stands for it.
    """
    found: dict[Value, list[list[LeftError]]] = {}

    def visit(met: ForcedValue, parts: OwnParts | None, run: ForcedRun, ops: FloatOps) -> None:
        if parts is not None and worst.get(met.reference) is met.value:
            left = list(left_errors(met, parts, run, ops))
            found.setdefault(met.reference, []).append(left)

    runs.meet(reference, program, interpreter, visit)
    return found


def remedies(
    value: Value,
    output: Value,
    stands: Value,
    trips: Sequence[Sequence[LeftError]],
    effects: Effects,
    ranking: Ranking,
) -> tuple[Remedy, ...]:
    """Returns the remedies of a value with what they would gain at an output, the best first.

    Args:
        value: The float program's value.
        output: The output.
        stands: The integer program's value.
        trips: What each remedy leaves, for each trip.
        effects: Tells what errors do to the outputs.
        ranking: The noises of all values.
    """
    total, own = ranking.total(output), ranking.noises[value][output]
    found = []
    for kind in zip(*trips, strict=True):
        first = kind[0]
        left = [turned_to(each.error, stands, value).astype(np.float32) for each in kind]
        noise = effects.noise({value: left})[output] if any(each.any() for each in left) else 0.0
        for reader, now, then in first.moved:
            if effects.takes(reader):
                before = effects.noise({reader: [now.astype(np.float32)]})[output]
                noise += effects.noise({reader: [then.astype(np.float32)]})[output] - before
        rest = max(total - own + noise, total * 1e-12)
        names = [_escaped(name) for name in first.selected]
        rule = {"select": names, **first.rule} if first.rule and names else None
        found.append(Remedy(first.name, 10 * log10(total / rest), first.detail, rule))
    return tuple(sorted(found, key=lambda remedy: -remedy.gain))


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
        shares = {name: getattr(figures, name) for name in ("weights", "clipping", "rounding")}
        found.append(
            Culprit(
                figures.value,
                figures.op,
                figures.loc,
                output.name,
                ranking.sqnr(value, output),
                ranking.noises[value][output] / ranking.total(output),
                {each.name: ranking.sqnr(value, each) for each in ranking.outputs},
                max(shares, key=shares.__getitem__),  # type: ignore[arg-type]
                remedies_of(value, output),
            )
        )
    return tuple(found)
