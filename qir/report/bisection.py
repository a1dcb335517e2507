"""Which pass made a program wrong, and the smallest part of it that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qir.analysis.equivalence import RELATIVE_BOUND, Interpreter, turned_like
from qir.ir import Graph, Value
from qir.report.causes import is_exact
from qir.report.decibels import ratio_in_decibels
from qir.report.tables import table
from qir.types import Array

FLOAT_ROUNDING = 80.0
"""Signal to noise in dB that rewrites of a float program keep in float32 at the least: constants
that they fold are rounded to 24 bits, 144 dB, and sums of a thousand of such lose up to 60."""


@dataclass(frozen=True)
class Version:
    """A program as a pass left it.

    Args:
        step: The pass with its options; `input` for what it was before.
        exact: Whether the pass keeps the numbers.
        graph: The program.
    """

    step: str
    exact: bool
    graph: Graph


@dataclass(frozen=True)
class Bisection:
    """What a search for the pass at fault has found.

    Args:
        figures: Signal to noise in dB against the program before all passes of the versions that
            were computed, by the passes that left them; of all outputs the least.
        guilty: The pass at fault, with its options; None where none is.
        reason: What is wrong behind it; where none is at fault, why.
        before: The part of the program that the pass changed wrongly, as it was; its inputs are
            the nearest values that both versions have in common. None where there is no such part.
        after: The same part as the pass left it.
        value: The name of what the part computes.
    """

    figures: Mapping[str, float]
    guilty: str | None
    reason: str
    before: Graph | None = None
    after: Graph | None = None
    value: str = ""

    def __str__(self) -> str:
        rows = [(step, f"{figure:.1f} dB") for step, figure in self.figures.items()]
        lines = [*table(rows, right=(1,)), self.reason]
        for said, part in (("before", self.before), ("after", self.after)):
            if part is not None:
                lines += [
                    f"{said}, %{self.value}:",
                    *(f"  {line}" for line in str(part).split("\n")),
                ]
        return "\n".join(lines)


def bisect_versions(
    versions: Sequence[Version],
    inputs: Sequence[Array],
    interpreter: Interpreter,
    threshold: float,
) -> Bisection:
    """Finds the first version that is wrong by halves, and the smallest part that shows it.

    A version before codes is wrong where its outputs are further from those of the first one than
    roundings of float32 carry them; one of codes where they are below a threshold, or where a pass
    since the last one that is not exact has changed a number.

    Args:
        versions: The program at first and behind each pass that changed it, in order.
        inputs: An array for each input of the first one.
        interpreter: Computes all values of a program.
        threshold: Signal to noise in dB that a program of codes has at the least.
    """
    search = _Search(versions, inputs, interpreter, threshold)
    low, high = 0, len(versions) - 1
    if high == 0 or search.fault(high) is None:
        figure = search.figure(high)
        return Bisection(search.figures, None, f"no pass is at fault: {figure:.1f} dB are left")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if search.fault(middle) else (middle, high)
    reason = f"{versions[high].step} is at fault: {search.fault(high)}"
    part = search.part(versions[low], versions[high])
    if part is None:
        return Bisection(search.figures, versions[high].step, reason)
    return Bisection(search.figures, versions[high].step, reason, *part)


class _Search:
    """The versions of a program on some inputs, each computed once at most."""

    def __init__(
        self,
        versions: Sequence[Version],
        inputs: Sequence[Array],
        interpreter: Interpreter,
        threshold: float,
    ) -> None:
        self._versions = versions
        self._inputs = inputs
        self._interpreter = interpreter
        self._threshold = threshold
        self._found: dict[int, list[Array]] = {}

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the versions that were computed, in order."""
        known = sorted(self._found)
        return {f"{index:02d} {self._versions[index].step}": self.figure(index) for index in known}

    def figure(self, index: int) -> float:
        """Returns the signal to noise in dB of a version's worst output."""
        pairs = zip(self._outputs(0), self._outputs(index), strict=True)
        return min((ratio_in_decibels(*pair)[0] for pair in pairs), default=float("inf"))

    def fault(self, index: int) -> str | None:
        """Says what is wrong with a version; None where nothing is."""
        figure, graph = self.figure(index), self._versions[index].graph
        if not _has_codes(graph):
            if figure >= FLOAT_ROUNDING:
                return None
            return f"{figure:.1f} dB are left, though no value has a code yet"
        if figure < self._threshold:
            return f"{figure:.1f} dB are left, less than {self._threshold:.1f}"
        rounding = max(
            (at for at in range(1, index + 1) if not self._versions[at].exact), default=index
        )
        pairs = zip(self._outputs(rounding), self._outputs(index), strict=True)
        if all(np.array_equal(*pair, equal_nan=True) for pair in pairs):
            return None
        return f"numbers differ from those behind {self._versions[rounding].step}"

    def _outputs(self, index: int) -> list[Array]:
        """Returns the real numbers of the floating-point outputs."""
        if index not in self._found:
            graph = self._versions[index].graph
            values = self._interpreter(graph, *self._given(graph))
            self._found[index] = [_real(value, values[value]) for value in graph.outputs]
        return self._found[index]

    def _given(self, graph: Graph) -> list[Array]:
        pairs = zip(graph.inputs, self._versions[0].graph.inputs, self._inputs, strict=True)
        return [
            array
            if new.type.quant is None or old.type.quant is not None
            else new.type.quant.encode(array)
            for new, old, array in pairs
        ]

    def part(self, before: Version, after: Version) -> tuple[Graph, Graph, str] | None:
        """Finds the value whose op is the most wrong behind a pass, and what computes it.

        Both versions go on with the numbers of the earlier one wherever they have a value in
        common, so that each difference is one part's own.

        Returns:
            The part before, the part after and the value's name; None where no value is wrong.
        """
        exact = self._interpreter(before.graph, *self._given(before.graph))
        meant = {name: value for value in exact for name in value.origin if not value.is_constant}
        own: dict[Value, float] = {}

        def force(value: Value, array: Array) -> Array:
            old = next((meant[name] for name in value.origin if name in meant), None)
            if old is None or value.is_constant:
                return array
            name = next(name for name in value.origin if name in meant)
            right = turned_like(_real(old, exact[old]), old, value, name)
            code = value.type.quant
            if right.shape != array.shape or (code is not None and is_exact(code)):
                return array
            own[value] = _own_figure(right, _real(value, array), exact=after.exact)
            return code.encode(right) if code is not None else right.astype(array.dtype)

        self._interpreter(after.graph, *self._given(after.graph), hook=force)
        worst = min(own, key=own.__getitem__, default=None)
        if worst is None or own[worst] == float("inf"):
            return None
        name = next(name for name in worst.origin if name in meant)
        names = {name for value in own for name in value.origin}
        known = [value for value in exact if names.intersection(value.origin)]
        parts = _cone(before.graph, meant[name], known), _cone(after.graph, worst, list(own))
        return *parts, name


def _cone(graph: Graph, value: Value, known: Sequence[Value]) -> Graph:
    """Returns what computes a value from the nearest of some others."""
    ends = [each for each in known if each is not value]
    read = {operand for node in graph.cone([value], ends) for operand in node.inputs}
    return graph.extract([each for each in ends if each in read], [value], "part")


def _own_figure(right: Array, found: Array, *, exact: bool) -> float:
    """Returns the signal to noise of a value in dB; infinite where an exact pass has kept it."""
    finite = np.abs(right[np.isfinite(right)])
    bound = RELATIVE_BOUND * 1e3 * float(np.max(finite, initial=0.0))
    if exact and np.allclose(right, found, rtol=0, atol=bound, equal_nan=True):
        return float("inf")
    return ratio_in_decibels(right, found)[0]


def _real(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.decode(array)


def _has_codes(graph: Graph) -> bool:
    return any(value.type.quant is not None for value in graph.values_inside())
