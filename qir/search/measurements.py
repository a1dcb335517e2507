"""What a search has measured: each thing once, within a time, and kept in a file between runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from qir.errors import QirError
from qir.text.files import write_atomically

EVERY = 2.0
"""Seconds between one writing of the file and the next."""

VERSION = 1
"""The form of the file."""


class OutOfTime(Exception):
    """The search has taken the seconds that it was given."""


class SearchedFigures:
    """Figures by what they are of.

    Args:
        identity: A digest of all that the figures depend on.
        path: The file, which is read where it is there; None keeps none.
        seconds: How long the search may take, None for as long as it takes.
        started: When it started, as `time.monotonic` tells.

    Raises:
        QirError: The file is no such file, or one of another search.
    """

    def __init__(
        self, identity: str, path: Path | None, seconds: float | None, started: float
    ) -> None:
        self._identity = identity
        self._path = path
        self._end = None if seconds is None else started + seconds
        self._figures: dict[str, list[float]] = {}
        self._written = time.monotonic()
        if path is not None and path.exists():
            self._figures = self._read(path)

    def _read(self, path: Path) -> dict[str, list[float]]:
        remedy = "take the file away to begin anew, or choose another path"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise QirError(f"checkpoint: can't read {path}: {error}; {remedy}") from error
        if not isinstance(found, dict) or found.get("search") != VERSION:
            raise QirError(f"checkpoint: expected {path} to be that of a search; {remedy}")
        if found.get("of") != self._identity:
            raise QirError(
                f"checkpoint: {path} is of a search with another program, data, pipeline or "
                f"options; {remedy}"
            )
        figures = found.get("figures")
        if not isinstance(figures, dict) or not all(map(_are_numbers, figures.values())):
            raise QirError(f"checkpoint: expected numbers of a search in {path}; {remedy}")
        return {name: list(map(float, numbers)) for name, numbers in figures.items()}

    def known(self, kind: str, chosen: Iterable[int]) -> bool:
        """Whether something has been measured."""
        return _name(kind, chosen) in self._figures

    def get(
        self, kind: str, chosen: Iterable[int], measure: Callable[[], Sequence[float]]
    ) -> Sequence[float]:
        """Returns what was measured of some choices, or measures it.

        Args:
            kind: What is measured.
            chosen: The places of the units.
            measure: Measures it.

        Raises:
            OutOfTime: It is not known, and there is no time left.
        """
        name = _name(kind, chosen)
        if name not in self._figures:
            if self._end is not None and time.monotonic() >= self._end:
                self.save()
                raise OutOfTime
            self._figures[name] = list(map(float, measure()))
            if time.monotonic() - self._written >= EVERY:
                self.save()
        return self._figures[name]

    def save(self) -> None:
        """Writes the file, if there is to be one.

        Raises:
            QirError: It can't be written.
        """
        self._written = time.monotonic()
        if self._path is None:
            return
        content = {"search": VERSION, "of": self._identity, "figures": self._figures}
        text = json.dumps(content, indent=1).encode()
        write_atomically({self._path: lambda file: file.write(text)})


def _are_numbers(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(each, int | float) for each in found)


def _name(kind: str, chosen: Iterable[int]) -> str:
    return " ".join([kind, *map(str, sorted(chosen))])
