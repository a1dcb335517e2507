"""Lookup of the rows of a table of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qir.numbers.affine_map import AffineMap
from qir.numbers.interval import Interval
from qir.numbers.reach import Reach
from qir.numbers.rounding import Multiplier, rounding_mode
from qir.ops.attributes import by_type
from qir.ops.elementwise import result_code
from qir.ops.op import Op, op
from qir.ops.rules import Coded, RescaledRows
from qir.ops.traits import Carried, Formed, Inward
from qir.types import Affine, Array, Code, DType, Element, TensorType, expand


@op("embedding")
class Embedding(Op):
    """Rows of a table, chosen by ids, whose axes replace the first axis of the table.

    y[i…, b…] = factor * table[ids[i…], b…]. An id outside the table means the nearest
    row, as of `gather`.

    The code of a table may vary in any way: by row, as usual, or by block with scales of one level
    or two. Each number is rounded once to the code of the result, by the `fixed31` multiplier of
    its row or block. Without a code the result is what `dequantize` makes of the rows:
    `float32(step) * float32(scale * factor)`, the level of a code that has no steps in its place.

    Attributes:
        factor: What rows are multiplied by, positive; the table may serve elsewhere without it.
        to: The code of the result, of at most 16 bits, or i32 with bounds.
    """

    factor: float = 1.0
    to: Affine | None = by_type(result_code, None)

    quant = RescaledRows()

    def check(self) -> None:
        if not 0 < self.factor < np.inf:
            raise self.error(f"expected a factor above 0 and finite, got {self.factor}")

    def needed_axes(self) -> tuple[int, ...]:
        return (0,)

    def result(self, table: TensorType, ids: TensorType) -> TensorType:
        if not table.rank or table.shape[0] == 0:
            raise self.error(f"expected a table of at least one row, got {table}")
        if not isinstance(ids.element, DType) or not ids.element.is_integer:
            raise self.error(f"expected plain integers as ids, got {ids}")
        return TensorType((*ids.shape, *table.shape[1:]), self._element(table))

    def _element(self, table: TensorType) -> Element:
        code = table.quant
        if code is None:
            if self.to is not None or not table.is_float:
                raise self.error(f"expected a table of floats or with a code, got {table}")
            return table.element
        if code.step_bounds is None and self.to is not None:
            raise self.error(f"{table}: {code.without_steps}")
        if self.to is None:
            return code.expressed
        low, high = self.to.range
        if not self.to.per_tensor or high - low >= 2**31:
            raise self.error(
                "expected a result coded per tensor in at most 16 bits, or in i32 with bounds, got "
                f"{TensorType((), self.to)}"
            )
        if self.to.expressed != code.expressed:
            raise self.error(
                f"expected a code that stands for {code.expressed.value}, got "
                f"{self.to.expressed.value}"
            )
        self.factors(table)
        return self.to

    def factors(self, table: TensorType) -> Multiplier:
        """Returns the multiplier of each row, of the table's rank, or the one of all.

        Raises:
            QirError: The result has no code, or a ratio of scales is out of the reach of `fixed31`.
        """
        if table.quant is None or self.to is None:
            raise self.error(f"expected a table and a result with codes, got {table}")
        scale = table.quant.scale.array * np.float64(self.factor)
        return rounding_mode("fixed31").multipliers(scale, self.to.scale.array)

    def scales(self, code: Code) -> Array:
        """Returns what steps are multiplied by where the result has no code, float32."""
        return np.asarray(code.decoding_scale * np.float64(self.factor), np.float32)

    def interval(self, table: Interval, ids: Interval) -> Interval:
        # Rows that leave as floats are multiplied by one rounded product of scale and factor.
        slack = 0.0 if self.factor == 1 else abs(self.factor) * 2.0**-23
        return table.hull() * Interval.of(self.factor - slack, self.factor + slack)

    def evaluate(self, table: Array, ids: Array) -> Array:
        rows = self.rows(table, ids)
        return rows if self.factor == 1 else np.asarray(rows * rows.dtype.type(self.factor))

    @staticmethod
    def rows(table: Array, ids: Array) -> Array:
        """Returns the chosen rows of an array."""
        return np.take(table, ids.astype(np.int64), axis=0, mode="clip")

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        table, ids = operands
        count = table.stored.shape[0]
        if not ids.stored.size:  # codes of no rows have no multipliers
            sizes = (*ids.stored.shape, *table.stored.shape[1:])
            return np.zeros(sizes, result.dtype.numpy)
        code = table.code.map_arrays(lambda factors: of_rows(factors, ids.stored, count))
        rows = self.rows(table.stored, ids.stored)

        def chosen(factors: Array) -> Array:
            return expand(of_rows(factors, ids.stored, count), rows.shape)

        if self.to is None:
            with np.errstate(over="ignore"):  # Levels times the factor may be beyond float32.
                return np.asarray(code.multiples(rows) * chosen(self.scales(table.code)))
        found = self.factors(table.type)
        multiplier = Multiplier(chosen(found.value), chosen(found.shift))
        return rounding_mode("fixed31").requantize(
            code.steps(rows), multiplier, self.to.zero_points, *self.to.range
        )

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        table, ids = operands
        rows = [Carried(0, axis, axis + ids.rank - 1) for axis in range(1, table.rank)]
        return [*rows, *(Carried(1, axis, axis) for axis in range(ids.rank))]

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
        return Formed(*steps[0])

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        # The table stays the same: an output layer may be tied to it.
        if affine.varies or affine.shifts:
            return "rows of a table take one factor"
        factor = self.factor * affine.factor.item()
        if not 0 < factor < np.inf:
            return "the factor of an embedding is positive"
        return [Inward(replace(self, factor=factor), (None, None))]


def of_rows(factors: Array, ids: Array, count: int) -> Array:
    """Takes the factors of chosen rows; those that all rows share get the rank of the result.

    Args:
        factors: A scalar, or factors of the table's rank.
        ids: The rows.
        count: The number of rows of the table.
    """
    if not factors.ndim:
        return factors
    if factors.shape[0] == 1:
        return factors.reshape((1,) * ids.ndim + factors.shape[1:])
    blocks = np.clip(ids.astype(np.int64), 0, count - 1) // (count // factors.shape[0])
    return np.asarray(factors[blocks])
