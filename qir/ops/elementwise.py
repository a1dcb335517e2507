"""Elementwise arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qir.errors import QirError
from qir.numbers.affine_map import AffineMap
from qir.numbers.common_shift import common_shift_multipliers
from qir.numbers.int32 import INT32_MAX, rounding_shift
from qir.numbers.interval import EVERYTHING, Interval
from qir.numbers.long_sums import LONG_MAX
from qir.numbers.reach import Reach, corners
from qir.numbers.rounding import Multiplier, rounding_mode
from qir.ops.attributes import by_type
from qir.ops.op import Op, op
from qir.ops.rules import Coded, ExactSum, Rescale, Table
from qir.ops.sums import exact_code
from qir.ops.traits import Edge, Formed, Inward, Linear, Maps, Outward, lone_operand
from qir.ops.type_rules import broadcast, rescaled, same_float
from qir.types import Affine, Array, DType, TensorType


def result_code(result: TensorType) -> Affine | None:
    """Reads the code that an op of rule Rescale or FixedCode gives its result."""
    return None if result.quant is None else result.affine


@dataclass(frozen=True)
class Sum(Op):
    """Base of add and sub: a signed sum of two operands, which broadcast.

    With codes: `clamp(round(((qx - zx) * Mx ± (qy - zy) * My) / 2^s) + z)`, an exact sum in i32 and
    one rounding for both operands; where a code has more than 8 bits, a sum of 48 bits that is
    rounded half up. Where the result is coded in i32, with bounds, the operands are
    as well and all three have one scale: `clamp(qx ± qy)`, with no rounding at all.

    Attributes:
        to: The code of the result; None for plain numbers.
        rounding: The rounding mode that divides by 2^s; fixed31 rounds half toward +infinity.
        multipliers: Mx and My, at least 0, written out by pass lower-requantize; left out, what
            `qir.numbers.common_shift` makes of the scales.
        shift: s, in [1, 30], which goes with the multipliers.
    """

    to: Affine | None = by_type(result_code, None)
    rounding: str = "fixed31"
    multipliers: tuple[int, int] | None = None
    shift: int | None = None

    quant = Rescale()
    elementwise = True
    sign = 1

    def check(self) -> None:
        try:
            rounding_mode(self.rounding)
        except QirError as error:
            raise self.error(error.message) from None
        if (self.multipliers is None) != (self.shift is None):
            raise self.error("expected multipliers together with a shift")
        if self.to is None and (self.shift is not None or not self.rounds_half_up):
            raise self.error("expected no rounding, multipliers or shift without codes")
        if self.multipliers is not None and not all(0 <= m <= INT32_MAX for m in self.multipliers):
            raise self.error(f"expected multipliers in [0, 2^31), got {list(self.multipliers)}")
        if self.shift is not None and not 1 <= self.shift <= 30:
            raise self.error(f"expected a shift in [1, 30], got {self.shift}")

    @property
    def written_range(self) -> Interval | None:
        """All that the result can be where multipliers are written: they may be of any scales."""
        if self.multipliers is None or self.to is None:
            return None
        scale, point = float(self.to.scale.array), int(self.to.zero_points)
        return Interval.of(*((bound - point) * scale for bound in self.to.range))

    @property
    def is_exact(self) -> bool:
        """Whether the sum is one of i32 codes with one scale, which is not rounded."""
        return self.to is not None and self.to.storage is DType.I32

    @property
    def rounds_half_up(self) -> bool:
        """Whether the rounding is to add 2^(s-1) and to shift, which i32 holds."""
        return self.rounding == "fixed31"

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        shape = broadcast(self, x, y)
        if self.to is None:
            return TensorType(shape, same_float(self, x, y))
        if self.is_exact:
            return TensorType(shape, self._common_code(self.to, x, y))
        result = TensorType(shape, rescaled(self, self.to, x, y))
        if self.is_long(x, y) and not self.rounds_half_up:
            raise self.error(
                f"expected the rounding fixed31 of a sum of more than 8 bits, got {self.rounding}"
            )
        _, shift = self.factors(x, y)
        if self.shift_multiplier(shift) is None:
            raise self.error(
                f"expected a rounding that can divide by 2^{shift}, got {self.rounding}"
            )
        return result

    def _common_code(self, to: Affine, *operands: TensorType) -> Affine:
        """Checks that operands and result of an exact sum are i32 codes of one scale."""
        codes = [operand.quant for operand in operands]
        if not all(
            code is not None
            and code.storage is DType.I32
            and code.per_tensor
            and code.scale == to.scale
            for code in codes
        ):
            raise self.error(
                f"expected operands coded in i32 with the scale of the result, {to.scale!r}, got "
                + " and ".join(map(str, operands))
                + "; requantize them to it first"
            )
        if not self.rounds_half_up or self.multipliers is not None:
            raise self.error("expected no rounding and no multipliers of a sum of one scale")
        reach = sum(max(-code.range[0], code.range[1]) for code in codes if code is not None)
        if reach > INT32_MAX:
            raise self.error(
                f"expected operands whose bounds keep their sum in 32 bits, got {reach}"
            )
        return to

    def factors(self, x: TensorType, y: TensorType) -> tuple[tuple[int, int], int]:
        """Returns what the operands are multiplied by, the sign of a difference included, and s.

        Raises:
            QirError: The multipliers written out could make i32 overflow, or none serve the scales.
        """
        assert self.to is not None
        codes = [x.affine, y.affine]
        reach = [max(abs(bound - int(code.zero_points)) for bound in code.range) for code in codes]
        if self.multipliers is None or self.shift is None:
            scales = [float(code.scale.array) for code in codes]
            most = LONG_MAX if self.is_long(x, y) else INT32_MAX
            made = common_shift_multipliers(scales, float(self.to.scale.array), reach, most)
            (mx, my), shift = made
        else:
            (mx, my), shift = self.multipliers, self.shift
            greatest = reach[0] * mx + reach[1] * my + 2 ** (shift - 1)
            most = LONG_MAX if self.is_long(x, y) else INT32_MAX
            if greatest > most:
                raise self.error(
                    f"expected multipliers that keep sums of {x} and {y} in "
                    f"{most.bit_length() + 1} bits, got "
                    f"{list(self.multipliers)} with shift {shift}, which reach {greatest}"
                )
        return (mx, self.sign * my), shift

    def is_long(self, *operands: TensorType) -> bool:
        """Whether a code of operands or result has more than 8 bits, so that the sum has 48."""
        codes = (self.to, *(operand.quant for operand in operands))
        return not self.is_exact and any(
            code is not None and code.storage.bits > 8 for code in codes
        )

    def shift_multiplier(self, shift: int) -> Multiplier | None:
        """Returns the rounding mode's multiplier for 1 / 2^shift; None where it has none."""
        mode = rounding_mode(self.rounding)
        try:
            found = mode.multipliers(1.0, 2.0**shift)
        except QirError:
            return None
        return found if mode.rounded(np.asarray(2**shift), found) == 1 else None

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        x, y = operands
        code = result.affine
        if self.is_exact:
            return np.asarray(np.clip(x.steps + self.sign * y.steps, *code.range))
        (mx, my), shift = self.factors(x.type, y.type)
        if self.is_long(x.type, y.type):
            rounded = rounding_shift(x.steps * mx + y.steps * my, shift)
            return np.clip(rounded + code.zero_points, *code.range)
        multiplier = self.shift_multiplier(shift)
        assert multiplier is not None
        return rounding_mode(self.rounding).requantize(
            x.steps * mx + y.steps * my, multiplier, code.zero_points, *code.range
        )

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
        factors, half = (1, self.sign), 0
        if not self.is_exact:
            factors, shift = self.factors(*operands)
            half = 2 ** (shift - 1)
        x, y = (corners(reach, (by, by)) for reach, by in zip(steps, factors, strict=True))
        return Formed(x[0] + y[0], x[1] + y[1] + half, self.is_long(*operands))

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward]:
        return [Inward(self, (affine, affine.without_offset()))]


