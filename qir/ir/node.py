"""Nodes: the applications of ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qir.errors import QirError
from qir.ir.revisions import is_news, store
from qir.ir.value import Value
from qir.ops.op import Op
from qir.types import TensorType

if TYPE_CHECKING:
    from qir.ir.graph import Graph


LINKS = frozenset({"_next", "_previous", "erased"})
"""Attributes that the graph changes, which counts these edits itself."""


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

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    regions: tuple[Graph, ...]
    loc: str | None
    note: str | None
    graph: Graph
    erased: bool
    _next: Node | None
    _previous: Node | None

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
        # No edits yet: the node is not in the graph.
        store(self, "graph", graph)
        store(self, "op", op)
        store(self, "loc", loc)
        store(self, "regions", tuple(regions))
        store(self, "inputs", tuple(inputs))
        outputs = tuple(Value(type, self, index) for index, type in enumerate(types))
        store(self, "outputs", outputs)
        store(self, "note", None)
        store(self, "erased", False)
        store(self, "_next", None)
        store(self, "_previous", None)
        for index, value in enumerate(self.inputs):
            value.uses[self, index] = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in LINKS and is_news(getattr(self, name), value):
            self.graph.touch()
        store(self, name, value)

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

    def region_place(self, index: int) -> str:
        """A line for error messages: which of the regions it is, and the location where known."""
        which = "the region" if len(self.regions) == 1 else f"region {index}"
        of = f"%{self.outputs[0].name}" if self.outputs else self.op.name
        return f"in {which} of {of}" + (f", {self.loc}" if self.loc else "")

    def __repr__(self) -> str:
        results = ", ".join(f"%{value.name}" for value in self.outputs)
        return f"<{self.op.name} of {results or self.graph.name}>"
