"""Progress bars of what compiling may wait for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

DELAY = 1.0
"""Seconds after which a bar appears."""


def watched(items: Iterable[T], label: str) -> Iterable[T]:
    """Returns items in order, and shows on a terminal how many are done, where it takes a while.

    Args:
        items: The items.
        label: What is done with them.
    """
    return tqdm(items, label, disable=None, delay=DELAY, leave=False)


def watched_stream(items: Iterable[T], label: str) -> Iterable[T]:
    """Returns items of which the number is not known in order, and shows how many are done.

    Args:
        items: The items.
        label: What is done with them.
    """
    return tqdm(items, label, disable=None, delay=DELAY, leave=False)
