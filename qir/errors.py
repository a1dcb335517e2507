"""Errors that a user can act on: what was expected, what was found, where, and the nearest name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class QirError(Exception):
    """Base of every error that QIR raises on purpose.

    The message is lower case and reads `subject: expected X, got Y`. Places are added from the
    inside out while the error travels: the location in the user's model, the pass that was running,
    the line of text.

    Args:
        message: The sentence, without a full stop.
        places: Further lines, each printed below the message and indented.
    """

    def __init__(self, message: str, places: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.places: list[str] = list(places)

    def at(self, place: str) -> QirError:
        """Adds a line that tells where the error arose, and returns the error itself."""
        if place not in self.places:
            self.places.append(place)
        return self

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {place}" for place in self.places)])


class ParseError(QirError):
    """A text that is not a QIR program, pipeline or attribute."""


class VerifyError(QirError):
    """A graph that breaks a rule of the IR."""


class PassError(QirError):
    """A pass that could not do its work, or a pipeline whose passes do not fit together."""


class UnsupportedError(QirError):
    """A model that uses something QIR has no rule for."""


class EndlessError(QirError):
    """A loop that has not come to an end within its `max_trips`."""


class QirAccuracyWarning(UserWarning):
    """An integer program that is far from the float program; says where, why and what to do."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the nearest candidate, or nothing when none is near."""
    spelled = list(candidates)
    by_letters = {candidate.lower(): candidate for candidate in reversed(spelled)}
    matches = get_close_matches(name, spelled, n=1, cutoff=0.5) or [
        by_letters[match]
        for match in get_close_matches(name.lower(), list(by_letters), n=1, cutoff=0.5)
    ]
    return f"; did you mean '{matches[0]}'?" if matches else ""


def what_failed(error: Exception) -> str:
    """Says in one line what an error is: the first one of QIR's own, type and text of another."""
    if isinstance(error, QirError):
        return error.message.splitlines()[0]
    return f"{type(error).__name__}: {error}"


def counted(count: object, noun: str) -> str:
    """Returns a number and its noun, in the plural but for one: `1 input`, `2 entries`.

    Args:
        count: The number, or the name of one that is not known yet.
        noun: The noun for one.

    >>> counted(1, "input"), counted(0, "step"), counted(2, "entry"), counted("B", "batch")
    ('1 input', '0 steps', '2 entries', 'B batches')
    """
    if str(count) == "1":
        return f"1 {noun}"
    for ending, plural in (("try", "tries"), ("axis", "axes"), ("batch", "batches")):
        if noun.endswith(ending):
            return f"{count} {noun.removesuffix(ending)}{plural}"
    return f"{count} {noun}s"


def kind_of(given: object) -> str:
    """Returns what a user handed in, by its type: `None`, `a list`, `an int`.

    >>> kind_of(None), kind_of([]), kind_of(3)
    ('None', 'a list', 'an int')
    """
    if given is None:
        return "None"
    name = type(given).__name__.removeprefix("nd")
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