@op("add")
class Add(Sum):
    """x + y, with broadcasting; on codes with one rounding."""

    commutes = Maps.ALL

    def swapped(self) -> Add:
        if self.multipliers is None:
            return self
        return replace(self, multipliers=self.multipliers[::-1])

    def linear(self, constants: Sequence[Array | None]) -> Linear | None:
        position, constant = lone_operand(constants)
        return None if constant is None else Linear(position, np.ones(()), constant)

    def affine_outward(
        self,
        maps: Sequence[AffineMap],
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
    ) -> Outward | str:
        x, y = maps
        if x.is_identity != y.is_identity:
            return "only one of the branches is mapped"
        if operands[0] != operands[1]:
            return "an operand is broadcast"
        if x.varies and y.varies and x.axis != y.axis:
            return "the branches vary along different axes"
        factors = np.broadcast_arrays(x.factor, y.factor)
        if not np.array_equal(factors[0], factors[1]):
            return "the branches have different factors"
        axis = x.axis if x.varies else y.axis
        return Outward(self, AffineMap(x.factor, x.offset + y.offset, axis))

    def interval(self, x: Interval, y: Interval) -> Interval:
        return self.written_range or x + y

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.asarray(x + y)


@op("sub")
class Sub(Sum):
    """x - y, with broadcasting; on codes with one rounding."""

    sign = -1

    def linear(self, constants: Sequence[Array | None]) -> Linear | None:
        position, constant = lone_operand(constants)
        if constant is None:
            return None
        sign = np.asarray(-1.0 if position else 1.0)
        return Linear(position, sign, -sign * constant)

    def interval(self, x: Interval, y: Interval) -> Interval:
        return self.written_range or x - y

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.asarray(x - y)


