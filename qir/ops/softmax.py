"""Softmax, and the exponentials that it is made of, with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from qir.numbers.interval import Interval
from qir.numbers.reach import Reach, with_zero
from qir.numbers.reciprocal import quotient
from qir.ops.attributes import by_type
from qir.ops.elementwise import result_code
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, turned_axes
from qir.ops.rules import Coded, FixedCode
from qir.ops.traits import Carried, Depth, Formed, carried_by_broadcasting
from qir.ops.type_rules import broadcast, check_axes, rescaled, same_float
from qir.types import Affine, Array, DType, TensorType, known

SOFTMAX_CODE = Affine.of(DType.I8, 1 / 256, -128)
EXPONENTIAL_CODE = Affine.of(DType.U8, float(np.float32(1 / 255)), 0)

LOW_STEPS = 254
"""Steps of the low part of an exponential in one of the high part's: 127 to either side."""

LOW_CODE = Affine.of(DType.I8, float(np.float32(1 / (255 * LOW_STEPS))), 0, bounds=(-127, 127))

MaskedRows: TypeAlias = Literal["uniform", "unmasked", "nan"]
"""What a row whose mask keeps nothing is: equal numbers, as if it had no mask, or no numbers."""


@dataclass(frozen=True)
class Exponentials(Op):
    """Base of the ops that take exp(x - max x) over axes.

    Operands: x; optionally a mask of bools that broadcasts against x, true where x counts; on codes
    then the table of exponentials, [256] for x of at most 8 bits, or one entry for each number
    within the bounds of x of 9 to 16.

    Attributes:
        axis: The axis, or several, counted from 0.
        masked_rows: What a row is whose mask keeps nothing: one of equal numbers, which masking by
            a number so large that it swallows x gives; as if it had no mask, which masking by a
            number that is added gives; or NaN, which masking by -inf gives, on codes, which hold no
            NaN, equal numbers.
    """

    axis: int | tuple[int, ...]
    masked_rows: MaskedRows = "uniform"
    to: Affine | None = by_type(result_code, None)

    table_type: ClassVar[DType] = DType.I32
    counts_to: ClassVar[float] = 16.0
    """How far below a row's greatest number another one counts: exp(-16) is 1e-7 of it."""

    def check(self) -> None:
        if isinstance(self.axis, tuple):
            if not self.axis:
                raise self.error("expected at least one axis, got []")
            check_axes(self, self.axis)
            if len(self.axis) == 1:
                # One axis has one form, so that ops that mean the same are equal.
                object.__setattr__(self, "axis", self.axis[0])

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes, in rising order."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    def result(
        self, x: TensorType, mask: TensorType | None = None, table: TensorType | None = None
    ) -> TensorType:
        # On codes the table comes last, with or without a mask.
        if table is None and mask is not None and mask.element is not DType.BOOL:
            mask, table = None, mask
        if self.axes[0] < 0 or self.axes[-1] >= x.rank:
            got = self.axis if isinstance(self.axis, int) else list(self.axis)
            raise self.error(f"expected an axis below {x.rank}, got {got}")
        if mask is not None:
            if mask.element is not DType.BOOL:
                raise self.error(f"expected a mask of bools, got {mask}")
            if broadcast(self, x, mask) != x.shape:
                raise self.error(f"expected a mask that broadcasts against {x}, got {mask}")
        elif self.masked_rows != "uniform":
            raise self.error("expected masked_rows with a mask only")
        if self.to is None:
            if table is not None:
                raise self.error("a table goes with coded operands only")
            return TensorType(x.shape, same_float(self, x))
        entries = self.entries(x)
        if table is None or table.shape != (entries,) or table.element is not self.table_type:
            raise self.error(
                f"expected a table of exponentials, {self.table_type.value}[{entries}], got {table}"
            )
        if not self.count(x):
            raise self.error(f"expected at least one number along axis {self.axis}, got {x}")
        return TensorType(x.shape, rescaled(self, self.to))

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        operands = [x for x in operands if x.rank == results[0].rank]
        return [
            each
            for each in carried_by_broadcasting(operands, results)
            if each.becomes not in self.axes
        ]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        # A mask has a rank and a shape of its own.
        if any(operand.dtype is DType.BOOL for operand in operands[1:]):
            return None
        return Turned(replace(self, axis=turned_axes(self.axes, order)), (0,), (order,))

    def depth(self) -> Depth:
        return Depth(self.axes, self.counts_to)

    def entries(self, x: TensorType) -> int:
        """Returns the size of the table: one entry for each step below the greatest.

        Raises:
            QirError: The operand is not coded per tensor, or in more than 16 bits.
        """
        code = x.quant
        if not isinstance(code, Affine) or not code.per_tensor:
            raise self.error(f"expected an operand coded per tensor, got {x}")
        if code.storage.bits <= 8:
            return 256
        low, high = code.range
        if code.storage.bits > 16:
            raise self.error(f"expected an operand of at most 16 bits, got {x}")
        return high - low + 1

    def count(self, x: TensorType) -> int:
        """Returns how many numbers a row has; raises QirError where a dimension is named."""
        return prod(known(x.shape[axis], self.name) for axis in self.axes)

    def kept(self, x: Array, mask: Array | None) -> tuple[Array, Array | None]:
        """Returns x and the mask such that every row of the mask keeps something, or is to be NaN.

        Args:
            x: Numbers; equal ones take the place of a uniform row that the mask leaves empty.
            mask: Bools that broadcast against x, or None.
        """
        if mask is None:
            return x, None
        whole = np.broadcast_to(mask, x.shape)
        if self.masked_rows == "nan" and np.issubdtype(x.dtype, np.inexact):
            return x, whole
        some = whole.any(axis=self.axes, keepdims=True)
        if self.masked_rows != "unmasked":
            x = np.where(some, x, np.zeros((), x.dtype))
        return x, whole | ~some

    def powers(self, x: Array, mask: Array | None = None) -> Array:
        """Returns exp(x - max x) in the precision of x, 0 where the mask drops it."""
        x, mask = self.kept(x, mask)
        shown = x if mask is None else np.where(mask, x, np.asarray(-np.inf, x.dtype))
        with np.errstate(invalid="ignore"):
            return np.asarray(
                np.exp(shown - shown.max(axis=self.axes, keepdims=True, initial=-np.inf))
            )

    def looked_up(self, operands: Sequence[Coded]) -> Array:
        """Returns the table's exponentials of the steps below the greatest of each row, int64."""
        x, *masks, table = operands
        stored, mask = self.kept(
            x.stored.astype(np.int64), masks[0].stored.astype(bool) if masks else None
        )
        shown = stored if mask is None else np.where(mask, stored, np.iinfo(np.int64).min)
        # What is dropped may lie above the greatest that is kept.
        below = np.maximum(shown.max(axis=self.axes, keepdims=True) - stored, 0)
        powers = table.stored.astype(np.int64)[below]
        return powers if mask is None else np.where(mask, powers, 0)

    def below(self, x: TensorType) -> Array:
        """Returns exp(-d * scale) for each step d that the table has, float64."""
        count = self.entries(x)
        assert x.quant is not None
        return np.asarray(np.exp(-float(x.quant.scale.array) * np.arange(count)))


