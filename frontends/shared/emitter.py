"""What import rules write with: a builder that takes known arrays as operands too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from qir.errors import QirError, UnsupportedError
from qir.frontends.shared.known import Known, fold, is_known
from qir.frontends.shared.naming import dotted
from qir.ir import Builder, Graph, Value
from qir.ops import Broadcast, Cast, Reshape, Transpose
from qir.ops.op import Op
from qir.ops.type_rules import broadcast
from qir.types import Array, DType, FrozenArray, Shape, TensorType

Operand: TypeAlias = Value | Known
"""What a rule gets: a value of the graph, or an array that is known. Both have a `type`."""

_SMALL = 8
"""Up to this many numbers without a name, each op has its own constant: sharing says nothing."""


class Emitter(Builder):
    """Emits nodes at the end of a graph; known operands become constants, one for each weight."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._constants: dict[tuple[str | None, FrozenArray], Value] = {}

    def emit(self, op: Op, *inputs: Operand, name: str | None = None) -> Value:
        """Inserts a node with one result and returns the result; see `Builder.emit`."""
        return super().emit(op, *map(self.value, inputs), name=name)

    def value(self, operand: Operand) -> Value:
        """Returns an operand as a value of the graph, at its whole shape."""
        if isinstance(operand, Value):
            return operand
        if not is_known(operand.shape):
            return self.emit(
                Broadcast(operand.shape), self._constant(operand.trimmed, operand.name)
            )
        return self._constant(operand.full, operand.name)

    def _constant(self, array: Array, name: str | None) -> Value:
        if name is None and array.size <= _SMALL:
            return self.const(array)
        # The name is part of the key, so that two layers whose weights are equal keep their own.
        frozen = FrozenArray.by_reference(array)
        if (name, frozen) not in self._constants:
            constant = self.const(frozen, None if name is None else dotted(name, "const"))
            if name is not None:
                _standing_for(constant, name)
            self._constants[name, frozen] = constant
        return self._constants[name, frozen]

    def input(self, name: str, type: TensorType) -> Value:
        """Appends an input of the graph, by any name that the source has for it."""
        return _standing_for(self.graph.add_input(dotted(name, "x"), type), name)

    def name(self, operand: Operand, name: str) -> Operand:
        """Gives a new value the name that the source has for it, which selectors then find too.

        Args:
            operand: What a rule gave; a known array, an input of the graph and a value that has a
                name stay as they are.
            name: The source's name, of any characters.
        """
        if isinstance(operand, Known) or operand.node is None or operand.named:
            return operand
        self.graph.name_after(operand, dotted(name, operand.node.op.name))
        return _standing_for(operand, name)

    def compute(self, op: Op, *operands: Operand) -> Operand:
        """Returns the result of an op: known where all operands are, and emitted otherwise."""
        folded = fold(op, operands)
        if folded is not None:
            return folded
        return self.elementwise(op, *operands) if op.elementwise else self.emit(op, *operands)

    def elementwise(self, op: Op, *operands: Operand) -> Value:
        """Emits an elementwise op; known operands have no more axes than they need."""
        shape = broadcast(op, *(operand.type for operand in operands))
        fewest = [
            self._constant(operand.trimmed, operand.name)
            if isinstance(operand, Known)
            else _unbroadcast(operand)
            for operand in operands
        ]
        if broadcast(op, *(value.type for value in fewest)) != shape:
            return self.emit(op, *operands)
        return super().emit(op, *fewest)

    def reshape(self, x: Operand, shape: Shape) -> Operand:
        """Returns the same numbers under another shape."""
        if x.type.shape == shape:
            return x
        if isinstance(x, Known) and (folded := x.reshape(shape)) is not None:
            return folded
        return self.emit(Reshape(shape), x)

    def transpose(self, x: Operand, permutation: Iterable[int]) -> Operand:
        """Returns the axes in another order."""
        order = tuple(permutation)
        if order == tuple(range(len(order))):
            return x
        return x.transpose(order) if isinstance(x, Known) else self.emit(Transpose(order), x)

    def cast(self, x: Operand, dtype: DType) -> Operand:
        """Returns the numbers in another plain type."""
        if x.type.element is dtype:
            return x
        return x.astype(dtype.numpy) if isinstance(x, Known) else self.emit(Cast(dtype), x)

    def scalar(self, number: float, like: TensorType) -> Known:
        """Returns a number of a tensor's element type, which broadcasts against it."""
        return Known.of(np.asarray(number, like.dtype.numpy))


def _standing_for(value: Value, name: str) -> Value:
    """Keeps the name that the source has for a value as its origin."""
    value.origin = (name,)
    return value


def _unbroadcast(value: Value) -> Value:
    match value:
        case Value(Broadcast(axes=None), (narrow,)):
            return narrow
        case _:
            return value


def known_integers(operand: Operand, what: str) -> list[int]:
    """Returns the numbers of a known operand, flat; raises UnsupportedError for another."""
    if not isinstance(operand, Known):
        raise UnsupportedError(f"{what}: expected constants, got the computed value {operand.type}")
    return [int(number) for number in operand.full.reshape(-1)]


def expect_type(found: Operand, wanted: TensorType, what: str) -> None:
    """Raises QirError unless a rule has given the type that the source states."""
    if found.type != wanted:
        raise QirError(f"{what}: expected its rule to give {wanted}, got {found.type}")
