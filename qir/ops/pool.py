"""Pooling over sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from qir.errors import QirError, counted
from qir.numbers.affine_map import AffineMap
from qir.numbers.interval import Interval
from qir.numbers.rounding import Multiplier, rounding_mode
from qir.ops.attributes import all_ones, all_zeros, by_type, left_out
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, keeps_ends, turned_spatial
from qir.ops.rules import Coded, ExactSum, SameCode
from qir.ops.sums import exact_code
from qir.ops.traits import Carried, Inward, Maps, Moves, Outward, carried_in_place
from qir.ops.type_rules import rescaled, same_real, small_codes
from qir.ops.windows import (
    Padding,
    Pads,
    check_spatial,
    pad_spatial,
    pads,
    per_dimension,
    sliding,
    windowed,
)
from qir.types import Affine, Array, DType, Size, TensorType


@dataclass(frozen=True)
class Pool(Op):
    """Base of the pools: windows over the spatial dimensions of a channels-last tensor.

    Attributes:
        window: Size of the window in each spatial dimension.
        strides: Step of the window in each spatial dimension; left out, 1.
        padding: `valid`, `same`, or (before, after) for each spatial dimension, each less than the
            window.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...] = left_out((), all_ones)
    padding: Padding = left_out("valid", all_zeros)

    def check(self) -> None:
        if any(value < 1 for value in (*self.window, *self.strides)):
            raise self.error("expected windows and strides of at least 1")
        for name, values in (("strides", self.strides), ("padding", self.padding)):
            if not isinstance(values, str) and len(values) not in (0, len(self.window)):
                raise self.error(
                    f"expected {counted(len(self.window), 'entry')} in {name}, got {len(values)}"
                )
        if not isinstance(self.padding, str):
            for size, (before, after) in zip(self.window, self.padding, strict=False):
                if not (0 <= before < size and 0 <= after < size):
                    raise self.error(
                        f"expected padding less than the window of {size}, got [{before}, {after}]"
                    )

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place((0, operands[0].rank - 1))

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        if not keeps_ends(order):
            return None
        window, strides = turned_spatial(self.window, order), turned_spatial(self.strides, order)
        padding: Padding = self.padding
        if not isinstance(padding, str):
            padding = turned_spatial(padding, order)
        pool = replace(self, window=window, strides=strides, padding=padding)
        return Turned(pool, (0,), (order,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        same = operands[0].shape == results[0].shape
        return same and all(size == 1 for size in self.window)

    def geometry(self, sizes: Sequence[Size]) -> tuple[tuple[int, ...], Pads]:
        """Returns strides and padding for an input of these spatial sizes."""
        strides = per_dimension(self.strides, len(self.window))
        return strides, pads(sizes, self.window, strides, self.padding)

    def pooled_shape(self, x: TensorType) -> tuple[Size, ...]:
        """Returns the shape of the result; raises QirError where the windows don't fit."""
        check_spatial(self, x, self.window, strides=self.strides, padding=self.padding)
        strides, padding = self.geometry(x.shape[1:-1])
        return (
            x.shape[0],
            *windowed(self, x.shape[1:-1], self.window, strides, padding),
            x.shape[-1],
        )

    def windows(self, x: Array, fill: float) -> Array:
        """Returns all windows, (batch, places…, channels, taps), with padding of one value."""
        strides, padding = self.geometry(x.shape[1:-1])
        view = sliding(pad_spatial(x, padding, fill), self.window, strides, (1,) * len(self.window))
        return view.reshape(*view.shape[: len(self.window) + 2], prod(self.window))


@op("max_pool")
class MaxPool(Pool):
    """The greatest number in each window; padding never wins."""

    quant = SameCode()
    compares = True
    moves = Moves.PICKS
    commutes = Maps.INCREASING

    def result(self, x: TensorType) -> TensorType:
        if x.quant is not None and prod(x.quant.grid[:-1]) != 1:
            raise self.error(f"expected a code per tensor or per channel, got {x}")
        return TensorType(self.pooled_shape(x), x.element)

    def interval(self, x: Interval) -> Interval:
        return x if x.lo.ndim == 0 else x.hull()

    def evaluate(self, x: Array) -> Array:
        least = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.integer) else -np.inf
        return np.asarray(self.windows(x, least).max(axis=-1))


def _own_code(result: TensorType) -> Affine | None:
    """Reads the code that a pool gives its result; None for that of an exact sum."""
    return None if result.dtype is DType.I32 or result.quant is None else result.affine


@op("avg_pool")
class AvgPool(Pool):
    """The mean of each window; on codes the exact i32 sum, whose scale holds the count of taps.

    Where padding does not count, the count varies from place to place and no scale can hold it:
    such a pool has a code of its own and rounds each sum once.

    Attributes:
        count_padding: Whether padding counts as zeros; otherwise the mean is over the taps inside
            the tensor.
        to: The code of a result whose counts vary.
        rounding: The name of the rounding mode of such a result.
    """

    count_padding: bool = False
    to: Affine | None = by_type(_own_code, None)
    rounding: str = "fixed31"

    quant = ExactSum()
    commutes = Maps.ALL

    def check(self) -> None:
        super().check()
        try:
            rounding_mode(self.rounding)
        except QirError as error:
            raise self.error(error.message) from None

    def result(self, x: TensorType) -> TensorType:
        shape = self.pooled_shape(x)
        if self.divisor([x]) is not None:
            if self.to is not None or self.rounding != "fixed31":
                raise self.error(
                    "expected no code and no rounding of its own, as every window has as many "
                    "taps; requantize the i32 sums"
                )
            return TensorType(shape, same_real(self, x) if x.quant is None else exact_code(self, x))
        if x.quant is not None and self.to is None:
            raise self.error(
                "expected a result coded in at most 16 bits, as the number of taps varies from "
                "place to place and no scale of i32 sums holds it"
            )
        if self.to is None:
            return TensorType(shape, same_real(self, x))
        return TensorType(shape, rescaled(self, self.to, x))

    def weight(self, operands: Sequence[TensorType]) -> int:
        return prod(self.window)

    def divisor(self, operands: Sequence[TensorType]) -> int | None:
        _, padding = self.geometry(operands[0].shape[1:-1])
        padded = any(map(any, padding))
        return None if padded and not self.count_padding else prod(self.window)

    def multipliers(self, x: TensorType, counts: Array) -> Multiplier:
        """Returns what the rounding of a result of its own multiplies sums by.

        Args:
            x: The type of the operand.
            counts: Numbers of taps, of any shape.

        Raises:
            QirError: The ratio of the scales is out of the rounding mode's reach.
        """
        (code,) = small_codes(self, x)
        assert self.to is not None
        divided = self.to.scale.array * counts.astype(np.float64)
        return rounding_mode(self.rounding).multipliers(code.scale.array, divided)

    def interval(self, x: Interval) -> Interval:
        hull = x.hull()
        return hull.union(Interval.of(0, 0)) if self.count_padding else hull

    def counts(self, sizes: tuple[int, ...]) -> Array:
        """Returns the number of taps of each mean: (1, places…, 1), or a scalar where all agree."""
        total = int(np.prod(self.window))
        if self.count_padding:
            return np.asarray(total)
        counts = self.windows(np.ones((1, *sizes, 1), np.int64), 0).sum(axis=-1)
        return np.asarray(total) if np.all(counts == total) else counts

    def evaluate(self, x: Array) -> Array:
        sums = self.windows(x, 0).sum(axis=-1, dtype=x.dtype)
        return np.asarray(sums / self.counts(x.shape[1:-1]).astype(x.dtype))

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        sums = self.windows(x.steps, 0).sum(axis=-1)
        if self.to is None:
            return np.asarray(sums)
        multiplier = self.multipliers(x.type, self.counts(x.stored.shape[1:-1]))
        return rounding_mode(self.rounding).requantize(
            sums, multiplier, self.to.zero_points, *self.to.range
        )

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        if affine.shifts and self._adds_zeros(operands[0]):
            return "the padding counts as zeros"
        return super().affine_inward(affine, operands, results)

    def affine_outward(
        self,
        maps: Sequence[AffineMap],
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
    ) -> Outward | str:
        if maps[0].shifts and self._adds_zeros(operands[0]):
            return "the padding counts as zeros"
        return super().affine_outward(maps, operands, results)

    def _adds_zeros(self, x: TensorType) -> bool:
        return self.count_padding and any(map(any, self.geometry(x.shape[1:-1])[1]))
