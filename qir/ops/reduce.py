"""Reductions over whole axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.attributes import by_type
from qir.fixed_point import ROUNDINGS
from qir.interval import Interval
from qir.op import Coded, Op, Rescale, op
from qir.ops.elementwise import result_code
from qir.ops.type_rules import rescaled, same_float
from qir.types import Array, Quant, TensorType, known


@op("mean")
class Mean(Op):
    """The mean over axes; on codes one exact sum and one rounding, in mode fixed31.

    Attributes:
        axes: The axes, counted from 0, increasing.
        keep_axes: Whether the axes stay with size 1.
    """

    axes: tuple[int, ...]
    keep_axes: bool = False
    to: Quant | None = by_type(result_code, None)

    quant = Rescale()

    def check(self) -> None:
        if not self.axes or list(self.axes) != sorted(set(self.axes)) or self.axes[0] < 0:
            raise self.error(f"expected increasing axes counted from 0, got {list(self.axes)}")

    def count(self, x: TensorType) -> int:
        """Returns how many numbers each mean is over; raises QirError for a named dimension."""
        return int(np.prod([known(x.shape[axis], f"mean over axis {axis}") for axis in self.axes]))

    def result(self, x: TensorType) -> TensorType:
        if self.axes[-1] >= x.rank:
            raise self.error(f"expected axes below {x.rank}, got {list(self.axes)}")
        if not self.count(x):
            raise self.error(f"expected at least one number to average, got {x}")
        kept = ((axis, size) for axis, size in enumerate(x.shape) if self.keep_axes or axis not in self.axes)
        shape = tuple(1 if axis in self.axes else size for axis, size in kept)
        return TensorType(shape, same_float(self, x) if self.to is None else rescaled(self, self.to, x))

    def interval(self, x: Interval) -> Interval:
        return x.hull()

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x.mean(axis=self.axes, keepdims=self.keep_axes, dtype=x.dtype))

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        code = Coded(np.zeros(()), result).code
        sums = x.steps.sum(axis=self.axes, keepdims=self.keep_axes)
        scale = code.scale.array.astype(np.float64) * self.count(x.type)
        multiplier = ROUNDINGS["fixed31"].multipliers(x.code.scale.array, scale)
        return ROUNDINGS["fixed31"].requantize(np.asarray(sums), multiplier, code.zero_points, *code.range)
