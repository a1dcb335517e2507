"""Functions of one or two bytes by a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.numbers.interval import Interval
from qir.ops.op import Coded, Op, Table, op
from qir.types import Array, TensorType


@op("lookup")
class Lookup(Op):
    """table[q]: any function of codes of at most 8 bits.

    Operands: x of 2, 4 or 8 bits, table with one entry for each bit pattern of x, read as an
    unsigned number: [256] for 8 bits. The result has the table's element.
    """

    quant = Table()

    def result(self, x: TensorType, table: TensorType) -> TensorType:
        if not x.dtype.is_integer or x.dtype.bits > 8:
            raise self.error(f"expected integers of at most 8 bits, got {x}")
        if table.shape != (2**x.dtype.bits,):
            raise self.error(f"expected a table of {2**x.dtype.bits} entries, got {table}")
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
