"""Ops that take, repeat, surround or count places of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import counted
from qir.numbers.interval import Interval
from qir.ops.attributes import all_ones, by_type, left_out
from qir.ops.op import Op, op
from qir.ops.rules import Coded, KeepFloat, SameCode, SharedCode
from qir.ops.type_rules import check_axes, check_axis, uncoded_axes
from qir.types import Array, Code, DType, Shape, Size, TensorType, known


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
        """Surrounds x by a value: a scalar, or an array that broadcasts against the result."""
        sizes = [
            low + size + high for low, size, high in zip(self.low, x.shape, self.high, strict=True)
        ]
        result = np.broadcast_to(value.astype(x.dtype), sizes).copy()
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


@op("reverse")
class Reverse(Op):
    """The operand with some axes turned round.

    Attributes:
        axes: The axes, counted from 0, increasing.
    """

    axes: tuple[int, ...]

    quant = SameCode()

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


@op("tile")
class Tile(Op):
    """The operand repeated as a whole along its axes.

    Attributes:
        repeats: How often along each axis, at least 1.
    """

    repeats: tuple[int, ...]

    quant = SameCode()

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
