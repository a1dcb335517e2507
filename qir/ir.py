"""The graph: values, nodes and the four edits on which every pass is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qir.attributes import Symbol
from qir.errors import QirError, did_you_mean
from qir.interval import Interval
from qir.names import check_symbol, check_value
from qir.op import Op, infer
from qir.ops.core import Const, Return
from qir.types import Array, Element, FrozenArray, TensorType, tensor

if TYPE_CHECKING:
    import networkx as nx


class Value:
    """A tensor that an op computes or a graph takes; equal to itself only.

    Attributes:
        type: Shape and element.
        name: Unique in its graph, without the %.
        node: The node that computes it, or None for an input of the graph.
        index: Position among the node's outputs or the graph's inputs.
        uses: The (node, operand position) pairs that read it, in order of creation.
    """

    __slots__ = ("_origins", "_range", "graph", "index", "name", "named", "node", "type", "uses")
    __match_args__ = ("op", "inputs")

    def __init__(
        self, type: TensorType, node: Node | None, index: int, graph: Graph | None = None
    ) -> None:
        self.type = type
        self.node = node
        self.index = index
        self.graph = graph
        self.name = ""
        self.named = False
        self._range: Interval | None = None
        self._origins: dict[str, None] = {}
        self.uses: dict[tuple[Node, int], None] = {}

    @property
    def range(self) -> Interval | None:
        """What calibration observed, in real units, as two float32 numbers, or None.

        Proofs never use it.
        """
        return self._range

    @range.setter
    def range(self, observed: Interval | None) -> None:
        self._range = observed and Interval.of(*(np.float32(bound) for bound in observed.bounds))

    @property
    def origin(self) -> tuple[str, ...]:
        """Names of the imported values that this one stands for; statistics are keyed by them."""
        return tuple(self._origins)

    @origin.setter
    def origin(self, names: Iterable[str]) -> None:
        self._origins = dict.fromkeys(names)

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
        return self.node.graph.constants[self.node.op.symbol]

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

        A value that was just built takes over the name, the range and the origin of the one it
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
            values = self.owner._values
            self.name, new.name = new.name, self.name
            values[self.name], values[new.name] = self, new
            new.named, self.named = True, False
        if new.range is None and new.type.element == self.type.element:
            new.range = self.range
        new._origins |= self._origins

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


class Node:
    """One application of an op.

    Attributes:
        op: The op with its attributes; assign another one to change them.
        inputs: The operands; change them with `set_input`.
        outputs: The results.
        regions: Graphs that the op runs (loop bodies, branches), isolated from the values around
            the node.
        loc: Where in the user's model the node comes from, such as `model.py:41 (conv1)`.
        note: Why a pass left the node in floating point, or None; `qir.explain` reports it.
        graph: The graph that holds the node.
    """

    __slots__ = (
        "_next",
        "_previous",
        "erased",
        "graph",
        "inputs",
        "loc",
        "note",
        "op",
        "outputs",
        "regions",
    )

    def __init__(
        self,
        graph: Graph,
        op: Op,
        inputs: Sequence[Value],
        types: Sequence[TensorType],
        regions: Sequence[Graph] = (),
        loc: str | None = None,
    ) -> None:
        self.graph = graph
        self.op = op
        self.loc = loc
        self.regions = tuple(regions)
        self.inputs: tuple[Value, ...] = tuple(inputs)
        self.outputs = tuple(Value(type, self, index) for index, type in enumerate(types))
        self.note: str | None = None
        self.erased = False
        self._next: Node | None = None
        self._previous: Node | None = None
        for index, value in enumerate(self.inputs):
            value.uses[self, index] = None

    @property
    def output(self) -> Value:
        """The only result; raises QirError where there is not exactly one."""
        if len(self.outputs) != 1:
            raise QirError(f"{self.op.name}: expected one result, got {len(self.outputs)}")
        return self.outputs[0]

    def set_input(self, index: int, value: Value) -> None:
        """Makes an operand read another value, keeping the use lists true."""
        del self.inputs[index].uses[self, index]
        self.inputs = (*self.inputs[:index], value, *self.inputs[index + 1 :])
        value.uses[self, index] = None

    def place(self) -> str:
        """A line for error messages: the first result's name, and the location where known."""
        if self.outputs:
            return self.outputs[0].place()
        return f"at {self.op.name}" + (f", {self.loc}" if self.loc else "")

    def __repr__(self) -> str:
        results = ", ".join(f"%{value.name}" for value in self.outputs)
        return f"<{self.op.name} of {results or self.graph.name}>"


