"""The builder: emits nodes at one place of a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import counted
from qir.ir.node import Node
from qir.ir.value import Value
from qir.ops.core import Const
from qir.ops.lookup import Lookup2, table_of_pairs
from qir.ops.op import Op, infer
from qir.ops.traits import ONE_OR_MORE
from qir.types import Array, Element, FrozenArray, TensorType, tensor

if TYPE_CHECKING:
    from qir.ir.graph import Graph


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
        self,
        array: ArrayLike | FrozenArray,
        name: str | None = None,
        element: Element | None = None,
    ) -> Value:
        """Inserts a constant.

        Args:
            array: The stored numbers, held by reference: they must not change afterwards.
            name: Name of the value.
            element: The element of the type: a code, or a plain type whose carrier is wider than it
                (such as i4); None takes the array's own type.

        Raises:
            QirError: The array's type is not the element's carrier.
        """
        if not isinstance(array, FrozenArray):
            array = FrozenArray.by_reference(np.asarray(array))
        shape = array.array.shape
        type = tensor(array.array) if element is None else TensorType(shape, element)
        if element is None and array.array.dtype != type.dtype.numpy:
            # Integers of fewer bits than a byte have numpy types of their own.
            array = FrozenArray.by_reference(array.array.astype(type.dtype.numpy))
        return self.emit(Const(array, type), name=name)

    def lookup2(
        self,
        function: Callable[[Array, Array], ArrayLike],
        x: Value,
        y: Value,
        to: Element,
        *,
        stored: bool = False,
        name: str | None = None,
    ) -> Value:
        """Inserts a function of two tensors of 8 bits as a table, and returns its result.

        Args:
            function: The function, of real numbers or of stored ones, as `table_of_pairs` says.
            x: The first operand.
            y: The second operand.
            to: The element of the result.
            stored: Whether the function is one of stored numbers.
            name: Name of the result.

        Raises:
            QirError: As `table_of_pairs` says, or the operands don't fit the op.
        """
        entries = table_of_pairs(function, x.type, y.type, to, stored=stored)
        table = self.const(entries, f"{name}.table" if name else "table", to)
        return self.emit(Lookup2(), x, y, table, name=name)


def node_types(
    op: Op, operands: Sequence[TensorType], regions: Sequence[Graph]
) -> tuple[TensorType, ...]:
    """Infers the result types of a node, of an op with regions from what the regions return.

    Raises:
        QirError: The operands or regions don't fit the op.
    """
    if op.region_count == ONE_OR_MORE and not regions:
        raise op.error("expected at least 1 region, got none")
    if len(regions) != op.region_count != ONE_OR_MORE:
        raise op.error(f"expected {counted(op.region_count, 'region')}, got {len(regions)}")
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