@op("mul")
class Mul(Op):
    """x * y, with broadcasting; on codes the exact product `(qx - zx) * (qy - zy)`.

    Codes have at most 16 bits. The product is in i32, or in i64 where i32 might not hold it.
    """

    quant = ExactSum()
    elementwise = True

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        shape = broadcast(self, x, y)
        if x.quant is None and y.quant is None:
            return TensorType(shape, same_float(self, x, y))
        return TensorType(shape, exact_code(self, x, y, long=True))

    def interval(self, x: Interval, y: Interval) -> Interval:
        return x * y

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.asarray(x * y)

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        x, y = operands
        return x.steps * y.steps

    def swapped(self) -> Mul:
        return self

    def linear(self, constants: Sequence[Array | None]) -> Linear | None:
        position, constant = lone_operand(constants)
        return None if constant is None else Linear(position, constant, np.zeros(()))

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        if affine.shifts:
            return "an offset does not commute with mul"
        return [Inward(self, (affine, None)), Inward(self, (None, affine))]


def _floats(operation: Op, *types: TensorType) -> TensorType:
    shape, element = broadcast(operation, *types), same_float(operation, *types)
    if not element.is_float:
        raise operation.error(
            "expected floating-point numbers, got " + " and ".join(map(str, types))
        )
    return TensorType(shape, element)


@op("pow")
class Pow(Op):
    """x to the power y, with broadcasting; NaN for x < 0 where y is no integer."""

    quant = Table("the power of two codes has no integer meaning")
    elementwise = True
    edge = Edge(both=True, steep=True)

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        return _floats(self, x, y)

    def interval(self, x: Interval, y: Interval) -> Interval:
        low, high = y.bounds
        if low != high and x.bounds[0] <= 0:
            return EVERYTHING
        whole = float(low).is_integer()
        bases = x if whole else x.clip(0, np.inf)
        if low < 0 and np.any((bases.lo <= 0) & (bases.hi >= 0)):
            return EVERYTHING
        with np.errstate(all="ignore"):
            corners = [
                base**power
                for base in (bases.lo, bases.hi, np.clip(0, bases.lo, bases.hi))
                for power in (low, high)
            ]
        return Interval.of(np.minimum.reduce(corners), np.maximum.reduce(corners))

    def evaluate(self, x: Array, y: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(np.power(x, y))
