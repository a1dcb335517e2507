"""Reductions over whole axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qir.numbers.interval import EVERYTHING, Interval
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, turned_axes, without
from qir.ops.rules import Coded, ExactSum, KeepFloat, SameCode
from qir.ops.sums import exact_code
from qir.ops.traits import Carried, Maps, Moves
from qir.ops.type_rules import check_axes, check_axis, same_float, same_real, uncoded_axes
from qir.types import Array, Code, DType, Element, Shape, TensorType, known, product


@dataclass(frozen=True)
class Reduction(Op):
    """Base of the reductions over axes.

    Attributes:
        axes: The axes, counted from 0, increasing.
        keep_axes: Whether the axes stay with size 1.
    """

    axes: tuple[int, ...]
    keep_axes: bool = False

    def check(self) -> None:
        if not self.axes:
            raise self.error("expected at least one axis, got []")
        check_axes(self, self.axes)

    def count(self, x: TensorType) -> int:
        """Returns how many numbers become one; raises QirError for a named dimension."""
        return int(
            np.prod([known(x.shape[axis], f"{self.name} over axis {axis}") for axis in self.axes])
        )

    def reduced_shape(self, x: TensorType) -> Shape:
        """Returns the shape of the result; raises QirError for axes that x has not."""
        check_axes(self, self.axes, x.rank)
        kept = (
            (axis, size)
            for axis, size in enumerate(x.shape)
            if self.keep_axes or axis not in self.axes
        )
        return tuple(1 if axis in self.axes else size for axis, size in kept)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_beside(self.axes, operands[0].rank, keep=self.keep_axes)

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        kept = order if self.keep_axes else without(self.axes, order)
        return Turned(replace(self, axes=turned_axes(self.axes, order)), (0,), (kept,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return all(operands[0].shape[axis] == 1 for axis in self.axes)

    def check_not_empty(self, x: TensorType) -> None:
        """Raises QirError where there is nothing to reduce."""
        if product([x.shape[axis] for axis in self.axes]) == 0:
            raise self.error(f"expected at least one number along axes {list(self.axes)}, got {x}")


def carried_beside(axes: Sequence[int], rank: int, *, keep: bool) -> list[Carried]:
    """Lists the axes that are left when some are reduced.

    Args:
        axes: The axes that are reduced.
        rank: The operand's rank.
        keep: Whether they stay with size 1.
    """
    kept = [axis for axis in range(rank) if axis not in axes]
    return [Carried(0, axis, axis if keep else place) for place, axis in enumerate(kept)]


@op("mean")
class Mean(Reduction):
    """The mean over axes; on codes the exact i32 sum, whose scale holds the count."""

    quant = ExactSum()
    commutes = Maps.ALL

    def result(self, x: TensorType) -> TensorType:
        shape = self.reduced_shape(x)
        self.check_not_empty(x)
        self.count(x)
        return TensorType(shape, same_real(self, x) if x.quant is None else exact_code(self, x))

    def interval(self, x: Interval) -> Interval:
        return x.hull()

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x.mean(axis=self.axes, keepdims=self.keep_axes, dtype=x.dtype))

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return np.asarray(x.steps.sum(axis=self.axes, keepdims=self.keep_axes))

    def weight(self, operands: Sequence[TensorType]) -> int:
        return self.count(operands[0])

    def divisor(self, operands: Sequence[TensorType]) -> int:
        return self.count(operands[0])


@op("reduce_sum")
class ReduceSum(Reduction):
    """The sum over axes; integers wrap, on codes exact in i32."""

    quant = ExactSum()

    def result(self, x: TensorType) -> TensorType:
        shape = self.reduced_shape(x)
        if x.quant is not None:
            return TensorType(shape, exact_code(self, x))
        element = same_float(self, x)
        if element is DType.BOOL:
            raise self.error(
                f"expected numbers, got {x}; cast them first, or use reduce_max for any"
            )
        return TensorType(shape, element)

    def interval(self, x: Interval) -> Interval:
        if x.is_point:
            return Interval.point(self.evaluate(x.lo))
        low, high = x.bounds
        return Interval.of(0.0 if low >= 0 else -np.inf, 0.0 if high <= 0 else np.inf)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x.sum(axis=self.axes, keepdims=self.keep_axes, dtype=x.dtype))

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return np.asarray(x.steps.sum(axis=self.axes, keepdims=self.keep_axes))

    def weight(self, operands: Sequence[TensorType]) -> int:
        return self.count(operands[0])


@dataclass(frozen=True)
class Extremum(Reduction):
    """Base of reduce_max and reduce_min; on codes the extremum of the stored numbers."""

    quant = SameCode()
    compares = True
    moves = Moves.PICKS

    def needed_axes(self) -> tuple[int, ...]:
        return self.axes

    def result(self, x: TensorType) -> TensorType:
        shape = self.reduced_shape(x)
        self.check_not_empty(x)
        uncoded_axes(self, x, self.axes)
        element: Element = x.element
        if isinstance(element, Code) and not self.keep_axes:
            element = element.map_arrays(lambda factors: factors.squeeze(self.axes))
        return TensorType(shape, element)

    def interval(self, x: Interval) -> Interval:
        return x.hull()


@op("reduce_max")
class ReduceMax(Extremum):
    """The greatest number over axes, NaN where one is; of masks, whether any holds."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x.max(axis=self.axes, keepdims=self.keep_axes))


