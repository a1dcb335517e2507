"""Comparing numbers, and clipping them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.numbers.affine_map import AffineMap
from qir.numbers.interval import Interval
from qir.ops.op import Op, op
from qir.ops.rules import Coded, SameCode, SharedCode
from qir.ops.traits import Inward, Maps, Moves, Outward
from qir.ops.type_rules import affine_or_plain, broadcast, same_element
from qir.types import Array, Code, TensorType


@op("maximum")
class Maximum(Op):
    """The greater of x and y, with broadcasting; NaN where either is. Codes must be equal."""

    quant = SharedCode()
    compares = True
    elementwise = True
    moves = Moves.PICKS

    def swapped(self) -> Maximum:
        return self

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        return TensorType(broadcast(self, x, y), same_element(self, x, y))

    def interval(self, x: Interval, y: Interval) -> Interval:
        return Interval.of(np.maximum(x.lo, y.lo), np.maximum(x.hi, y.hi))

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.maximum(x, y)


@op("minimum")
class Minimum(Op):
    """The lesser of x and y, with broadcasting; NaN where either is. Codes must be equal."""

    quant = SharedCode()
    compares = True
    elementwise = True
    moves = Moves.PICKS

    def swapped(self) -> Minimum:
        return self

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        return TensorType(broadcast(self, x, y), same_element(self, x, y))

    def interval(self, x: Interval, y: Interval) -> Interval:
        return Interval.of(np.minimum(x.lo, y.lo), np.minimum(x.hi, y.hi))

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.minimum(x, y)


@op("relu")
class Relu(Op):
    """max(x, 0); on codes max(q, zero point)."""

    quant = SameCode()
    elementwise = True
    commutes = Maps.FACTORS

    def clip_bounds(self) -> tuple[float, float]:
        return 0.0, np.inf

    def result(self, x: TensorType) -> TensorType:
        return x.with_element(affine_or_plain(self, x))

    def interval(self, x: Interval) -> Interval:
        return x.clip(0, np.inf)

    def evaluate(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return x.stored - x.steps + np.maximum(x.steps, 0)


@op("clip")
class Clip(Op):
    """min(max(x, low), high); on codes the clamp between the codes of the two bounds.

    Attributes:
        low: Lower bound in real units; may be -inf.
        high: Upper bound in real units; may be inf.
    """

    low: float
    high: float

    quant = SameCode()
    compares = True
    elementwise = True
    commutes = Maps.INCREASING

    def check(self) -> None:
        if not self.low <= self.high:
            raise self.error(f"expected low to be at most high, got {self.low} and {self.high}")

    def result(self, x: TensorType) -> TensorType:
        if x.quant is not None:
            self.coded_bounds(x.quant)
        return x

    def interval(self, x: Interval) -> Interval:
        return x.clip(self.low, self.high)

    def evaluate(self, x: Array) -> Array:
        return np.clip(x, np.asarray(self.low, x.dtype), np.asarray(self.high, x.dtype))

    def coded_bounds(self, code: Code) -> tuple[int, int]:
        """Returns the stored numbers of the two bounds; raises QirError for one that varies."""
        if not code.per_tensor or code.storage.bits > 16:
            raise self.error("expected a code per tensor of at most 16 bits; requantize first")
        return int(code.encode(self.low)), int(code.encode(self.high))

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return np.clip(x.stored, *self.coded_bounds(x.code))

    def clip_bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return self.low == -np.inf and self.high == np.inf

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        ways = super().affine_inward(affine, operands, results)
        if isinstance(ways, str) or affine.varies:
            return ways if isinstance(ways, str) else "the bounds of clip would vary"
        factor, offset = float(affine.factor[0]), float(affine.offset[0])
        clip = Clip(self.low * factor + offset, self.high * factor + offset)
        return [Inward(clip, (affine,))]

    def affine_outward(
        self,
        maps: Sequence[AffineMap],
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
    ) -> Outward | str:
        way = super().affine_outward(maps, operands, results)
        (affine,) = maps
        if isinstance(way, str) or affine.varies:
            return way if isinstance(way, str) else "the bounds of clip would vary"
        factor, offset = float(affine.factor[0]), float(affine.offset[0])
        return Outward(Clip((self.low - offset) / factor, (self.high - offset) / factor), affine)
