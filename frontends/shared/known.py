"""Operands whose numbers are known while a model is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qir.ir import Value
from qir.ir.weight_names import derived_name
from qir.ops import Add, Neg, Sub, Transpose
from qir.ops.op import Op, infer
from qir.types import Array, Dim, DType, Shape, TensorType, known


@dataclass(frozen=True, eq=False)
class Known:
    """An operand whose numbers are known; it becomes a constant only where an op reads it.

    Attributes:
        array: The numbers, of the shape's rank. An axis of size 1 may stand for one of any size,
            a named one too.
        shape: The shape that the array stretches to.
        name: The weight that the numbers come from by moves alone, or None.
    """

    array: Array
    shape: Shape
    name: str | None = None

    @staticmethod
    def of(array: Any, shape: Shape | None = None, name: str | None = None) -> Known:
        """Wraps an array that broadcasts to a shape; its own shape when None."""
        numbers = np.asarray(array)
        wanted = tuple(numbers.shape) if shape is None else shape
        return Known(
            numbers.reshape((1,) * (len(wanted) - numbers.ndim) + numbers.shape), wanted, name
        )

    @property
    def type(self) -> TensorType:
        """The type of the constant."""
        return TensorType(self.shape, DType.of(self.array.dtype))

    @property
    def full(self) -> Array:
        """The numbers at their whole shape; raises QirError where a size is named."""
        return np.broadcast_to(self.array, self.type.known_shape)

    @property
    def trimmed(self) -> Array:
        """The fewest axes that broadcast to the shape."""
        kept = next(
            (axis for axis, size in enumerate(self.array.shape) if size != 1), self.array.ndim
        )
        return self.array.reshape(self.array.shape[kept:])

    def reshape(self, shape: Shape) -> Known | None:
        """Returns the numbers under another shape, or None where their order can't be told."""
        if self.array.size == 1:
            return replace(self, array=self.array.reshape((1,) * len(shape)), shape=shape)
        if not (is_known(shape) and is_known(self.shape)):
            return None
        return Known(
            self.full.reshape([known(size, "reshape") for size in shape]), shape, self.name
        )

    def transpose(self, permutation: Sequence[int]) -> Known:
        """Returns the numbers with their axes in another order; raises QirError for no order."""
        (result,) = infer(Transpose(tuple(permutation)), [self.type])
        return Known(self.array.transpose(permutation), result.shape, self.name)

    def astype(self, dtype: Any) -> Known:
        """Returns the numbers in another type."""
        return replace(self, array=self.array.astype(dtype))


def is_known(shape: Shape) -> bool:
    """Whether every size is an integer."""
    return not any(isinstance(size, Dim) for size in shape)


def fold(op: Op, operands: Sequence[Value | Known]) -> Known | None:
    """Computes an op whose operands are all known.

    Args:
        op: An op of plain numbers.
        operands: Its operands.

    Returns:
        The result, or None where an operand is computed, there are several results, or a size is
        named along an axis that the op does more with than to carry it.

    Raises:
        QirError: The operands don't fit the op.
    """
    known_operands = [operand for operand in operands if isinstance(operand, Known)]
    if len(known_operands) < len(operands) or op.region_count:
        return None
    types = infer(op, [operand.type for operand in known_operands])
    if len(types) != 1:
        return None
    if op.elementwise:
        arrays = [operand.array for operand in known_operands]
    elif all(is_known(type.shape) for type in (*types, *(x.type for x in known_operands))):
        arrays = [operand.full for operand in known_operands]
    else:
        return None
    # As the reference does: in float32 at least, rounded once.
    pairs = zip(arrays, known_operands, strict=True)
    wide = [
        array.astype(np.float32) if type.is_float and type.dtype.bits < 32 else array
        for array, type in ((array, operand.type) for array, operand in pairs)
    ]
    with np.errstate(all="ignore"):
        numbers = np.asarray(op.evaluate(*wide)).astype(types[0].dtype.numpy)
    role = "offset" if isinstance(op, Add | Sub | Neg) else "factor"
    name = derived_name((operand.name for operand in known_operands), role)
    return Known.of(numbers, types[0].shape, name)
