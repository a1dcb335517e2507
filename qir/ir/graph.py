"""The graph: a chain of nodes, and the four edits on which every pass is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from qir.errors import QirError, counted, did_you_mean, kind_of
from qir.ir.accuracy import Accuracy
from qir.ir.builder import Builder
from qir.ir.chosen import ChosenOption
from qir.ir.cloner import clone
from qir.ir.description import describe
from qir.ir.names import Namespace
from qir.ir.node import Node
from qir.ir.reachability import reachable
from qir.ir.revisions import CLOCK, store
from qir.ir.value import Value
from qir.ops.core import Const, Return
from qir.types import TensorType
from qir.types.names import check_symbol, check_value

if TYPE_CHECKING:
    import networkx as nx


class Graph:
    """A program: inputs and a chain of nodes that ends with a return.

    Args:
        name: The graph's name, without the @; empty for a region.
        inputs: Name and type of each input.

    Raises:
        QirError: A name is none that the text could hold; see `qir.types.names`.

    Attributes:
        erased_bytes: What the arrays of erased constants take, or would if nothing else held them.
        accuracy: What `qir.quantize` measured of the program it made. Files lack this and the rest.
        diagnostics: Sentences that the passes which made the program left for the user.
        choices: What a recipe chose, by names of imported values, and by `OF_ALL` what of others.
    """

    def __init__(self, name: str, inputs: Iterable[tuple[str, TensorType]] = ()) -> None:
        self._revision = 0
        self.erased_bytes = 0
        self._name = check_symbol(name, "graph") if name != "" else name
        self._names: Namespace[Value] = Namespace()
        self._first: Node | None = None
        self._last: Node | None = None
        self._inputs: tuple[Value, ...] = ()
        self.accuracy: Accuracy | None = None
        self.diagnostics: tuple[str, ...] = ()
        self.choices: dict[str, tuple[ChosenOption, ...]] = {}
        for name_, type_ in inputs:
            self.add_input(name_, type_)

    def add_input(self, name: str, type: TensorType) -> Value:
        """Appends an input and returns it; raises QirError for what can't be a name."""
        check_value(name)
        value = Value(type, None, len(self.inputs), self)
        self.inputs = (*self.inputs, value)
        self._register(value, name)
        return value

    def keep_inputs(self, values: Sequence[Value]) -> None:
        """Keeps some of the inputs, in another order perhaps.

        Raises:
            QirError: One that is left out is read.
        """
        for value in self.inputs:
            if value in values:
                continue
            if value.uses:
                raise QirError(f"graph: %{value.name} is still read by {value.users[0]!r}")
            del self._names[value.name]
        for index, value in enumerate(values):
            value.index = index
        self.inputs = tuple(values)

    @property
    def name(self) -> str:
        """The graph's name, without the @; empty for a region."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        self.touch()

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The values that the graph takes."""
        return self._inputs

    @inputs.setter
    def inputs(self, values: tuple[Value, ...]) -> None:
        self._inputs = values
        self.touch()

    @property
    def revision(self) -> int:
        """A number that grows with every edit, of regions too; nobody has to say that they edited.

        Edits are of nodes and their order, operands, ops, types, names, ranges, origins, locations
        and notes. A rewrite that is taken back has edited too.
        """
        inner = [region.revision for node in self.nodes for region in node.regions]
        return max(self._revision, *inner) if inner else self._revision

    def touch(self) -> None:
        """Counts an edit; nodes and values call it."""
        self._revision = next(CLOCK)

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

    def values_inside(self) -> Iterator[Value]:
        """Yields `values` of this graph and, after the results of each node, of its regions."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs
            for region in node.regions:
                yield from region.values_inside()

    def value(self, name: str) -> Value:
        """Returns the value of a name, which may begin with a %.

        Raises:
            QirError: There is no such value; the message gives the nearest name.
        """
        bare = name.lstrip("%")
        found = self._names.get(bare)
        if found is None:
            hint = did_you_mean(bare, self._names)
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
        store(node, "_previous", previous)
        store(node, "_next", before)
        if previous is None:
            self._first = node
        else:
            store(previous, "_next", node)
        if before is None:
            self._last = node
        else:
            store(before, "_previous", node)
        for value, own in zip(node.outputs, names, strict=True):
            self._register(value, own, named=name is not None)
        self.touch()
        return node

    def erase(self, node: Node) -> None:
        """Takes a node out; raises QirError while a result is used. The regions go with it."""
        used = next((value for value in node.outputs if value.uses), None)
        if used is not None:
            raise QirError(f"erase: %{used.name} is still used by {used.users[0]!r}")
        for index, value in enumerate(node.inputs):
            del value.uses[node, index]
        if isinstance(node.op, Const):
            self.erased_bytes += node.op.array.array.nbytes
        for value in node.outputs:
            del self._names[value.name]
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
        self.touch()

    def rename(self, value: Value, name: str) -> None:
        """Gives a value a name of the user's choice.

        Raises:
            QirError: Another value has the name, or it can't be a name.
        """
        if self._names.get(name, value) is not value:
            raise QirError(f"graph: @{self.name} has a value %{name} already")
        self._rename(value, name)
        value.named = True

    def name_after(self, value: Value, name: str) -> None:
        """Gives a value a derived name: one that it gives up for that of a value it replaces.

        A number makes the name unique where another value has it.

        Raises:
            QirError: It can't be a name.
        """
        if value.name != name:
            self._rename(value, name)
        value.named = False

    def rename_all(self, names: Mapping[Value, str]) -> None:
        """Renames values together, so that one may take the name that another gives up.

        Whose choice the names are is left as it is.

        Raises:
            QirError: Two values would have one name, or it can't be a name.
        """
        takers: dict[str, Value] = {}
        for value, name in names.items():
            holder = self._names.get(check_value(name), value)
            if takers.setdefault(name, value) is not value or holder not in names:
                raise QirError(f"graph: @{self.name} has a value %{name} already")
        for value in names:
            del self._names[value.name]
        for value, name in names.items():
            value.name = self._names.add(name, value)

    def set_outputs(self, values: Sequence[Value]) -> None:
        """Ends the graph: builds the return node, or replaces the one there is."""
        if self._last is not None and isinstance(self._last.op, Return):
            self.erase(self._last)
        self.insert(Node(self, Return(), values, ()))

    def record_origins(self) -> None:
        """Marks every value as standing for itself, as frontends do when the import is complete.

        A value keeps the origin that a frontend gave it, the name that the source has for it. No
        two values get the same one, those inside of regions among them.
        """
        origins = Namespace[Value]()
        for value in self.values_inside():
            orders = value.origins or {value.name: None}
            value.origins = {origins.add(name, value): order for name, order in orders.items()}
            value.named = True

    def settle_names(self) -> None:
        """Forgets whose choice names are and which were there before, which text does not tell.

        So the next pass names what it builds as it would in the program read from text.
        """
        self._names.forget_numbers()
        for value in self.values():
            store(value, "named", True)
        for node in self.nodes:
            for region in node.regions:
                region.settle_names()

    def before(self, node: Node) -> Builder:
        """Returns a builder that inserts before a node and copies its location."""
        return Builder(self, node)

    def at_end(self) -> Builder:
        """Returns a builder that appends, or inserts before the return node where there is one."""
        last = self._last
        return Builder(self, last if last is not None and isinstance(last.op, Return) else None)

    def copy(self) -> Graph:
        """Returns a graph that shares arrays and types with this one, but no value or node."""
        copy = clone(self)
        copy.accuracy, copy.choices = self.accuracy, self.choices
        copy.diagnostics = self.diagnostics
        return copy

    def restore(self, earlier: Graph) -> None:
        """Becomes what a copy of the graph holds, which is used up: takes back all edits since.

        Values and nodes are those of the copy.
        """
        for node in earlier.nodes:
            node.graph = self
        for value in earlier.inputs:
            value.graph = self
        self.inputs, self._names = earlier.inputs, earlier._names
        self._first, self._last = earlier._first, earlier._last

    def extract(self, inputs: Sequence[Value], outputs: Sequence[Value], name: str = "") -> Graph:
        """Copies the part of the graph that computes some values from others.

        Args:
            inputs: Values that become inputs; graph inputs that are needed beside them become
                inputs too.
            outputs: Values that the copy returns.
            name: The copy's name; this graph's when empty.

        Returns:
            A graph of its own, in which everything keeps its facts; see `clone`.
        """
        wanted = self.cone(outputs, inputs)
        extra = [
            value
            for value in self.inputs
            if value not in inputs
            and (value in outputs or any(node in wanted for node in value.users))
        ]
        return clone(
            self,
            name=name or self.name,
            inputs=(*inputs, *extra),
            outputs=outputs,
            nodes=wanted,
        )

    def cone(self, outputs: Iterable[Value], inputs: Iterable[Value] = ()) -> dict[Node, None]:
        """Returns the nodes that some values are computed by, constants among them.

        Args:
            outputs: The values.
            inputs: Values behind which nothing is asked for.

        Returns:
            The nodes as keys, in no order of computation.
        """
        given = set(inputs)

        def makers(values: Iterable[Value]) -> Iterator[Node]:
            return (value.node for value in values if value.node is not None and value not in given)

        return reachable(makers(outputs), lambda node: makers(node.inputs))

    def to_networkx(self) -> nx.MultiDiGraph[Node]:
        """Returns the graph as one of networkx, for whole-graph questions: groups, paths, cuts.

        Its vertices are the nodes in their order, and an edge leads from the node that computes a
        value to each operand that is this value; values that the graph takes lie on no edge.
        Later edits of this graph don't change it.

        Vertices have the attributes `op`, the name of the op; `loc`, where the node comes from, or
        None; and `regions`, a tuple of such graphs, one for each region: no edge leads into a
        region, as it reads nothing from above. Edges have `value`, the Value, and as their key and
        as `operand` the position of the operand.
        """
        import networkx as nx  # It takes 0.1 s to load, and many programs never need it.

        whole: nx.MultiDiGraph[Node] = nx.MultiDiGraph(name=self.name)
        for node in self.nodes:
            regions = tuple(region.to_networkx() for region in node.regions)
            whole.add_node(node, op=node.op.name, loc=node.loc, regions=regions)
            for operand, value in enumerate(node.inputs):
                if value.node is not None:
                    whole.add_edge(value.node, node, key=operand, value=value, operand=operand)
        return whole

    def _register(self, value: Value, name: str, named: bool = True) -> None:
        store(value, "name", self._names.add(name, value))
        store(value, "named", named)

    def _rename(self, value: Value, name: str) -> None:
        check_value(name)
        del self._names[value.name]
        value.name = self._names.add(name, value)

    def __eq__(self, other: object) -> bool:
        """Structural equality: same names, types, ranges, ops, wiring and constant contents.

        Locations, origins and notes don't count, nor do the names of regions.
        """
        if not isinstance(other, Graph):
            return NotImplemented
        return self.description() == other.description()

    def description(self) -> list[Any]:
        """Returns what equality compares, in lists and tuples; later edits do not change it."""
        return describe(self, self.name)

    __hash__ = object.__hash__

    printer: ClassVar[Callable[[Graph], str]] = object.__repr__
    """How a graph is shown; qir.text, which stands above this module, puts its printer here."""

    def __str__(self) -> str:
        return Graph.printer(self)

    def __repr__(self) -> str:
        inputs = ", ".join(f"%{value.name}: {value.type}" for value in self.inputs)
        outputs = ", ".join(str(value.type) for value in self.outputs)
        ops = sum(not isinstance(node.op, Const | Return) for node in self.nodes)
        return f"<@{self.name}({inputs}) -> ({outputs}), {counted(ops, 'op')}>"


def expect_graph(given: object, subject: str) -> None:
    """Raises QirError for what a user handed in instead of a graph, such as the function."""
    if isinstance(given, Graph):
        return
    remedy = (
        "; qir.from_jax(function, example) makes one of a function"
        if callable(given)
        else "; qir.load reads one from a file"
        if isinstance(given, str | os.PathLike)
        else ""
    )
    raise QirError(f"{subject}: expected a graph, got {kind_of(given)}{remedy}")
