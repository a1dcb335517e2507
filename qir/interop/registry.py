"""Where what QIR brings along and what users add to it are found by one name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from qir.errors import QirError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name; one that is known by its place is imported when first asked for.

    Args:
        expected: What errors say before the names: `the backend`, `a path ending in`.
        places: The entries that QIR brings along: `module:attribute` for each name.
    """

    def __init__(self, expected: str, places: dict[str, str]) -> None:
        self._expected = expected
        self._entries: dict[str, Any] = dict(places)

    def add(self, name: str, entry: T) -> None:
        """Adds an entry.

        Raises:
            QirError: The name is taken.
        """
        if name in self._entries:
            raise QirError(f"registry: expected a new name, got '{name}', which is registered")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Forgets an entry; raises QirError where there is none."""
        if name not in self._entries:
            raise QirError(f"registry: no '{name}'{did_you_mean(name, self)}")
        del self._entries[name]

    def find(self, name: str, subject: str, given: object = None) -> T:
        """Returns the entry of a name.

        Args:
            name: The name.
            subject: What the error begins with.
            given: What the user gave, where that is more than the name.

        Raises:
            QirError: There is none; all names are listed, and the nearest one.
        """
        if name not in self._entries:
            found = f"'{name}'" if given is None else given
            raise QirError(
                f"{subject}: expected {self._expected} {' or '.join(self)}, got {found}"
                f"{did_you_mean(name, self)}"
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            self._entries[name] = entry = getattr(import_module(module), attribute)
        return cast(T, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
