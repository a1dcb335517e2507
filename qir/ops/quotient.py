"""Quotients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.numbers.interval import EVERYTHING, Interval
from qir.numbers.reach import Reach
from qir.numbers.reciprocal import quotient
from qir.ops.attributes import by_type
from qir.ops.elementwise import result_code
from qir.ops.op import Op, op
from qir.ops.rules import Coded, Quotient
from qir.ops.traits import Edge, Formed, Linear
from qir.ops.type_rules import broadcast, same_float
from qir.types import Affine, Array, DType, TensorType, expand


@op("div")
class Div(Op):
    """x / y, with broadcasting; on codes with one rounding.

    On codes, `clamp(round((qx - zx) / (qy - zy) * sx / (sy * s)) + z)` by an integer reciprocal of
    each divisor, see `qir.numbers.reciprocal`. Either operand has at most 16 bits or is an exact
    sum in i32; the dividend's scale may vary, the divisor's does not. The result has up to 16 bits,
    or 32 with bounds. No quotient is infinite: a divisor of no step divides as the step next to it
    does, 1, or -1 where its code has no positive step.

    Attributes:
        to: The code of the result; None for plain numbers.
    """

    to: Affine | None = by_type(result_code, None)

    quant = Quotient()
    elementwise = True
    edge = Edge(operand=1, both=True, divides=True)

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        shape = broadcast(self, x, y)
        if self.to is None:
            element = same_float(self, x, y)
            if not element.is_float:
                raise self.error(f"expected floating-point numbers, got {x} and {y}")
            return TensorType(shape, element)
        self._dividend(x)
        self.divisor_steps(y)
        if not self.to.per_tensor or not self._holds(self.to):
            raise self.error(
                "expected a result coded per tensor in at most 16 bits, or in i32 with bounds "
                f"inside [-2^28, 2^28], got {TensorType(shape, self.to)}"
            )
        return TensorType(shape, self.to)

    @staticmethod
    def _holds(code: Affine) -> bool:
        narrow = code.storage is DType.I32 and max(map(abs, code.range)) <= 2**28
        return code.storage.bits <= 16 or narrow

    def _dividend(self, x: TensorType) -> Affine:
        code = x.quant
        small = code is not None and code.storage.bits <= 16 and code.per_tensor
        if not isinstance(code, Affine) or not (small or code.storage is DType.I32):
            raise self.error(
                f"expected a dividend coded per tensor in at most 16 bits, or in i32, got {x}"
            )
        return code

    def divisor_steps(self, y: TensorType) -> tuple[int, int]:
        """Returns the least and the greatest step of a divisor's code.

        Raises:
            QirError: It has no code that divides.
        """
        code = y.quant
        fits = code is not None and (code.storage.bits <= 16 or code.storage is DType.I32)
        if not isinstance(code, Affine) or not fits or not code.per_tensor:
            raise self.error(
                f"expected a divisor coded per tensor, in at most 16 bits or in i32, got {y}"
            )
        low, high = code.range
        return low - int(code.zero_points), high - int(code.zero_points)

    def never_zero(self, y: TensorType) -> int:
        """Returns what a divisor of no step counts as."""
        return 1 if self.divisor_steps(y)[1] > 0 else -1

    def scales(self, x: TensorType, y: TensorType) -> tuple[Array, Array]:
        """Returns the scale of the quotient of steps and the result's, float64 and 0-d.

        A dividend's scale that varies has the rank of the result.
        """
        assert self.to is not None
        dividend = self._dividend(x).scale.array.astype(np.float64)
        if dividend.ndim:
            rank = len(broadcast(self, x, y))
            dividend = dividend.reshape((1,) * (rank - dividend.ndim) + dividend.shape)
        assert y.quant is not None
        # Each is at most a product of two float32 scales; one of three is a rounded float64.
        return dividend / float(y.quant.scale.array), self.to.scale.array.astype(np.float64)

    def interval(self, x: Interval, y: Interval) -> Interval:
        if np.any((y.lo <= 0) & (y.hi >= 0)):
            return EVERYTHING
        return x * Interval.of(1 / y.hi, 1 / y.lo)

    def evaluate(self, x: Array, y: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(x / y)

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        x, y = operands
        code = result.affine
        numerator, denominator = self.scales(x.type, y.type)
        if numerator.ndim:
            # A scale of a block of more than one number is stretched over it.
            shape = (1,) * (len(result.shape) - x.stored.ndim) + x.stored.shape
            numerator = expand(numerator, shape)
        divisor = np.where(y.steps == 0, self.never_zero(y.type), y.steps)
        found = quotient(x.steps, divisor, numerator, denominator)
        return np.clip(found + int(code.zero_points), *code.range)

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
        # A negative divisor turns the sign of either; one of no step counts as 1.
        largest = max(1, *(abs(bound) for reach in steps for bound in reach))
        return Formed(-largest, largest)

    def linear(self, constants: Sequence[Array | None]) -> Linear | None:
        x, y = constants
        if x is not None or y is None or not np.all(y != 0):
            return None
        return Linear(0, 1 / y, np.zeros(()))
