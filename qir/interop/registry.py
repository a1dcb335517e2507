"""Where what QIR brings along and what users add to it are found, by name and by suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from qir.errors import QirError, did_you_mean, kind_of

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name; one that is known by its place is imported when first asked for.

    Args:
        expected: What errors say before the names: `the backend`, `the format`.
        places: The entries that QIR brings along: `module:attribute` for each name.
        suffixes: The names of those that are found by the suffix of a path too, as `.qir`.
        wanted: Says of a name and an entry what is expected instead; None where it is right.
    """

    def __init__(
        self,
        expected: str,
        places: Mapping[str, str],
        suffixes: Mapping[str, str] | None = None,
        wanted: Callable[[str, object], str | None] = lambda name, entry: None,
    ) -> None:
        self._expected = expected
        self._wanted = wanted
        self._entries: dict[str, Any] = dict(places)
        self._suffixes = dict(suffixes or {})

    def add(self, name: str, entry: T, suffix: str | None = None) -> None:
        """Adds an entry.

        Args:
            name: What options call it. Where it begins with a dot, it is the suffix as well.
            entry: The entry.
            suffix: The suffix of paths by which it is found too, with its dot.

        Raises:
            QirError: The name or the suffix is taken or none, or the entry is of another kind.
        """
        if not _is_text(name) or not name:
            raise QirError(f"registry: expected a name, got {_shown(name)}")
        if name.startswith("."):
            name, suffix = name.removeprefix("."), suffix or name
        if suffix is not None and (
            not _is_text(suffix) or len(suffix) < 2 or Path(f"x{suffix}").suffix != suffix
        ):
            raise QirError(f"registry: expected a suffix such as .json, got {_shown(suffix)}")
        for taken, new in ((self._entries, name), (self._suffixes, suffix)):
            if new in taken:
                raise QirError(f"registry: expected a new name, got '{new}', which is registered")
        if (expected := self._wanted(name, entry)) is not None:
            raise QirError(f"registry: {name}: expected {expected}, got {kind_of(entry)}")
        self._entries[name] = entry
        if suffix is not None:
            self._suffixes[suffix] = name

    def remove(self, name: str) -> None:
        """Forgets an entry and its suffixes; raises QirError where there is none."""
        name = name.removeprefix(".")
        if name not in self._entries:
            raise QirError(f"registry: no '{name}'{did_you_mean(name, self)}")
        del self._entries[name]
        self._suffixes = {end: own for end, own in self._suffixes.items() if own != name}

    def find(self, name: str, subject: str) -> T:
        """Returns the entry of a name.

        Args:
            name: The name.
            subject: What the error begins with.

        Raises:
            QirError: There is none; all names are listed, and the nearest one.
        """
        if not _is_text(name) or name not in self._entries:
            nearest = did_you_mean(name, self) if _is_text(name) else "; names are texts"
            raise QirError(
                f"{subject}: expected {self._expected} {' or '.join(self)}, got {_shown(name)}"
                f"{nearest}"
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            self._entries[name] = entry = getattr(import_module(module), attribute)
        return cast(T, entry)

    def name_for(self, path: Path, subject: str) -> str:
        """Returns the name of the entry that the suffix of a path belongs to.

        Raises:
            QirError: There is none; all suffixes are listed, and the nearest one.
        """
        if path.suffix not in self._suffixes:
            raise QirError(
                f"{subject}: expected a path ending in {' or '.join(self._suffixes)}, got {path}"
                f"{did_you_mean(path.suffix, self._suffixes)}"
            )
        return self._suffixes[path.suffix]

    def find_for(self, path: Path, subject: str) -> T:
        """Returns the entry that the suffix of a path belongs to; raises as `name_for`."""
        return self.find(self.name_for(path, subject), subject)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of paths by which entries are found."""
        return tuple(self._suffixes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def _is_text(given: object) -> bool:
    return isinstance(given, str)


def _shown(name: object) -> str:
    return f"'{name}'" if isinstance(name, str) else kind_of(name)
