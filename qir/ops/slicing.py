"""Ops that cut places out of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qir.errors import counted
from qir.numbers.interval import Interval
from qir.ops.attributes import all_ones, left_out
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned
from qir.ops.rules import SameCode
from qir.ops.traits import Carried, Maps, Moves, carried_in_place
from qir.ops.type_rules import check_axes, check_axis
from qir.types import Array, Code, TensorType, known


def sliced(
    operation: Op, x: TensorType, axis: int, start: int, limit: int, stride: int = 1
) -> TensorType:
    """Returns the type of the places start, start + stride, … below limit along an axis.

    A code that varies along the axis is cut likewise.

    Raises:
        QirError: The places are not whole blocks of the code.
    """
    size = known(x.shape[axis], f"{operation.name} along axis {axis}")
    shape = (*x.shape[:axis], len(range(start, limit, stride)), *x.shape[axis + 1 :])
    element = x.element

    def cut(factors: Array) -> Array:
        if (count := factors.shape[axis]) == 1:
            return factors
        block = max(size // count, 1)
        if block != 1 and (stride != 1 or start % block or limit % block):
            raise operation.error(
                f"the code of {x} has blocks of {block} along axis {axis}, which would be cut"
            )
        # A code has at least one scale, for a tensor without numbers too.
        kept = slice(start // block, limit // block, stride) if start < limit else slice(1)
        return factors[(*(slice(None),) * axis, kept)]

    if isinstance(element, Code):
        element = element.map_arrays(cut)
    return TensorType(shape, element)


@op("slice")
class Slice(Op):
    """The places start, start + stride, … below limit along some axes.

    Attributes:
        axes: The axes that are cut, counted from 0, increasing.
        start: First place along each of them.
        limit: One past the last place, at most the size.
        stride: Step along each of them, at least 1; left out, 1.
    """

    axes: tuple[int, ...]
    start: tuple[int, ...]
    limit: tuple[int, ...]
    stride: tuple[int, ...] = left_out((), all_ones)

    quant = SameCode()
    moves = Moves.PARTS
    commutes = Maps.ALL

    def check(self) -> None:
        check_axes(self, self.axes)
        counts = {
            len(self.axes),
            len(self.start),
            len(self.limit),
            len(self.stride) or len(self.axes),
        }
        if len(counts) != 1:
            raise self.error(
                f"expected a start, limit and stride for each of {counted(len(self.axes), 'axis')}"
            )
        if any(
            not 0 <= start <= limit for start, limit in zip(self.start, self.limit, strict=True)
        ):
            raise self.error(
                f"expected 0 <= start <= limit, got {list(self.start)} and {list(self.limit)}"
            )
        if any(stride < 1 for stride in self.stride):
            raise self.error(
                f"expected strides of at least 1, got {list(self.stride)}; reverse turns an "
                "axis round"
            )

    @property
    def cuts(self) -> tuple[tuple[int, int, int, int], ...]:
        """Axis, start, limit and stride of each cut."""
        stride = self.stride or (1,) * len(self.axes)
        return tuple(zip(self.axes, self.start, self.limit, stride, strict=True))

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        check_axes(self, self.axes, x.rank)
        result = x
        for axis, start, limit, stride in self.cuts:
            if limit > known(x.shape[axis], f"slice along axis {axis}"):
                raise self.error(
                    f"expected a limit of at most {x.shape[axis]} along axis {axis}, got {limit}"
                )
            result = sliced(self, result, axis, start, limit, stride)
        return result

    def interval(self, x: Interval) -> Interval:
        return x.moved(self.evaluate)

    def evaluate(self, x: Array) -> Array:
        places = [slice(None)] * x.ndim
        for axis, start, limit, stride in self.cuts:
            places[axis] = slice(start, limit, stride)
        return x[tuple(places)]

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place([a for a in range(operands[0].rank) if a not in self.axes])

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        cuts = sorted((order[axis], *cut) for axis, *cut in self.cuts)
        axes, start, limit, stride = zip(*cuts, strict=True) if cuts else ((),) * 4
        return Turned(Slice(axes, start, limit, stride if self.stride else ()), (0,), (order,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return operands[0] == results[0]


@op("split")
class Split(Op):
    """The operand cut into consecutive parts along an axis, one result for each.

    Attributes:
        axis: The axis, counted from 0.
        sizes: Size of each part; their sum is the axis's size.
    """

    axis: int
    sizes: tuple[int, ...]

    quant = SameCode()
    moves = Moves.PARTS

    @property
    def cuts(self) -> tuple[tuple[int, int], ...]:
        """Start and limit of each part."""
        limits = np.cumsum(self.sizes).tolist()
        return tuple(zip([0, *limits[:-1]], limits, strict=True))

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> tuple[TensorType, ...]:
        check_axis(self, self.axis, x.rank)
        size = known(x.shape[self.axis], f"split along axis {self.axis}")
        if not self.sizes or min(self.sizes) < 0 or sum(self.sizes) != size:
            raise self.error(f"expected sizes of sum {size}, got {list(self.sizes)}")
        return tuple(sliced(self, x, self.axis, start, limit) for start, limit in self.cuts)

    def interval(self, x: Interval) -> Interval:
        return x.hull()

    def evaluate(self, x: Array) -> tuple[Array, ...]:
        return tuple(np.split(x, np.cumsum(self.sizes)[:-1], axis=self.axis))

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        others = [axis for axis in range(operands[0].rank) if axis != self.axis]
        parts = range(len(results))
        return [each for part in parts for each in carried_in_place(others, result=part)]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(replace(self, axis=order[self.axis]), (0,), (order,) * len(self.sizes))
