"""Resampling of the spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, lcm, prod
from typing import Literal

import numpy as np

from qir.numbers.interval import Interval
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, keeps_ends, turned_spatial
from qir.ops.rules import Coded, ExactSum, SameCode
from qir.ops.sums import exact_code
from qir.ops.traits import Carried, Maps, Moves, carried_in_place
from qir.ops.type_rules import same_real, uncoded_axes
from qir.types import Array, Shape, TensorType, known

Coordinates = Literal["half_pixel", "align_corners", "asymmetric"]
Nearest = Literal["round_prefer_ceil", "round_prefer_floor", "floor", "ceil"]


@dataclass(frozen=True)
class Resize(Op):
    """Base of the resizes of channels-last tensors, [batch, spatial…, channels].

    The place o of the result stands for the coordinate of the operand, with r = size of the operand
    / size of the result and clamped to the operand: half_pixel (o + 1/2) * r - 1/2; align_corners o
    * (size of the operand - 1) / (size of the result - 1); asymmetric o * r. Coordinates are exact
    fractions.

    Attributes:
        sizes: Spatial sizes of the result.
        coordinates: How places map to coordinates.
    """

    sizes: tuple[int, ...]
    coordinates: Coordinates = "half_pixel"

    commutes = Maps.ALL

    def check(self) -> None:
        if any(size < 1 for size in self.sizes):
            raise self.error(f"expected sizes of at least 1, got {list(self.sizes)}")

    def resized_shape(self, x: TensorType) -> Shape:
        """Returns the shape of the result; raises QirError where the sizes don't fit x."""
        if x.rank != len(self.sizes) + 2:
            raise self.error(
                f"expected a tensor of rank {len(self.sizes) + 2} (batch, spatial, channels), "
                f"got {x}"
            )
        if 0 in [known(size, self.name) for size in x.shape[1:-1]]:
            raise self.error(f"expected spatial sizes of at least 1, got {x}")
        return (x.shape[0], *self.sizes, x.shape[-1])

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place((0, operands[0].rank - 1))

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        if not keeps_ends(order):
            return None
        return Turned(replace(self, sizes=turned_spatial(self.sizes, order)), (0,), (order,))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return operands[0] == results[0]

    def positions(self, before: int, after: int) -> list[Fraction]:
        """Returns the coordinate of each place of the result along a dimension, unclamped."""
        match self.coordinates:
            case "half_pixel":
                return [
                    (place + Fraction(1, 2)) * Fraction(before, after) - Fraction(1, 2)
                    for place in range(after)
                ]
            case "align_corners":
                return [place * Fraction(before - 1, max(after - 1, 1)) for place in range(after)]
            case "asymmetric":
                return [place * Fraction(before, after) for place in range(after)]

    def interval(self, x: Interval) -> Interval:
        return x.hull()


@op("resize_nearest")
class ResizeNearest(Resize):
    """Each place of the result takes the number at the nearest coordinate; see Resize.

    Attributes:
        nearest: Which place of the operand a coordinate means; halves go up or down in the first
            two.
    """

    nearest: Nearest = "round_prefer_ceil"

    quant = SameCode()
    moves = Moves.PARTS

    def result(self, x: TensorType) -> TensorType:
        shape = self.resized_shape(x)
        uncoded_axes(self, x, range(1, x.rank - 1))
        return TensorType(shape, x.element)

    def places(self, before: int, after: int) -> list[int]:
        """Returns which place of the operand each place of the result takes along a dimension."""
        half = Fraction(1, 2)
        choose = {
            "round_prefer_ceil": lambda at: floor(at + half),
            "round_prefer_floor": lambda at: ceil(at - half),
            "floor": floor,
            "ceil": ceil,
        }[self.nearest]
        return [min(max(choose(at), 0), before - 1) for at in self.positions(before, after)]

    def evaluate(self, x: Array) -> Array:
        for axis, after in enumerate(self.sizes, start=1):
            x = x.take(self.places(x.shape[axis], after), axis=axis)
        return x


@op("resize_linear")
class ResizeLinear(Resize):
    """Each place of the result blends the neighbours of its coordinate; see Resize.

    Linear along every dimension, so bilinear in two. On codes the weights are integers over the
    common denominator of the fractions, and the result is the exact i32 sum, whose scale holds that
    denominator.
    """

    quant = ExactSum()

    def result(self, x: TensorType) -> TensorType:
        shape = self.resized_shape(x)
        if x.quant is not None:
            return TensorType(shape, exact_code(self, x))
        return TensorType(shape, same_real(self, x))

    def taps(self, before: int, after: int) -> tuple[list[int], list[int], list[int], int]:
        """Returns how numbers are blended along a dimension.

        That is (x[lower] * (denominator - weight) + x[upper] * weight) / denominator.

        Returns:
            The lower places, the upper places, the weights of the upper ones, and the denominator.
        """
        clamped = [
            min(max(at, Fraction(0)), Fraction(before - 1)) for at in self.positions(before, after)
        ]
        lower = [floor(at) for at in clamped]
        denominator = lcm(*(at.denominator for at in clamped))
        weights = [
            int((at - place) * denominator) for at, place in zip(clamped, lower, strict=True)
        ]
        return lower, [min(place + 1, before - 1) for place in lower], weights, denominator

    def denominator(self, x: TensorType) -> int:
        """Returns the sum of the integer weights, the product of the dimensions' denominators."""
        sizes = zip(x.shape[1:-1], self.sizes, strict=True)
        return prod(self.taps(known(before, self.name), after)[3] for before, after in sizes)

    def blend(self, x: Array) -> Array:
        """Returns the weighted sums with integer weights, in the precision of x."""
        for axis, after in enumerate(self.sizes, start=1):
            lower, upper, weights, denominator = self.taps(x.shape[axis], after)
            weight = np.reshape(
                weights, [-1 if place == axis else 1 for place in range(x.ndim)]
            ).astype(x.dtype)
            x = (
                x.take(lower, axis=axis) * (denominator - weight)
                + x.take(upper, axis=axis) * weight
            )
        return x

    def evaluate(self, x: Array) -> Array:
        for axis, after in enumerate(self.sizes, start=1):
            lower, upper, weights, denominator = self.taps(x.shape[axis], after)
            share = np.reshape(
                np.divide(weights, denominator),
                [-1 if place == axis else 1 for place in range(x.ndim)],
            )
            first = x.take(lower, axis=axis)
            x = first + (x.take(upper, axis=axis) - first) * share.astype(x.dtype)
        return x

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return self.blend(x.steps)

    def weight(self, operands: Sequence[TensorType]) -> int:
        return self.denominator(operands[0])

    def divisor(self, operands: Sequence[TensorType]) -> int:
        return self.denominator(operands[0])
