"""What of a model can't be imported: gathered while the rest is read, told in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from qir.errors import QirError, UnsupportedError, counted

_SHOWN = 5

REFUSED: Final = object()
"""Stands for the result of what was refused, so that the rest of the model is read too."""


class Incomplete(Exception):
    """Something can't be built because a part of it was refused, which is told already."""


class Refusals:
    """Gathers what has no rule and what rules refuse, with its places.

    Args:
        subject: The function that imports, which begins the error.
        kind: What the source calls its operations, in the plural: "primitives", "nodes".
    """

    def __init__(self, subject: str, kind: str) -> None:
        self.subject = subject
        self.kind = kind
        self.missing: dict[str, list[str]] = {}
        self.refused: list[QirError] = []

    def without_rule(self, name: str, place: str | None) -> None:
        """Notes an operation that there is no rule for.

        Args:
            name: What the source calls it.
            place: Where in the source it stands, or None where that is not known.
        """
        self.missing.setdefault(name, []).append(place or "an unknown place")

    def attempt(
        self, place: str, count: int, compute: Callable[[], Sequence[Any]]
    ) -> Sequence[Any]:
        """Returns what a function gives, or as many `REFUSED` as it has results where it raises.

        Args:
            place: Where in the source it stands.
            count: The number of results.
            compute: The function; the `QirError` that it raises is kept.
        """
        try:
            return compute()
        except Incomplete:
            return [REFUSED] * count
        except QirError as error:
            self.refused.append(error.at(f"at {place}"))
            return [REFUSED] * count

    def check(self, advice: Callable[[Sequence[str]], Iterable[str]] = lambda names: ()) -> None:
        """Raises one error for everything that was noted; does nothing where that is nothing.

        Args:
            advice: Gives lines that say what to do, from the sorted names of the operations that
                have no rule.

        Raises:
            UnsupportedError: There are operations without a rule.
            QirError: Rules have refused their operands: the first error, the others below it.
        """
        told = [line for error in self.refused for line in (error.message, *error.places)]
        if self.missing:
            names = sorted(self.missing)
            raise UnsupportedError(
                f"{self.subject}: expected {self.kind} that QIR has a rule for, "
                f"got {', '.join(names)}",
                [*map(self._line, self.missing), *told, *advice(names)],
            )
        if self.refused:
            first = self.refused[0]
            raise type(first)(first.message, told[1:]) from first

    def _line(self, name: str) -> str:
        places = list(dict.fromkeys(self.missing[name]))
        left = len(places) - _SHOWN
        more = f" and {counted(left, 'more place')}" if left > 0 else ""
        return f"{name} at {', '.join(places[:_SHOWN])}{more}"
