"""Casts that round nothing: to another code of the same stored numbers, and of plain types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import QirError
from qir.numbers.interval import EVERYTHING, Interval
from qir.numbers.reach import Reach
from qir.ops.attributes import by_type
from qir.ops.cast import saturated
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, turned_code
from qir.ops.rules import Coded, KeepFloat
from qir.ops.traits import Carried, StoredOperand, carried_in_place
from qir.types import Affine, Array, Code, DType, Element, TensorType


def _element(result: TensorType) -> Element:
    return result.element


@op("recode")
class Recode(Op):
    """The same stored numbers under another code, as plain integers, or these under a code.

    What the numbers mean changes; nothing is rounded and nothing looked up. The storage type stays,
    but for affine codes of i8 and u8 whose zero points differ by 128: there the highest bit of each
    number turns, and (stored - zero point) stays.

    Attributes:
        to: The code, or the plain type, of the result.
    """

    to: Code | DType = by_type(_element)

    quant = KeepFloat("a cast")

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        result = TensorType(x.shape, self.to)
        if not x.dtype.is_integer or not result.dtype.is_integer:
            raise self.error(f"expected integers, got {x} and {result.dtype.value}")
        offset, (low, high) = self.offset(x), _range(self.to)
        least, greatest = (bound + offset for bound in _range(x.element))
        if least < low or greatest > high:
            raise self.error(
                f"expected a result that holds [{least}, {greatest}], got bounds [{low}, {high}]"
            )
        return result

    def offset(self, x: TensorType) -> int:
        """Returns what is added to each stored number: 0, or 128 and -128 between i8 and u8.

        Raises:
            QirError: The storage types differ in another way, or the zero points don't differ so.
        """
        storage = TensorType(x.shape, self.to).dtype
        offset = {(DType.I8, DType.U8): 128, (DType.U8, DType.I8): -128}.get((x.dtype, storage), 0)
        if x.dtype is not storage and not offset:
            raise self.error(f"expected storage of {x.dtype.value}, got {storage.value}")
        if offset and not (
            isinstance(self.to, Affine)
            and isinstance(x.quant, Affine)
            and np.array_equal(self.to.zero_points, x.quant.zero_points + offset)
        ):
            raise self.error(
                f"expected affine codes, and zero points that differ by {offset:+d} from "
                f"{x.dtype.value} to {storage.value}, got {x} and "
                f"{TensorType(x.shape, self.to)}; requantize otherwise"
            )
        return offset

    def interval(self, x: Interval) -> Interval:
        if isinstance(self.to, DType):
            return Interval.of(*self.to.bounds)
        return saturated(EVERYTHING, self.to)

    def evaluate(self, x: Array) -> Array:
        return x

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return x.stored.astype(np.int64) + self.offset(x.type)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place(range(operands[0].rank))

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        to = turned_code(self.to, order) if isinstance(self.to, Code) else self.to
        return Turned(Recode(to), (0,), (order,))

    def stored(self, operands: Sequence[StoredOperand], result: TensorType) -> Reach:
        low, high = operands[0].reach
        offset = self.offset(operands[0].type)
        return low + offset, high + offset


def _range(element: Element) -> tuple[int, int]:
    return element.range if isinstance(element, Code) else element.bounds


def _plain(result: TensorType) -> DType:
    if not isinstance(result.element, DType):
        raise QirError(f"cast: expected a plain result type, got {result}; quantize makes codes")
    return result.element


@op("cast")
class Cast(Op):
    """From one plain type to another, which the result type tells.

    Floating-point numbers go to integers towards 0, saturating, NaN to 0; integers to narrower ones
    modulo 2^bits; integers to floating point to nearest, ties to even; any type to bool as x != 0.
    """

    to: DType = by_type(_plain)

    quant = KeepFloat("a cast between plain types")
    elementwise = True

    def result(self, x: TensorType) -> TensorType:
        if x.quant is not None:
            raise self.error(f"expected plain numbers, got {x}; dequantize it")
        return x.with_element(self.to)

    def interval(self, x: Interval) -> Interval:
        if self.to is DType.BOOL:
            return Interval.of(0, 1)
        if self.to.is_float:
            return x
        low, high = self.to.bounds
        return (
            x.monotone(np.trunc).clip(low, high)
            if low <= x.bounds[0] and x.bounds[1] <= high
            else Interval.of(low, high)
        )

    def evaluate(self, x: Array) -> Array:
        if self.to is DType.BOOL:
            return np.asarray(x != 0)
        if self.to.is_float:
            return x if x.dtype.kind not in "biu" else x.astype(np.float64)
        low, high = self.to.bounds
        if x.dtype.kind in "biu":
            wrapped = (
                (x.astype(np.int64) - low) & (2**self.to.bits - 1)
                if self.to.bits < 64
                else x.astype(np.int64)
            )
            return wrapped + low if self.to.bits < 64 else wrapped
        whole = np.trunc(
            np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        )
        # 2^63 - 1 is no float64, so the upper bound is clamped in integers.
        inside = np.where((whole > low) & (whole < high), whole, 0).astype(np.int64)
        return np.where(whole <= low, low, np.where(whole >= high, high, inside))

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        return operands[0] == results[0]
