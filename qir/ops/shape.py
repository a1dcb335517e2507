"""Ops that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from qir.errors import QirError, counted
from qir.numbers.affine_map import AffineMap
from qir.numbers.interval import Interval
from qir.ops.attributes import by_type
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned
from qir.ops.rules import SameCode, SharedCode
from qir.ops.traits import Carried, Inward, Maps, Moves, Outward, carried_in_place
from qir.ops.type_rules import check_axes, check_axis, same_element, uncoded_axes
from qir.types import (
    Array,
    Code,
    Dim,
    Shape,
    Size,
    TensorType,
    expand,
    format_shape,
    known,
    product,
)

_Group: TypeAlias = tuple[range, range]
"""Axes of a shape, and those of another one that hold the same numbers."""


@op("reshape")
class Reshape(Op):
    """The same numbers in row-major order under another shape, which the result type tells."""

    shape: Shape = by_type(lambda result: result.shape)

    quant = SameCode()
    moves = Moves.ORDER
    commutes = Maps.ALL

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        if product(x.shape) != product(self.shape):
            raise self.error(
                f"expected {counted(product(x.shape), 'element')} as in {x}, "
                f"got {format_shape(self.shape)}"
            )
        if x.quant is None or x.quant.per_tensor:
            return TensorType(self.shape, x.element)
        if 0 in self.shape:  # It has no numbers that scales could vary with.
            ones = (1,) * len(self.shape)
            code = x.quant.map_arrays(lambda factors: np.full(ones, factors.max(initial=1)))
            return TensorType(self.shape, code)
        groups = _equal_groups(x.shape, self.shape)
        return TensorType(
            self.shape, x.quant.map_arrays(lambda factors: self._moved(x, factors, groups))
        )

    def _moved(self, x: TensorType, factors: Array, groups: Sequence[_Group]) -> Array:
        """Reshapes scales along with the numbers; raises QirError where a named size is in it."""
        spread, result = list(factors.shape), [1] * len(self.shape)
        varying: list[int] = []
        for before, after in groups:
            if all(factors.shape[axis] == 1 for axis in before):
                continue
            if any(isinstance(x.shape[axis], Dim) for axis in before):
                raise self.error(
                    f"the code of {x} varies along an axis that {format_shape(self.shape)} has not"
                )
            longer = [axis for axis in before if x.shape[axis] != 1]
            places = [axis for axis in after if self.shape[axis] != 1]
            if len(longer) == len(places) == 1:
                result[places[0]] = factors.shape[longer[0]]  # blocks stay blocks
                varying += places
                continue
            for axis in before:
                spread[axis] = known(x.shape[axis], "reshape")
            for axis in after:
                result[axis] = known(self.shape[axis], "reshape")
            varying += after
        moved = np.broadcast_to(expand(factors, tuple(spread)), spread).reshape(result)
        for axis in varying:
            first = moved.take([0], axis) if moved.shape[axis] else moved
            moved = first if np.array_equal(np.broadcast_to(first, moved.shape), moved) else moved
        return moved

    def interval(self, x: Interval) -> Interval:
        return (
            Interval(x.lo.reshape(self._known()), x.hi.reshape(self._known()))
            if x.is_point
            else x.hull()
        )

    def _known(self) -> tuple[int, ...]:
        return tuple(known(size, "reshape") for size in self.shape)

    def evaluate(self, x: Array) -> Array:
        """Reshapes; where one dimension is named, its size follows from the array's."""
        names = [size for size in self.shape if isinstance(size, Dim)]
        if not names:
            return x.reshape(self._known())
        if len(names) > 1:
            raise QirError(
                f"reshape: the sizes of {format_shape(self.shape)} can't be told from the "
                "array alone"
            )
        return x.reshape([-1 if isinstance(size, Dim) else size for size in self.shape])

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        (x,) = operands
        return [
            Carried(0, axis, place)
            for axis in range(x.rank)
            for place, size in enumerate(self.shape)
            if x.shape[axis] == size and product(x.shape[:axis]) == product(self.shape[:place])
        ]

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        repeated = _repeated(affine, self.shape, operands[0].shape)
        if repeated is not None:
            return [Inward(self, (repeated,))]
        return super().affine_inward(affine, operands, results)

    def affine_outward(
        self,
        maps: Sequence[AffineMap],
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
    ) -> Outward | str:
        repeated = _repeated(maps[0], operands[0].shape, self.shape)
        if repeated is not None:
            return Outward(self, repeated)
        return super().affine_outward(maps, operands, results)

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return True


