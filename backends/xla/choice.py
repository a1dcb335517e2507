"""Which of the legal ways computes each op, and why: a preference, or what was measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qir.backends.native.computation import Lowering
from qir.backends.xla.rules import legal_ways
from qir.ir import Node
from qir.report.tables import table

MARGIN = 0.1
"""By how much of its time a way must beat the preferred one, so that noise flips no program."""


NOT_MEASURED = "preferred: not measured"


@dataclass(frozen=True)
class Choice:
    """The way that an op takes.

    Args:
        way: The way.
        reason: Why this one, in a clause.
        measured: Whether the reason has times in it.
    """

    way: Lowering
    reason: str
    measured: bool = False


Chooser: TypeAlias = Callable[[Node], Choice]
"""Chooses the way of a node; raises UnsupportedError where there is none."""


def preferred(node: Node) -> Choice:
    """Chooses without measurements."""
    first, *others = legal_ways(node)
    return Choice(first, NOT_MEASURED if others else "the only way")


def fastest(node: Node, milliseconds: Mapping[str, float]) -> Choice:
    """Chooses by measurements, in favour of the preferred way where the difference is small.

    Args:
        node: The node.
        milliseconds: The time that each way took, by its name. Names of ways that are not legal
            count for nothing, and without a time of the preferred way nothing is compared.
    """
    ways = {way.name: way for way in legal_ways(node)}
    first = next(iter(ways))
    times = {name: milliseconds[name] for name in ways if name in milliseconds}
    if first not in times or len(times) < 2:
        return preferred(node)
    name, runner_up = sorted(times, key=lambda name: times[name])[:2]
    if name != first and times[name] > (1 - MARGIN) * times[first]:
        reason = (
            f"preferred: {_shown(times[first])}, "
            f"{name} {_shown(times[name])} is within {MARGIN:.0%}"
        )
        return Choice(ways[first], reason, measured=True)
    reason = f"measured: {_shown(times[name])}, next {runner_up} {_shown(times[runner_up])}"
    return Choice(ways[name], reason, measured=True)


def _shown(milliseconds: float) -> str:
    digits = 0 if milliseconds >= 100 else 3
    return f"{milliseconds:.{digits}f} ms" if not digits else f"{milliseconds:.{digits}g} ms"


def report(choices: Mapping[tuple[str, str], Choice], warnings: Sequence[str] = ()) -> str:
    """Returns a table of choices, and what each of the ways in it does.

    Args:
        choices: The choice for each computed value, by its name and the name of its op.
        warnings: Lines that follow the table.
    """
    rows = [("value", "op", "lowering", "why")]
    rows += [
        (f"%{value}", op, choice.way.name, choice.reason) for (value, op), choice in choices.items()
    ]
    ways = {choice.way.name: choice.way.summary for choice in choices.values()}
    unmeasured = sum(choice.reason == NOT_MEASURED for choice in choices.values())
    parts = [*table(rows), "", *table(sorted(ways.items()))]
    if any(choice.measured for choice in choices.values()):
        parts.append(
            "times are of an op with what it is fused with (what a requantize alone reads, the "
            "requantize and\nlookup that alone read a result), at 1 for named dimensions"
        )
    if unmeasured:
        parts.append(f"{unmeasured} not measured on this machine: compile(graph, measure=True)")
    return "\n".join([*parts, *(f"warning: {warning}" for warning in warnings)])
