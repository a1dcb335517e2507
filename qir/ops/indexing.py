"""Ops that choose, repeat, surround or count places of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qir.errors import counted
from qir.numbers.affine_map import AffineMap
from qir.numbers.interval import Interval
from qir.ops.attributes import by_type
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, turned_axes, turned_sizes
from qir.ops.rules import Coded, KeepFloat, SameCode, SharedCode
from qir.ops.traits import Carried, Inward, Maps, Moves, Outward, carried_in_place
from qir.ops.type_rules import check_axes, check_axis, uncoded_axes
from qir.types import Array, Code, DType, Shape, Size, TensorType, expand, known


@op("gather")
class Gather(Op):
    """Places of x along an axis, chosen by indices, whose axes replace it.

    y[a…, i…, b…] = x[a…, indices[i…], b…], an embedding lookup for axis 0. An index outside the
    axis means the nearest place, as in XLA: negative ones do not count from the end.

    Attributes:
        axis: The axis, counted from 0.
    """

    axis: int = 0

    quant = SameCode()
    moves = Moves.PARTS

    def needed_axes(self) -> tuple[int, ...]:
        return (self.axis,)

    def result(self, x: TensorType, indices: TensorType) -> TensorType:
        check_axis(self, self.axis, x.rank)
        if not isinstance(indices.element, DType) or not indices.element.is_integer:
            raise self.error(f"expected plain integers as indices, got {indices}")
        if x.shape[self.axis] == 0:
            raise self.error(f"expected at least one place along axis {self.axis}, got {x}")
        uncoded_axes(self, x, [self.axis])
        element = x.element
        if isinstance(element, Code):
            ones = (1,) * indices.rank
            element = element.map_arrays(
                lambda factors: factors.reshape(
                    (*factors.shape[: self.axis], *ones, *factors.shape[self.axis + 1 :])
                )
            )
        return TensorType(
            (*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :]), element
        )

    def interval(self, x: Interval, indices: Interval) -> Interval:
        return x.hull()

    def evaluate(self, x: Array, indices: Array) -> Array:
        return np.take(x, indices.astype(np.int64), axis=self.axis, mode="clip")

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        x, indices = operands
        more = indices.rank - 1
        before = carried_in_place(range(self.axis))
        behind = [Carried(0, axis, axis + more) for axis in range(self.axis + 1, x.rank)]
        return [*before, *behind, *(Carried(1, a, self.axis + a) for a in range(indices.rank))]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        if operands[1].rank != 1:
            return None
        return Turned(replace(self, axis=order[self.axis]), (0,), (order,))


@op("pad")
class Pad(Op):
    """The operand surrounded by one number; a code holds the nearest it can to it.

    Attributes:
        low: Places before, for each axis.
        high: Places after, for each axis.
        value: The number in real units; may be infinite.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    value: float = 0.0

    quant = SharedCode()
    commutes = Maps.ALL

    def check(self) -> None:
        if any(count < 0 for count in (*self.low, *self.high)):
            raise self.error(
                f"expected counts of at least 0, got {list(self.low)} and {list(self.high)}; "
                "slice crops"
            )

    def result(self, x: TensorType) -> TensorType:
        if not len(self.low) == len(self.high) == x.rank:
            raise self.error(
                f"expected low and high for each of {counted(x.rank, 'axis')}, "
                f"got {list(self.low)} and {list(self.high)}"
            )
        padded = [axis for axis in range(x.rank) if self.low[axis] or self.high[axis]]
        uncoded_axes(self, x, padded)
        if isinstance(x.element, DType) and not x.element.is_float:
            low, high = (0, 1) if x.element is DType.BOOL else x.element.bounds
            if not (low <= self.value <= high and self.value.is_integer()):
                raise self.error(
                    f"expected an integer in [{low}, {high}] as value, got {self.value}"
                )
        shape: list[Size] = list(x.shape)
        for axis in padded:
            shape[axis] = (
                known(shape[axis], f"pad along axis {axis}") + self.low[axis] + self.high[axis]
            )
        return TensorType(tuple(shape), x.element)

    def interval(self, x: Interval) -> Interval:
        surrounded = any((*self.low, *self.high))
        return x.hull().union(Interval.of(self.value, self.value)) if surrounded else x

    def filled(self, x: Array, value: Array) -> Array:
        """Surrounds x by a value: a scalar, or an array whose dimensions divide the result's."""
        sizes = tuple(
            low + size + high for low, size, high in zip(self.low, x.shape, self.high, strict=True)
        )
        result = np.broadcast_to(expand(value.astype(x.dtype), sizes), sizes).copy()
        result[
            tuple(slice(low, low + size) for low, size in zip(self.low, x.shape, strict=True))
        ] = x
        return result

    def evaluate(self, x: Array) -> Array:
        return self.filled(x, np.asarray(self.value))

    def stored_value(self, code: Code) -> Array:
        """Returns the stored numbers that stand for the value, of the shape of the scale."""
        return code.encode(np.full(code.grid, self.value, code.expressed.numpy))

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return self.filled(x.stored, self.stored_value(x.code))

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        axes = range(operands[0].rank)
        return carried_in_place([a for a in axes if not (self.low[a] or self.high[a])])

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        low, high = turned_sizes(self.low, order), turned_sizes(self.high, order)
        return Turned(replace(self, low=low, high=high), (0,), (order,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return operands[0] == results[0]

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        ways = super().affine_inward(affine, operands, results)
        if (reason := self._cannot_map(affine)) or affine.varies or isinstance(ways, str):
            return reason or ways
        value = self.value * float(affine.factor[0]) + float(affine.offset[0])
        return [Inward(replace(self, value=value), (affine,))]

    def affine_outward(
        self,
        maps: Sequence[AffineMap],
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
    ) -> Outward | str:
        (affine,) = maps
        way = super().affine_outward(maps, operands, results)
        if (reason := self._cannot_map(affine)) or affine.varies or isinstance(way, str):
            return reason or way
        value = (self.value - float(affine.offset[0])) / float(affine.factor[0])
        return Outward(replace(self, value=value), affine)

    def _cannot_map(self, affine: AffineMap) -> str | None:
        if affine.varies and (affine.shifts or self.value != 0):
            return "the value of pad would vary"
        return None if np.all(affine.factor) else "a factor is 0"


@op("reverse")
class Reverse(Op):
    """The operand with some axes turned round.

    Attributes:
        axes: The axes, counted from 0, increasing.
    """

    axes: tuple[int, ...]

    quant = SameCode()
    moves = Moves.ORDER
    commutes = Maps.ALL

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        check_axes(self, self.axes, x.rank)
        element = x.element
        return TensorType(
            x.shape, element.map_arrays(self.evaluate) if isinstance(element, Code) else element
        )

    def interval(self, x: Interval) -> Interval:
        return x.moved(self.evaluate)

    def evaluate(self, x: Array) -> Array:
        return np.flip(x, self.axes)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place([a for a in range(operands[0].rank) if a not in self.axes])

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(Reverse(turned_axes(self.axes, order)), (0,), (order,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return all(operands[0].shape[axis] == 1 for axis in self.axes)


@op("tile")
class Tile(Op):
    """The operand repeated as a whole along its axes.

    Attributes:
        repeats: How often along each axis, at least 1.
    """

    repeats: tuple[int, ...]

    quant = SameCode()
    moves = Moves.COPIES

    def check(self) -> None:
        if any(count < 1 for count in self.repeats):
            raise self.error(f"expected repeats of at least 1, got {list(self.repeats)}")

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        if len(self.repeats) != x.rank:
            raise self.error(
                f"expected repeats for each of {counted(x.rank, 'axis')}, got {list(self.repeats)}"
            )
        shape = tuple(size * count for size, count in zip(x.shape, self.repeats, strict=True))
        element = x.element
        if isinstance(element, Code):
            element = element.map_arrays(self._tiled)
        return TensorType(shape, element)

    def interval(self, x: Interval) -> Interval:
        return x.hull()

    def evaluate(self, x: Array) -> Array:
        return np.tile(x, self.repeats)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place([a for a, count in enumerate(self.repeats) if count == 1])

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(Tile(turned_sizes(self.repeats, order)), (0,), (order,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return all(count == 1 for count in self.repeats)

    def _tiled(self, factors: Array) -> Array:
        counts = zip(factors.shape, self.repeats, strict=True)
        return np.tile(factors, [1 if size == 1 else count for size, count in counts])


@op("iota")
class Iota(Op):
    """The numbers 0, 1, 2, … along an axis; the result type tells shape and element.

    Attributes:
        axis: The axis, counted from 0.
    """

    shape: Shape = by_type(lambda result: result.shape)
    element: DType = by_type(lambda result: result.dtype)
    axis: int = 0

    quant = KeepFloat("counts places")

    def check(self) -> None:
        check_axis(self, self.axis, len(self.shape))
        if self.element is DType.BOOL:
            raise self.error("expected numbers, got bool")

    def result(self) -> TensorType:
        size = known(self.shape[self.axis], f"iota along axis {self.axis}")
        if self.element.is_integer and size - 1 > self.element.bounds[1]:
            raise self.error(f"expected numbers that hold {size - 1}, got {self.element.value}")
        return TensorType(self.shape, self.element)

    def interval(self) -> Interval:
        return Interval.of(0, max(known(self.shape[self.axis], "iota") - 1, 0))

    def evaluate(self) -> Array:
        sizes = [known(size, "iota") for size in self.shape]
        along = [-1 if place == self.axis else 1 for place in range(len(sizes))]
        return np.broadcast_to(np.arange(sizes[self.axis]).reshape(along), sizes)
