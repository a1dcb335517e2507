"""What is reached from some place of a graph, step by step.

networkx answers questions about a whole graph (`Graph.to_networkx`). What lies behind one value is
asked once for each value or rewrite, and by rules of the one who asks: building a graph of networkx
for each would cost more than the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def reachable(starts: Iterable[T], near: Callable[[T], Iterable[T]]) -> dict[T, None]:
    """Returns what is reached from some things, these included, each once.

    Args:
        starts: Where to begin.
        near: What is one step away from a thing; asked once for each.

    Returns:
        The things as keys, in the order in which they are met, depth first.
    """
    found: dict[T, None] = {}
    stack = list(starts)
    while stack:
        here = stack.pop()
        if here not in found:
            found[here] = None
            stack.extend(near(here))
    return found
