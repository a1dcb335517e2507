"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qir.errors import counted
from qir.numbers.interval import Interval
from qir.ops.op import op
from qir.ops.orders import Order, Turned
from qir.ops.products import Products
from qir.ops.rules import Accumulate, holds_bytes
from qir.ops.traits import Carried, carried_in_place
from qir.ops.type_rules import accumulator, check_bias
from qir.types import Array, Size, TensorType, product


@op("dot")
class Dot(Products):
    """Matrix product: y[b…, r…, c] = sum over k of x[b…, r…, k] * kernel[b…, k, c] + bias[c].

    Operands: x [batch…, rows…, k], kernel [batch…, k, columns], bias [columns]. Plain integers of
    8 bits, signed or not, give sums in i32, which wrap; wider ones keep their type.

    The code of x may have a scale and a zero point for each row or batch, that of the kernel for
    each column; where both vary, the scale of the sums is their product, kept as two factors.

    Attributes:
        batch: Number of leading dimensions that both operands share.
    """

    batch: int = 0

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(
        self, x: TensorType, kernel: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        if kernel.rank != self.batch + 2 or x.rank < self.batch + 1:
            raise self.error(
                f"expected a kernel of rank {self.batch + 2} and x of rank {self.batch + 1} or "
                f"more, got {x} and {kernel}"
            )
        if x.shape[: self.batch] != kernel.shape[: self.batch]:
            raise self.error(f"expected equal batch dimensions, got {x} and {kernel}")
        if x.shape[-1] != kernel.shape[-2]:
            raise self.error(
                f"kernel has {counted(kernel.shape[-2], 'row')}, "
                f"x has {counted(x.shape[-1], 'column')}"
            )
        shape = (*x.shape[:-1], kernel.shape[-1])
        rank, columns = len(shape), shape[-1]
        element = accumulator(
            self, x, kernel, rank, columns, self.batch, x.rank - 1, row_points=True
        )
        check_bias(self, bias, element, columns)
        return TensorType(shape, element)

    def interval(self, x: Interval, kernel: Interval, bias: Interval | None = None) -> Interval:
        if not kernel.is_point or self.batch:
            return Interval.of(-np.inf, np.inf)
        values = x.hull()
        sums = values.weighted(kernel, lambda value, weights: (value * weights).sum(axis=0))
        return sums if bias is None else sums + bias

    def multiply_adds(self, operands: Sequence[TensorType], result: TensorType) -> Size:
        return product((result.size, operands[0].shape[-1]))

    def evaluate(self, x: Array, kernel: Array, bias: Array | None = None) -> Array:
        if holds_bytes(x):
            return Accumulate.exactly(self, x, kernel, *(() if bias is None else (bias,)))
        batch = x.shape[: self.batch]
        rows = x.reshape(*batch, prod(x.shape[self.batch : -1]), x.shape[-1])
        result: Array = np.matmul(rows, kernel).reshape(*x.shape[:-1], kernel.shape[-1])
        return result if bias is None else result + bias

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        x, kernel, *bias = operands
        last = results[0].rank - 1
        carried = carried_in_place(range(x.rank - 1))
        carried += carried_in_place(range(self.batch), 1)
        carried.append(Carried(1, kernel.rank - 1, last))
        return [*carried, *(Carried(2, 0, last) for _ in bias)]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        if self.batch or order[-1] != len(order) - 1:
            return None
        return Turned(self, (0,), (order,))

    def cannot_shift(self, operands: Sequence[TensorType]) -> str | None:
        return "the bias would vary along the batch dimensions" if self.batch else None