@op("reduce_min")
class ReduceMin(Extremum):
    """The least number over axes, NaN where one is; of masks, whether all hold."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x.min(axis=self.axes, keepdims=self.keep_axes))


@op("reduce_prod")
class ReduceProd(Reduction):
    """The product over axes; integers wrap."""

    quant = KeepFloat("a product of many codes leaves every integer type")

    def result(self, x: TensorType) -> TensorType:
        shape, element = self.reduced_shape(x), same_float(self, x)
        if element is DType.BOOL:
            raise self.error(
                f"expected numbers, got {x}; cast them first, or use reduce_min for all"
            )
        return TensorType(shape, element)

    def interval(self, x: Interval) -> Interval:
        if x.is_point:
            return Interval.point(self.evaluate(x.lo))
        low, high = x.bounds
        if low >= 0 and high <= 1:
            return Interval.of(0, 1)
        return Interval.of(-1, 1) if low >= -1 and high <= 1 else EVERYTHING

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x.prod(axis=self.axes, keepdims=self.keep_axes, dtype=x.dtype))


@op("argmax")
class ArgMax(Op):
    """Index of the greatest number along an axis, the first of several, as i32.

    On codes that of the greatest stored number.

    Attributes:
        axis: The axis, counted from 0.
        keep_axes: Whether the axis stays with size 1.
    """

    axis: int
    keep_axes: bool = False

    quant = SameCode()
    compares = True

    def needed_axes(self) -> tuple[int, ...]:
        return (self.axis,)

    def result(self, x: TensorType) -> TensorType:
        check_axis(self, self.axis, x.rank)
        uncoded_axes(self, x, [self.axis])
        if x.shape[self.axis] == 0:
            raise self.error(f"expected at least one number along axis {self.axis}, got {x}")
        kept = (1,) if self.keep_axes else ()
        return TensorType((*x.shape[: self.axis], *kept, *x.shape[self.axis + 1 :]), DType.I32)

    def interval(self, x: Interval) -> Interval:
        return Interval.of(0, x.lo.shape[self.axis] - 1 if x.is_point else np.inf)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.argmax(x, axis=self.axis, keepdims=self.keep_axes), np.int32)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_beside((self.axis,), operands[0].rank, keep=self.keep_axes)

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        kept = order if self.keep_axes else without((self.axis,), order)
        return Turned(replace(self, axis=order[self.axis]), (0,), (kept,))
