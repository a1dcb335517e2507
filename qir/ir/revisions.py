"""How a graph knows of every edit: what nodes and values hold is stored through here."""

from __future__ import annotations

from itertools import count
from typing import Any

store = object.__setattr__
"""Stores an attribute without a word, for what is not in a graph yet."""

CLOCK = count(1)
"""Gives each edit of any graph a number greater than all before."""


def is_news(old: Any, new: Any) -> bool:
    """Whether what an attribute is set to differs from what it holds.

    Ops and types that are equal and not the same count as news: to compare arrays takes longer than
    most that is saved by it.

    Args:
        old: What it holds.
        new: What it is set to.
    """
    return old is not new and not (isinstance(new, str | bool | int) and old == new)