@op("softmax")
class Softmax(Exponentials):
    """exp(x) / sum of exp(x) along axes, over the numbers that an optional mask keeps.

    On codes, with the operand `table` [256] of exponentials E[d] = rint(2^k * exp(-scale * d)),
    i32, built by `softmax_table`: d = max - q, S = sum of E[d] over what is kept. A result i8 with
    scale 1/256 and zero point -128 is (256 * E[d] + S // 2) // S - 128, at most 127; any other code
    takes E[d] / S by the reciprocal of S with one rounding, see `qir.numbers.reciprocal`. All of it
    fits int32 by the choice of k.
    """

    # Shares of at most a half lose a bit and more at 1/256.
    quant = FixedCode(SOFTMAX_CODE, least_peak=0.5)

    def interval(
        self, x: Interval, mask: Interval | None = None, table: Interval | None = None
    ) -> Interval:
        return Interval.of(0, 1)

    def evaluate(self, x: Array, mask: Array | None = None, table: Array | None = None) -> Array:
        powers = self.powers(x, mask)
        return np.asarray(powers / powers.sum(axis=self.axes, keepdims=True))

    def integer_tables(self, operands: Sequence[TensorType]) -> dict[str, Array]:
        x = operands[0]
        return {"table": _powers_of_two_times(self.below(x), self.count(x))}

    @property
    def has_default_code(self) -> bool:
        """Whether the result's steps are 256ths, which an integer division gives directly."""
        return self.to is not None and replace(self.to, expressed=DType.F32) == SOFTMAX_CODE

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        powers = self.looked_up(operands)
        total = powers.sum(axis=self.axes, keepdims=True)
        if self.has_default_code:
            return np.asarray(np.minimum((powers * 256 + total // 2) // total - 128, 127))
        code = result.affine
        shares = quotient(powers, total, 1.0, float(code.scale.array))
        return np.clip(shares + int(code.zero_points), *code.range)

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
        low, high = with_zero(steps[-1])
        count = self.count(operands[0])
        doubled = 256 * high + count * high // 2 if self.has_default_code else 0
        return Formed(count * low, max(count * high, doubled))


@op("exp_below_max")
class ExpBelowMax(Exponentials):
    """exp(x - max x) over axes, 0 where an optional mask drops x: softmax before its division.

    On codes, with the operand `table` [256] of exponentials rint(255 * exp(-scale * d)), u8: the
    entry at d = max - q. The result is u8 with scale 1/255 and zero point 0, so that the greatest
    number of each row is 255 and its sum is at least that.
    """

    quant = FixedCode(EXPONENTIAL_CODE)
    code: ClassVar[Affine] = EXPONENTIAL_CODE
    table_type = DType.U8
    # In u8, all that is below ln(510) = 6.2 is 0; 10 leaves what stays float 5e-5.
    counts_to = 10.0

    def result(
        self, x: TensorType, mask: TensorType | None = None, table: TensorType | None = None
    ) -> TensorType:
        if self.to is not None and replace(self.to, expressed=DType.F32) != self.code:
            expected, got = TensorType(x.shape, self.code), TensorType(x.shape, self.to)
            raise self.error(f"expected the result {expected}, got {got}")
        return super().result(x, mask, table)

    def interval(
        self, x: Interval, mask: Interval | None = None, table: Interval | None = None
    ) -> Interval:
        return Interval.of(0, 1)

    def evaluate(self, x: Array, mask: Array | None = None, table: Array | None = None) -> Array:
        return self.part(self.powers(x, mask))

    def part(self, powers: Array) -> Array:
        """Returns the part of exponentials that the op gives, in their precision."""
        return powers

    def integer_tables(self, operands: Sequence[TensorType]) -> dict[str, Array]:
        return {"table": np.rint(255 * self.below(operands[0])).astype(np.uint8)}

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        return self.looked_up(operands)

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
        return Formed(*steps[-1])


@op("exp_below_max_high")
class ExpBelowMaxHigh(ExpBelowMax):
    """rint(255 * exp(x - max x)) / 255: `exp_below_max` in the steps of its code, also in float.

    The low part is the rest. Over long rows that few numbers carry, much of the sum is made of
    exponentials below half a step, which 8 bits lose; both parts together have 16. The integers of
    the high part are those of `exp_below_max`.
    """

    counts_to = 16.0

    def part(self, powers: Array) -> Array:
        return np.asarray(np.rint(255 * powers) / 255)


@op("exp_below_max_low")
class ExpBelowMaxLow(ExpBelowMax):
    """exp(x - max x) less its high part, `exp_below_max_high`: within half a 255th of 0.

    On codes, with the operand `table` of rint(255 * 254 * (e - rint(255 * e) / 255)), i8, for e the
    exponentials. The result is i8 with scale 1/(255 * 254), bounds [-127, 127] and zero point 0.
    """

    quant = FixedCode(LOW_CODE)
    code = LOW_CODE
    table_type = DType.I8
    counts_to = 16.0

    def interval(
        self, x: Interval, mask: Interval | None = None, table: Interval | None = None
    ) -> Interval:
        return Interval.of(-1 / 510, 1 / 510)

    def part(self, powers: Array) -> Array:
        return np.asarray(powers - np.rint(255 * powers) / 255)

    def integer_tables(self, operands: Sequence[TensorType]) -> dict[str, Array]:
        fine = 255 * self.below(operands[0])
        return {"table": np.rint(LOW_STEPS * (fine - np.rint(fine))).astype(np.int8)}


def softmax_table(scale: float, count: int) -> Array:
    """Returns the exponentials that softmax looks up, rint(2^k * exp(-scale * d)) for d = 0 … 255.

    Args:
        scale: Scale of the operand's code.
        count: Numbers along the axes; k = min(22, 30 - ceil(log2(count))) keeps their sum below
            2^30.

    Returns:
        An int32 array of shape (256,).
    """
    return _powers_of_two_times(np.exp(-scale * np.arange(256)), count)


def _powers_of_two_times(below: Array, count: int) -> Array:
    k = min(22, 30 - int(np.ceil(np.log2(count))))
    return np.asarray(np.rint(2.0**k * below).astype(np.int32))
