"""Names: no two alike in one place, and which of them a pass may give to what it builds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from qir.ir.graph import Graph
    from qir.ir.value import Value

T = TypeVar("T")

_NUMBERED = re.compile(r"(.+)_\d+")


class Namespace(dict[str, T]):
    """Things by names of which no two are equal: a name that is taken gets a number.

    A number is not given twice, also where what had it is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, int] = {}

    def add(self, name: str, thing: T) -> str:
        """Enters a thing under a name made unique, and returns that name."""
        unique, count = name, self._counts.get(name, 0)
        while unique in self:
            count += 1
            unique = f"{name}_{count}"
        if count:
            self._counts[name] = count
        self[unique] = thing
        return unique

    def forget_numbers(self) -> None:
        """Lets numbers be given again that nothing has any more."""
        self._counts.clear()


class Inheritance:
    """The names in a graph before a pass, so that what the pass builds can take them over.

    The graph makes names unique by a number. When the pass is done and the old kernel is gone,
    `settle` makes `conv1.kernel_1` the new `conv1.kernel`.

    Args:
        graph: The graph before the pass.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._before = {value.name for value in graph.values()}

    def settle(self, among: Iterable[Value] | None = None) -> None:
        """Gives new values the names that became free: all of them, or some."""
        graph = self._graph
        taken = {value.name for value in graph.values()}
        for value in graph.values() if among is None else among:
            if value.name not in self._before and (name := self._free_name(value, taken)):
                taken.add(name)
                graph.rename_all({value: name})

    def _free_name(self, value: Value, taken: set[str]) -> str | None:
        """Returns the name without its numbers, as far as an old value had it; None if not free."""
        names = [value.name]
        while numbered := _NUMBERED.fullmatch(names[-1]):
            names.append(numbered[1])
        free = [name for name in names[1:] if name not in taken]
        if old := next((name for name in free if name in self._before), None):
            return old
        return free[-1] if free and value.named else None