def _repeated(affine: AffineMap, here: Shape, there: Shape) -> AffineMap | None:
    """Returns a map along the last axis of a shape as one along the last axis of another shape.

    In row-major order the place along the last axis is the index modulo its size. None where the
    map is along another axis or none, or where the one size is no multiple of the other.
    """
    if not (affine.varies and there) or affine.axis != len(here) - 1:
        return None
    size, wanted = here[-1], there[-1]
    if isinstance(size, int) and isinstance(wanted, int) and wanted % size == 0:
        return affine.along(len(there) - 1, wanted // size)
    return None


def _equal_groups(before: Shape, after: Shape) -> list[_Group]:
    """Cuts two shapes into the shortest runs of axes that hold equally many numbers."""
    groups: list[_Group] = []
    start, begin = 0, 0
    for end in range(1, len(before) + 1):
        size = product(before[:end])
        found = next((k for k in range(begin, len(after) + 1) if product(after[:k]) == size), None)
        if found is not None:
            groups.append((range(start, end), range(begin, found)))
            start, begin = end, found
    groups.append((range(start, len(before)), range(begin, len(after))))
    return groups


@op("transpose")
class Transpose(Op):
    """Axes in another order: axis i of the result is axis permutation[i] of the operand."""

    permutation: tuple[int, ...]

    quant = SameCode()
    moves = Moves.ORDER
    commutes = Maps.ALL

    def check(self) -> None:
        if sorted(self.permutation) != list(range(len(self.permutation))):
            raise self.error(f"expected a permutation of the axes, got {list(self.permutation)}")

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        if len(self.permutation) != x.rank:
            raise self.error(
                f"expected a permutation of {counted(x.rank, 'axis')}, got {list(self.permutation)}"
            )
        shape: tuple[Size, ...] = tuple(x.shape[axis] for axis in self.permutation)
        element = x.element
        if isinstance(element, Code):
            element = element.map_arrays(lambda factors: factors.transpose(self.permutation))
        return TensorType(shape, element)

    def interval(self, x: Interval) -> Interval:
        if x.lo.ndim != len(self.permutation):
            return x.hull()
        return Interval.of(x.lo.transpose(self.permutation), x.hi.transpose(self.permutation))

    def evaluate(self, x: Array) -> Array:
        return x.transpose(self.permutation)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return [Carried(0, axis, place) for place, axis in enumerate(self.permutation)]

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        moved = [axis for axis in self.permutation if operands[0].shape[axis] != 1]
        return moved == sorted(moved)


@op("broadcast")
class Broadcast(Op):
    """The operand repeated along new axes and axes of size 1, to the result type's shape.

    Attributes:
        axes: For each axis of the operand the axis of the result that it becomes, increasing; left
            out, the last ones, as numpy broadcasts.
    """

    shape: Shape = by_type(lambda result: result.shape)
    axes: tuple[int, ...] | None = None

    quant = SameCode()
    moves = Moves.COPIES

    def placed(self, rank: int) -> tuple[int, ...]:
        """Returns where each of the operand's axes goes; raises QirError where that fails."""
        count = len(self.shape)
        axes = tuple(range(count - rank, count)) if self.axes is None else self.axes
        if len(axes) != rank or rank > count:
            raise self.error(
                f"expected an axis of {format_shape(self.shape)} for each of {rank}, got "
                f"{list(axes)}"
            )
        check_axes(self, axes, count)
        return axes

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        axes = self.placed(x.rank)
        for axis, size in zip(axes, x.shape, strict=True):
            if size not in (1, self.shape[axis]):
                raise self.error(
                    f"{x} does not broadcast to {format_shape(self.shape)} along axes {list(axes)}"
                )
        element = x.element
        if isinstance(element, Code):
            element = element.map_arrays(
                lambda factors: factors.reshape(self._spread(axes, factors.shape))
            )
        return TensorType(self.shape, element)

    def _spread(self, axes: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
        spread = [1] * len(self.shape)
        for axis, size in zip(axes, sizes, strict=True):
            spread[axis] = size
        return tuple(spread)

    def interval(self, x: Interval) -> Interval:
        return x.hull()

    def evaluate(self, x: Array) -> Array:
        """Broadcasts; a named size follows from the operand's axis that becomes it."""
        placed = self._spread(self.placed(x.ndim), x.shape)
        sizes = [
            size if isinstance(wanted, Dim) and size != 1 else known(wanted, "broadcast")
            for size, wanted in zip(placed, self.shape, strict=True)
        ]
        return np.broadcast_to(x.reshape(placed), sizes)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        (x,) = operands
        places = enumerate(self.placed(x.rank))
        return [
            Carried(0, axis, place) for axis, place in places if x.shape[axis] == self.shape[place]
        ]

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return operands[0].size == product(self.shape)


@op("concat")
class Concat(Op):
    """The operands one after the other along an axis.

    Attributes:
        axis: The axis, counted from 0.
    """

    axis: int

    quant = SharedCode()
    moves = Moves.PICKS
    commutes = Maps.ALL

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, *xs: TensorType) -> TensorType:
        if not xs:
            raise self.error("expected at least one operand, got none")
        first = xs[0]
        check_axis(self, self.axis, first.rank)
        total: Size = 0
        for x in xs:
            others = [
                a == b
                for place, (a, b) in enumerate(zip(x.shape, first.shape, strict=False))
                if place != self.axis
            ]
            if x.rank != first.rank or not all(others):
                raise self.error(
                    f"expected shapes that differ only along axis {self.axis}, got {first} and {x}"
                )
            same_element(self, first, x)
            total = _plus(self, total, x.shape[self.axis])
        uncoded_axes(self, first, [self.axis])
        return TensorType(
            (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :]), first.element
        )

    def interval(self, *xs: Interval) -> Interval:
        hulls = [x.hull() for x in xs]
        return Interval.of(
            min(hull.bounds[0] for hull in hulls), max(hull.bounds[1] for hull in hulls)
        )

    def evaluate(self, *xs: Array) -> Array:
        return np.concatenate(xs, axis=self.axis)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        others = [axis for axis in range(operands[0].rank) if axis != self.axis]
        return [each for index in range(len(operands)) for each in carried_in_place(others, index)]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(replace(self, axis=order[self.axis]), range(len(operands)), (order,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return len(operands) == 1

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward]:
        if affine.varies and affine.axis == self.axis:
            return [Inward(self, tuple(affine.split([x.shape[self.axis] for x in operands])))]
        return [Inward(self, (affine,) * len(operands))]

    def affine_outward(
        self,
        maps: Sequence[AffineMap],
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
    ) -> Outward | str:
        if any(affine.varies and affine.axis != self.axis for affine in maps):
            return "it varies along another axis than the one that is joined"
        sizes = [x.shape[self.axis] for x in operands]
        if any(isinstance(size, Dim) for size in sizes):
            return "the sizes of the branches are not known"
        counts = [known(size, "concat") for size in sizes]
        pairs = list(zip(maps, counts, strict=True))
        factors = np.concatenate([np.broadcast_to(a.factor, count) for a, count in pairs])
        offsets = np.concatenate([np.broadcast_to(a.offset, count) for a, count in pairs])
        return Outward(self, AffineMap(factors, offsets, self.axis))


def _plus(operation: Op, a: Size, b: Size) -> Size:
    if a == 0 or b == 0:
        return b if a == 0 else a
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if isinstance(a, Dim) and isinstance(b, Dim) and a.names == b.names:
        return Dim(a.factor + b.factor, a.names)
    raise operation.error(f"the sum of {a} and {b} is not a size that QIR can name")
