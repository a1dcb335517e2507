"""The items of a pipeline's text: what it says before names are looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def point(text: str, column: int) -> list[str]:
    """Returns the places of an error: the text, and a caret under a column counted from 1."""
    return [text, " " * (column - 1) + "^"]


@dataclass(frozen=True)
class Item:
    """What stands between two commas, before names are looked up.

    Attributes:
        name: The name of a pass, a pipeline, `repeat` or `allow`.
        column: Where it stands in the text, counted from 1.
        options: What is written `option=value` in its parentheses.
        items: What else is written there.
        called: Whether there is any of both.
    """

    name: str
    column: int
    options: tuple[tuple[str, Any], ...]
    items: tuple[Item, ...]
    called: bool
