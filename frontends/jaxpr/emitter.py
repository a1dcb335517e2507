"""What rules of primitives write with: a builder that takes known arrays as operands too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from qir.errors import QirError, UnsupportedError
from qir.frontends.jaxpr.constants import Known
from qir.frontends.jaxpr.naming import value_name
from qir.frontends.jaxpr.shapes import is_known
from qir.ir import Builder, Graph, Value
from qir.ops import Broadcast, Cast, Reshape, Transpose
from qir.ops.op import Op
from qir.ops.type_rules import broadcast
from qir.types import Array, DType, FrozenArray, Shape, TensorType

Operand: TypeAlias = Value | Known
"""What a rule gets: a value of the graph, or an array that is known. Both have a `type`."""

PrimitiveRule: TypeAlias = Callable[..., Operand | Sequence[Operand]]
PrimitiveFunction = TypeVar("PrimitiveFunction", bound=PrimitiveRule)

_SMALL = 8
"""Up to this many numbers without a name, each op has its own constant: sharing says nothing."""

PRIMITIVES: dict[str, PrimitiveRule] = {}
"""The rule of each primitive, by the primitive's name."""


def primitive(*names: str) -> Callable[[PrimitiveFunction], PrimitiveFunction]:
    """Registers the import rule of jax primitives; a later rule replaces an earlier one.

    The function is called as `rule(b, *operands, **params)` with an `Emitter`, the operands and the
    primitive's parameters. It returns the result, or all results, of the types that jax traced::

        @primitive("my_scale")
        def my_scale(b, x, *, factor):
            return b.emit(Mul(), x, b.const(np.float32(factor)))

    Args:
        names: Names of the primitives, as a jaxpr prints them.
    """

    def register(function: PrimitiveFunction) -> PrimitiveFunction:
        for name in names:
            PRIMITIVES[name] = function
        return function

    return register


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
            constant = self.const(frozen, None if name is None else value_name(name))
            constant.origin = () if name is None else (name,)
            self._constants[name, frozen] = constant
        return self._constants[name, frozen]

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
    """Raises QirError unless a rule has given the type that jax traced."""
    if found.type != wanted:
        raise QirError(f"{what}: expected its rule to give {wanted}, got {found.type}")
