"""Functions of one or two stored numbers by a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.numbers.reach import Reach
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned
from qir.ops.rules import Coded, Table
from qir.ops.traits import Carried, StoredOperand, carried_by_broadcasting, carried_in_place
from qir.ops.type_rules import broadcast
from qir.types import Array, Code, Element, TensorType


@op("lookup")
class Lookup(Op):
    """table[q]: any function of codes of at most 16 bits.

    Operands: x, table with one entry for each bit pattern of x, read as an unsigned number: [256]
    for 8 bits. Where the bounds of a wider code need fewer bits, the table has one for each pattern
    of those: [4096] for bounds in [-2048, 2047]. The result has the table's element.
    """

    quant = Table()

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType, table: TensorType) -> TensorType:
        if not x.dtype.is_integer or x.dtype.bits > 16:
            raise self.error(f"expected integers of at most 16 bits, got {x}")
        if table.shape != (2 ** index_bits(x),):
            raise self.error(f"expected a table of {2 ** index_bits(x)} entries, got {table}")
        if table.quant is not None and not table.quant.per_tensor:
            raise self.error(f"expected a table with one code, got {table}")
        return TensorType(x.shape, table.element)

    def interval(self, x: Interval, table: Interval) -> Interval:
        return table.hull()

    def evaluate(self, x: Array, table: Array) -> Array:
        return np.asarray(table[x.astype(np.int64) & (len(table) - 1)])

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        x, table = operands
        return self.evaluate(x.stored, table.stored)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place(range(operands[0].rank))

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(self, (0,), (order,))

    def stored(self, operands: Sequence[StoredOperand], result: TensorType) -> Reach | None:
        x, table = operands
        if table.array is None:
            return None
        entries = self.evaluate(np.arange(x.reach[0], x.reach[1] + 1), table.array)
        return int(entries.min()), int(entries.max())


def index_bits(x: TensorType) -> int:
    """Returns the bits that tell the stored numbers of a type apart.

    They are all of at most 8; of wider ones those that the bounds of the code leave.
    """
    if x.quant is None or x.dtype.bits <= 8:
        return x.dtype.bits
    low, high = x.quant.range
    return max((-low - 1).bit_length(), high.bit_length()) + 1 if low < 0 else high.bit_length()


@op("lookup2")
class Lookup2(Op):
    """table[x, y]: any function of two tensors of 8 bits, which broadcast.

    Operands: x and y of 8 bits, with or without a code, table [256, 256] of 8 bits with one entry
    for each pair of bytes, read as unsigned numbers. The result has the table's element.
    """

    quant = Table()
    broadcasts = True

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType, y: TensorType, table: TensorType) -> TensorType:
        for operand in (x, y, table):
            if not operand.dtype.is_integer or operand.dtype.bits != 8:
                raise self.error(f"expected integers of 8 bits, got {operand}")
        if table.shape != (256, 256):
            raise self.error(f"expected a table of shape [256,256], got {table}")
        if table.quant is not None and not table.quant.per_tensor:
            raise self.error(f"expected a table with one code, got {table}")
        return TensorType(broadcast(self, x, y), table.element)

    def interval(self, x: Interval, y: Interval, table: Interval) -> Interval:
        return table.hull()

    def evaluate(self, x: Array, y: Array, table: Array) -> Array:
        return np.asarray(table[x.astype(np.int64) & 255, y.astype(np.int64) & 255])

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        return self.evaluate(*(operand.stored for operand in operands))

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_by_broadcasting(operands[:2], results)

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(self, (0, 1), (order,))

    def stored(self, operands: Sequence[StoredOperand], result: TensorType) -> Reach | None:
        x, y, table = operands
        if table.array is None:
            return None
        rows, columns = (np.arange(each.reach[0], each.reach[1] + 1) for each in (x, y))
        entries = self.evaluate(rows[:, None], columns, table.array)
        return int(entries.min()), int(entries.max())


def table_of_pairs(
    function: Callable[[Array, Array], ArrayLike],
    x: TensorType,
    y: TensorType,
    to: Element,
    *,
    stored: bool = False,
) -> Array:
    """Computes the table of a lookup2 at compile time.

    Args:
        function: A function of arrays that broadcast. They hold the real numbers of the operands in
            float64, those of plain integers being the integers, and so does its result.
        x: Type of the first operand; a code must be per tensor.
        y: Type of the second operand, likewise.
        to: The element of the result: a code, which encodes it, or a plain type that holds it.
        stored: Whether the function is one of stored numbers, as int64, that gives stored numbers.

    Returns:
        The entries, [256, 256]. Those of bytes outside of a code's bounds are those at the bounds.

    Raises:
        QirError: A code varies, or the result holds a number of the function not, or is undefined.
    """
    codes = []
    for type in (x, y):
        if type.quant is not None and not type.quant.per_tensor:
            raise QirError(f"lookup2: expected operands with one code, got {type}")
        every = np.arange(256, dtype=np.uint8).view(type.dtype.numpy)
        low, high = type.dtype.bounds if type.quant is None else type.quant.range
        numbers: Array = every.astype(np.int64).clip(low, high)
        if not stored:
            numbers = (numbers if type.quant is None else type.quant.decode(numbers)).astype(float)
        codes.append(numbers)
    found = np.broadcast_to(function(codes[0][:, None], codes[1][None, :]), (256, 256))
    if np.any(np.isnan(found)):
        row, column = (int(place[0]) for place in np.nonzero(np.isnan(found)))
        raise QirError(
            f"lookup2: the function is undefined for {codes[0][row]} and {codes[1][column]}"
        )
    if isinstance(to, Code) and not stored:
        return to.encode(found)
    low, high = to.range if isinstance(to, Code) else to.bounds
    if np.any((found < low) | (found > high) | (found != np.rint(found))):
        raise QirError(f"lookup2: expected a function whose values are integers in [{low}, {high}]")
    return found.astype(TensorType((256, 256), to).dtype.numpy)