class Graph:
    """A program: inputs, a chain of nodes that ends with a return, and the arrays of its constants.

    Args:
        name: The graph's name, without the @; empty for a region.
        inputs: Name and type of each input.

    Raises:
        QirError: A name is none that the text could hold; see `qir.names`.

    Attributes:
        inputs: The values that the graph takes.
        constants: The arrays that const nodes refer to, by name. Treat them as read-only.
    """

    def __init__(self, name: str, inputs: Iterable[tuple[str, TensorType]] = ()) -> None:
        self.name = check_symbol(name, "graph") if name != "" else name
        self.constants: dict[str, Array] = {}
        self._values: dict[str, Value] = {}
        self._counters: dict[str, int] = {}
        self._symbol_counters: dict[str, int] = {}
        self._first: Node | None = None
        self._last: Node | None = None
        self.inputs: tuple[Value, ...] = ()
        for name_, type_ in inputs:
            self.add_input(name_, type_)

    def add_input(self, name: str, type: TensorType) -> Value:
        """Appends an input and returns it; raises QirError for what can't be a name."""
        check_value(name)
        value = Value(type, None, len(self.inputs), self)
        self.inputs = (*self.inputs, value)
        self._register(value, name)
        return value

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes in order.

        Stable under edits: a node erased meanwhile is skipped, one inserted ahead is met.
        """
        node = self._first
        while node is not None:
            if not node.erased:
                yield node
            node = node._next

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values that the return node reads; empty while there is none."""
        return (
            self._last.inputs
            if self._last is not None and isinstance(self._last.op, Return)
            else ()
        )

    @property
    def returns(self) -> Node:
        """The return node; raises QirError while there is none."""
        if self._last is None or not isinstance(self._last.op, Return):
            raise QirError(f"graph: @{self.name} has no return")
        return self._last

    def walk(self) -> Iterator[Node]:
        """Yields the nodes of this graph and, after each, those of its regions."""
        for node in self.nodes:
            yield node
            for region in node.regions:
                yield from region.walk()

    def values(self) -> Iterator[Value]:
        """Yields the inputs, then the results of every node in order."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs

    def value(self, name: str) -> Value:
        """Returns the value of a name, which may begin with a %.

        Raises:
            QirError: There is no such value; the message gives the nearest name.
        """
        bare = name.lstrip("%")
        found = self._values.get(bare)
        if found is None:
            hint = did_you_mean(bare, self._values)
            raise QirError(f"graph: @{self.name} has no value %{bare}{hint}")
        return found

    def insert(
        self, node: Node, before: Node | None = None, name: str | Sequence[str] | None = None
    ) -> Node:
        """Puts a node into the chain.

        Args:
            node: A node built for this graph.
            before: The node to stand before; None appends.
            name: Name of the results, or one for each; made unique by a number. None derives it
                from the op.

        Raises:
            QirError: A name is none that the text could hold.
        """
        base = name or node.op.name
        names = (base,) * len(node.outputs) if isinstance(base, str) else base
        for own in names:
            check_value(own)
        previous = before._previous if before is not None else self._last
        node._previous, node._next = previous, before
        if previous is None:
            self._first = node
        else:
            previous._next = node
        if before is None:
            self._last = node
        else:
            before._previous = node
        for value, own in zip(node.outputs, names, strict=True):
            self._register(value, own, named=name is not None)
        return node

    def erase(self, node: Node) -> None:
        """Takes a node out; raises QirError while a result is used. The regions go with it."""
        used = next((value for value in node.outputs if value.uses), None)
        if used is not None:
            raise QirError(f"erase: %{used.name} is still used by {used.users[0]!r}")
        for index, value in enumerate(node.inputs):
            del value.uses[node, index]
        for value in node.outputs:
            del self._values[value.name]
        if node._previous is None:
            self._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            self._last = node._previous
        else:
            node._next._previous = node._previous
        # _next stays, so that a loop which stands on this node finds its way on.
        node.erased = True

    def rename(self, value: Value, name: str) -> None:
        """Gives a value a name of the user's choice.

        Raises:
            QirError: Another value has the name, or it can't be a name.
        """
        if self._values.get(name, value) is not value:
            raise QirError(f"graph: @{self.name} has a value %{name} already")
        self._rename(value, name)
        value.named = True

    def rename_freely(self, value: Value, name: str) -> None:
        """Gives a value a name, made unique by a number where another value has it.

        Raises:
            QirError: It can't be a name.
        """
        if value.name != name:
            self._rename(value, name)
        value.named = True

    def set_outputs(self, values: Sequence[Value]) -> None:
        """Ends the graph: builds the return node, or replaces the one there is."""
        if self._last is not None and isinstance(self._last.op, Return):
            self.erase(self._last)
        self.insert(Node(self, Return(), values, ()))

    def add_constant(self, name: str, array: Array) -> Symbol:
        """Stores an array under a name made unique, and returns that name.

        Raises:
            QirError: It can't be a name.
        """
        check_symbol(name, "constant")
        frozen = np.ascontiguousarray(array).reshape(array.shape).view()
        frozen.flags.writeable = False
        base, count = name, self._symbol_counters.get(name, 0)
        while name in self.constants:
            count += 1
            name = f"{base}_{count}"
        self._symbol_counters[base] = count
        self.constants[name] = frozen
        return Symbol(name)

    def drop_unused_constants(self) -> None:
        """Forgets the arrays that no const node of this graph refers to."""
        used = {node.op.symbol for node in self.nodes if isinstance(node.op, Const)}
        self.constants = {name: array for name, array in self.constants.items() if name in used}

    def record_origins(self) -> None:
        """Marks every value as standing for itself, as frontends do when the import is complete."""
        for value in self.values():
            value.origin = (value.name,)
            value.named = True

    def before(self, node: Node) -> Builder:
        """Returns a builder that inserts before a node and copies its location."""
        return Builder(self, node)

    def at_end(self) -> Builder:
        """Returns a builder that appends, or inserts before the return node where there is one."""
        last = self._last
        return Builder(self, last if last is not None and isinstance(last.op, Return) else None)

    def copy(self) -> Graph:
        """Returns a graph that shares arrays and types with this one, but no value or node."""
        return self.extract(self.inputs, self.outputs, self.name, whole=True)

    def extract(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        name: str = "",
        *,
        whole: bool = False,
    ) -> Graph:
        """Copies the part of the graph that computes some values from others.

        Args:
            inputs: Values that become inputs; graph inputs that are needed beside them become
                inputs too.
            outputs: Values that the copy returns.
            name: The copy's name; this graph's when empty.
            whole: Copy every node, needed or not.

        Returns:
            A graph of its own; values keep name, range, origin and location.
        """
        wanted: set[Node] = set(self.nodes) if whole else self._needed(inputs, outputs)
        copy = Graph(name or self.name)
        mapping: dict[Value, Value] = {}
        extra = [
            value
            for value in self.inputs
            if value not in inputs
            and (value in outputs or any(node in wanted for node in value.users))
        ]
        for value in (*inputs, *extra):
            if value not in mapping:
                mapping[value] = _copy_facts(value, copy.add_input(value.name, value.type))
        for node in self.nodes:
            if node not in wanted or isinstance(node.op, Return):
                continue
            if isinstance(node.op, Const):
                copy.constants[node.op.symbol] = self.constants[node.op.symbol]
            regions = [region.copy() for region in node.regions]
            types = [value.type for value in node.outputs]
            clone = Node(
                copy, node.op, [mapping[value] for value in node.inputs], types, regions, node.loc
            )
            clone.note = node.note
            copy.insert(clone, name=[value.name for value in node.outputs])
            for value, twin in zip(node.outputs, clone.outputs, strict=True):
                mapping[value] = _copy_facts(value, twin)
        copy.set_outputs([mapping[value] for value in outputs])
        return copy

    def _needed(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> set[Node]:
        stop, needed, stack = set(inputs), set[Node](), list(outputs)
        while stack:
            value = stack.pop()
            if value not in stop and value.node is not None and value.node not in needed:
                needed.add(value.node)
                stack.extend(value.node.inputs)
        return needed

    def to_networkx(self) -> nx.DiGraph[Node]:
        """Returns the nodes with edges from producers to users, for whole-graph questions."""
        import networkx as nx  # Most programs never need it, and it takes 0.15 s to load.

        directed: nx.DiGraph[Node] = nx.DiGraph()
        for node in self.nodes:
            directed.add_node(node)
            directed.add_edges_from((value.node, node) for value in node.inputs if value.node)
        return directed

    def _register(self, value: Value, name: str, named: bool = True) -> None:
        value.name = self._fresh(name)
        value.named = named
        self._values[value.name] = value

    def _rename(self, value: Value, name: str) -> None:
        check_value(name)
        del self._values[value.name]
        value.name = self._fresh(name)
        self._values[value.name] = value

    def _fresh(self, name: str) -> str:
        if name not in self._values:
            return name
        count = self._counters.get(name, 0)
        while True:
            count += 1
            if (fresh := f"{name}_{count}") not in self._values:
                self._counters[name] = count
                return fresh

    def __eq__(self, other: object) -> bool:
        """Structural equality: same names, types, ranges, ops, wiring and constant contents.

        Locations, origins and notes don't count, nor do the names of regions and constants.
        """
        if not isinstance(other, Graph):
            return NotImplemented
        return _description(self, self.name) == _description(other, other.name)

    __hash__ = object.__hash__

    printer: ClassVar[Callable[[Graph], str]] = object.__repr__
    """How a graph is shown; qir.text, which stands above this module, puts its printer here."""

    def __str__(self) -> str:
        return Graph.printer(self)


def _copy_facts(source: Value, target: Value) -> Value:
    target.range, target.origin, target.named = source.range, source.origin, source.named
    return target


def _description(graph: Graph, name: str = "") -> list[Any]:
    def constant(node: Node) -> Any:
        return (
            FrozenArray(graph.constants[node.op.symbol]) if isinstance(node.op, Const) else node.op
        )

    lines: list[Any] = [name, [(value.name, value.type, value.range) for value in graph.inputs]]
    for node in graph.nodes:
        lines.append(
            (
                constant(node),
                [value.name for value in node.inputs],
                [(value.name, value.type, value.range) for value in node.outputs],
                [_description(region) for region in node.regions],
            )
        )
    return lines


class Builder:
    """Emits nodes at one place of a graph: infers their types and copies a location.

    Args:
        graph: The graph to build in.
        anchor: The node to insert before, or None to append.
        loc: Location of what is emitted; the anchor's when None.

    Attributes:
        emitted: The nodes inserted so far.
    """

    def __init__(self, graph: Graph, anchor: Node | None = None, loc: str | None = None) -> None:
        self.graph = graph
        self.anchor = anchor
        self.loc = loc if loc is not None or anchor is None else anchor.loc
        self.emitted: list[Node] = []

    def emit(self, op: Op, *inputs: Value, name: str | None = None) -> Value:
        """Inserts a node with one result and returns the result.

        Raises:
            QirError: The operands don't fit the op.
        """
        return self.emit_node(op, inputs, name=name).output

    def emit_node(
        self,
        op: Op,
        inputs: Sequence[Value],
        regions: Sequence[Graph] = (),
        name: str | None = None,
    ) -> Node:
        """Inserts a node with any number of results and regions, and returns it."""
        types = node_types(op, [value.type for value in inputs], regions)
        node = self.graph.insert(
            Node(self.graph, op, inputs, types, regions, self.loc), self.anchor, name
        )
        self.emitted.append(node)
        return node

    def const(
        self, array: ArrayLike, name: str | None = None, element: Element | None = None
    ) -> Value:
        """Inserts a constant.

        Args:
            array: The stored numbers.
            name: Name of the array and of the value.
            element: The element of the type: a code, or a plain type whose carrier is wider than it
                (such as i4); None takes the array's own type.

        Raises:
            QirError: The array's type is not the element's carrier.
        """
        data = np.asarray(array)
        type_ = tensor(data) if element is None else TensorType(tuple(data.shape), element)
        symbol = self.graph.add_constant(name or "const", data)
        return self.emit(Const(symbol, type_), name=name)


def node_types(
    op: Op, operands: Sequence[TensorType], regions: Sequence[Graph]
) -> tuple[TensorType, ...]:
    """Infers the result types of a node, of an op with regions from what the regions return.

    Raises:
        QirError: The operands or regions don't fit the op.
    """
    if len(regions) != op.region_count:
        raise op.error(f"expected {op.region_count} regions, got {len(regions)}")
    if not regions:
        return infer(op, operands)
    signatures = [
        (
            tuple(value.type for value in region.inputs),
            tuple(value.type for value in region.outputs),
        )
        for region in regions
    ]
    return op.region_result(operands, signatures)
