"""Values: the tensors that ops compute and graphs take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import QirError
from qir.ir.revisions import is_news, store
from qir.numbers.interval import Interval
from qir.ops.core import Const
from qir.ops.op import Op
from qir.types import Array, TensorType

if TYPE_CHECKING:
    from qir.ir.graph import Graph
    from qir.ir.node import Node


COMPARED = frozenset({"observed", "range", "origin", "origins"})
"""Properties whose setters look at what is in them."""


class Value:
    """A tensor that an op computes or a graph takes; equal to itself only.

    Attributes:
        type: Shape and element.
        name: Unique in its graph, without the %.
        node: The node that computes it, or None for an input of the graph.
        index: Position among the node's outputs or the graph's inputs.
        uses: The (node, operand position) pairs that read it, in order of creation.
    """

    type: TensorType
    name: str
    named: bool
    node: Node | None
    index: int
    graph: Graph | None
    uses: dict[tuple[Node, int], None]
    _observed: Interval | None
    _range: Interval | None
    _origins: dict[str, tuple[int, ...] | None]

    __slots__ = (
        "_observed",
        "_origins",
        "_range",
        "graph",
        "index",
        "name",
        "named",
        "node",
        "type",
        "uses",
    )
    __match_args__ = ("op", "inputs")

    def __init__(
        self, type: TensorType, node: Node | None, index: int, graph: Graph | None = None
    ) -> None:
        # No edits yet: the value is not in a graph.
        store(self, "type", type)
        store(self, "node", node)
        store(self, "index", index)
        store(self, "graph", graph)
        store(self, "name", "")
        store(self, "named", False)
        store(self, "_observed", None)
        store(self, "_range", None)
        store(self, "_origins", {})
        store(self, "uses", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in COMPARED and is_news(getattr(self, name), value):
            self.owner.touch()
        store(self, name, value)

    @property
    def observed(self) -> Interval | None:
        """What calibration observed, in real units, as two finite float32 numbers, or None.

        Setting it drops the range that was set before, which an older observation has led to. It
        raises QirError where the numbers are none of these, or the lower one is the greater.
        """
        return self._observed

    @observed.setter
    def observed(self, interval: Interval | None) -> None:
        found = _in_float32(interval)
        if found != self._observed:
            self._observed = found
        self._range = None

    @property
    def range(self) -> Interval | None:
        """What quantize shall use, in real units: what was observed, unless another one is set.

        Proofs never use it. Setting it raises QirError as setting `observed` does; None takes back
        what was set.
        """
        return self._observed if self._range is None else self._range

    @range.setter
    def range(self, interval: Interval | None) -> None:
        wanted = _in_float32(interval)
        own = None if wanted == self._observed else wanted
        if own != self._range:
            self._range = own

    @property
    def origin(self) -> tuple[str, ...]:
        """The imported values that this one stands for, by the names that their source has.

        A name may be any text. Statistics are keyed by them. Setting names says that the axes are
        those of the imported values; `origins` tells and sets the order in which they stand too.
        """
        return tuple(self._origins)

    @origin.setter
    def origin(self, names: Iterable[str]) -> None:
        self.origins = dict.fromkeys(names)

    @property
    def origins(self) -> Mapping[str, tuple[int, ...] | None]:
        """The names of `origin`, each with the order of the axes in terms of the imported value's.

        Axis i is axis `order[i]` of the imported value; None where the axes are that value's own.
        Setting it raises QirError for what is no order of the value's axes.
        """
        return dict(self._origins)

    @origins.setter
    def origins(self, orders: Mapping[str, Sequence[int] | None]) -> None:
        unmoved = list(range(self.type.rank))
        found: dict[str, tuple[int, ...] | None] = {}
        for name, order in orders.items():
            if order is not None and sorted(order) != unmoved:
                raise QirError(
                    f"origin: expected an order of the {self.type.rank} axes of %{self.name} "
                    f"behind '{name}', got {list(order)}"
                )
            found[name] = None if order is None or list(order) == unmoved else tuple(order)
        if found != self._origins or tuple(found) != self.origin:
            self._origins = found

    def stand_for(self, other: Value, order: Sequence[int]) -> None:
        """Adds what another value of the same numbers stands for to what this one does.

        Args:
            other: The other value.
            order: The order of this value's axes: axis i is axis `order[i]` of the other value.
        """
        moved = {
            name: tuple(order) if own is None else tuple(own[axis] for axis in order)
            for name, own in other._origins.items()
        }
        self.origins = {**moved, **self._origins}

    @property
    def op(self) -> Op | None:
        """The op that computes the value, or None for an input of the graph."""
        return self.node.op if self.node else None

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The operands of the op that computes the value."""
        return self.node.inputs if self.node else ()

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read the value, each once, in order."""
        return tuple(dict.fromkeys(node for node, _ in self.uses))

    @property
    def array(self) -> Array:
        """The stored numbers of a constant; raises QirError for any other value."""
        if self.node is None or not isinstance(self.node.op, Const):
            raise QirError(f"value: expected a constant, got %{self.name}")
        return self.node.op.array.array

    @property
    def is_constant(self) -> bool:
        """Whether a const node computes the value."""
        return self.node is not None and isinstance(self.node.op, Const)

    @property
    def real(self) -> Array:
        """The real numbers of a constant: decoded where the type has a code."""
        return self.array if self.type.quant is None else self.type.quant.decode(self.array)

    def replace_with(self, new: Value, where: Callable[[Node], bool] | None = None) -> None:
        """Lets all users (or those for which `where` holds) read another value instead.

        A value that was just built takes over the name, the ranges and the origin of the one it
        replaces, though an input of the graph keeps its name; a value that stood for something
        already adds the origin to its own.

        Args:
            new: The value to read.
            where: Chooses among the users; None chooses all.

        Raises:
            QirError: The values differ in shape or belong to different graphs.
        """
        if new is self:
            return
        if new.owner is not self.owner:
            raise QirError(
                f"replace: expected a value of @{self.owner.name}, got {new!r} of @{new.owner.name}"
            )
        if new.type.shape != self.type.shape:
            raise QirError(f"replace: expected a value of the shape of {self!r}, got {new!r}")
        for node, index in list(self.uses):
            if where is None or where(node):
                node.set_input(index, new)
        if where is not None:
            return
        if self.node is not None and self.named and not new.named:
            values = self.owner._names
            self.name, new.name = new.name, self.name
            values[self.name], values[new.name] = self, new
            new.named, self.named = True, False
        if new.range is None and new.type.element == self.type.element:
            new.take_ranges(self)
        new.origins = new._origins | self._origins

    def take_ranges(self, other: Value) -> None:
        """Takes over what was observed of another value, and the range to use."""
        if other._observed is None is other._range and self._observed is None is self._range:
            return
        self.observed, self.range = other.observed, other.range

    @property
    def owner(self) -> Graph:
        """The graph that the value belongs to."""
        graph = self.graph or (self.node.graph if self.node else None)
        assert graph is not None
        return graph

    @property
    def loc(self) -> str | None:
        """Where in the user's model the value comes from."""
        return self.node.loc if self.node else None

    def place(self) -> str:
        """A line for error messages: the value's name, and its location where it has one."""
        return f"at %{self.name}" + (f", {self.loc}" if self.loc else "")

    def __repr__(self) -> str:
        return f"<%{self.name}: {self.type}>"


def _in_float32(interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    with np.errstate(over="ignore"):
        low, high = (np.float32(bound) for bound in interval.bounds)
    if not -np.inf < low <= high < np.inf:
        raise QirError(
            "range: expected two finite numbers of float32, the lower one first, "
            f"got [{low}, {high}]"
        )
    return Interval.of(low, high)
