"""Constants that passes compute from others, and the names that they take over."""

from __future__ import annotations

import re

import numpy as np

from qir.ir import Builder, Graph, Value
from qir.ops import Const
from qir.ops.attributes import Symbol
from qir.types import Array, DType

_NUMBERED = re.compile(r"(.+)_\d+")


def rounded(real: Array, dtype: DType) -> Array | None:
    """Rounds float64 numbers once to a floating-point type; None where one is not finite there."""
    with np.errstate(all="ignore"):
        return _if_finite(real.astype(dtype.numpy))


def rounded_product(array: Array, factors: Array, dtype: DType) -> Array | None:
    """Rounds products once, as `rounded` does; takes half the time, for want of float64 arrays."""
    result = np.empty(np.broadcast_shapes(array.shape, factors.shape), dtype.numpy)
    with np.errstate(all="ignore"):
        np.multiply(array, factors, out=result, dtype=np.float64, casting="unsafe")
    return _if_finite(result)


def _if_finite(array: Array) -> Array | None:
    return array if np.all(np.isfinite(array)) else None


def derived(builder: Builder, array: Array, old: Value) -> Value:
    """Inserts a constant that replaces another for some of its readers, asking for its name."""
    return builder.const(array, old.name, old.type.element)


class Names:
    """The names in a graph before a pass, so that what the pass builds can take them over.

    The graph makes names unique by a number. When the pass is done and the old kernel is gone,
    `settle` makes `conv1.kernel_1` the new `conv1.kernel`.

    Args:
        graph: The graph before the pass.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._values = {value.name for value in graph.values()}
        self._arrays = set(graph.constants)

    def settle(self) -> None:
        """Gives new values the names that became free, and new arrays those of their values."""
        graph = self._graph
        graph.drop_unused_constants()
        taken = {value.name for value in graph.values()}
        for value in graph.values():
            if value.name not in self._values and (name := self._free_name(value, taken)):
                taken.add(name)
                named = value.named
                graph.rename(value, name)
                value.named = named
            self._name_array(value)
        graph.drop_unused_constants()

    def _free_name(self, value: Value, taken: set[str]) -> str | None:
        """Returns the name without its numbers, as far as an old value had it; None if not free."""
        names = [value.name]
        while numbered := _NUMBERED.fullmatch(names[-1]):
            names.append(numbered[1])
        free = [name for name in names[1:] if name not in taken]
        if old := next((name for name in free if name in self._values), None):
            return old
        return free[-1] if free and value.named else None

    def _name_array(self, value: Value) -> None:
        node, constants = value.node, self._graph.constants
        if node is None or not isinstance(node.op, Const) or node.op.symbol in self._arrays:
            return
        if value.name not in constants:
            constants[value.name] = constants[node.op.symbol]
            node.op = Const(Symbol(value.name), node.op.type)
