"""How a place in the source of a model is spelt: file, line and the scopes that are open there."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SCOPE = re.compile(r"\((?P<scope>[^()]*)\)$")


def location(line: str | None, scope: Iterable[str]) -> str | None:
    """Spells a location, `file:line (name/stack)`, of what there is of it."""
    stack = "/".join(scope)
    return " ".join(filter(None, [line, stack and f"({stack})"])) or None


def scope_in(loc: str | None) -> tuple[str, ...]:
    """Returns the name stack that a location ends with."""
    found = _SCOPE.search(loc or "")
    return tuple(found["scope"].split("/")) if found else ()
