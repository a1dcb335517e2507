"""The casts between real numbers and codes, between codes, and between plain types."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from qir.errors import QirError, counted
from qir.numbers.interval import EVERYTHING, Interval
from qir.numbers.long_sums import LONG_PLACES
from qir.numbers.quantize_mode import quantize_mode
from qir.numbers.rounding import MachineForm, Multiplier, rounding_mode
from qir.ops.attributes import by_type
from qir.ops.op import Op, op
from qir.ops.rules import Coded, KeepFloat
from qir.types import Affine, Array, Code, DType, Element, FrozenArray, TensorType, expand


def _code(result: TensorType) -> Code:
    if result.quant is None:
        raise QirError(f"cast: expected a result type with a code, got {result}")
    return result.quant


def _affine(result: TensorType) -> Affine:
    return result.affine


def _saturated(x: Interval, code: Code, bounds: tuple[int, int] | None = None) -> Interval:
    sizes = code.step_sizes.astype(np.float64)
    if isinstance(code, Affine):
        # In float64, as the bounds of accumulators of any width are meant.
        low, high = ((bound - code.zero_points) * sizes for bound in bounds or code.range)
    else:
        low, high = (end * sizes for end in code.real_bounds)
    return Interval.of(*(np.clip(bound, low, high) for bound in x.bounds)).hull()


@op("quantize")
class Quantize(Op):
    """Real numbers to stored ones, in a mode of `qir.numbers.quantize_mode`.

    The usual one is `Affine.encode`: one float32 multiplication, ties to even, the zero point added
    after. An import keeps the mode of its source.

    Attributes:
        to: The code, of at most 16 bits.
        rounding: The name of the mode; kinds other than affine, and scales of two levels, which no
            source of another mode has, have `reciprocal` alone, the definition of the code.
    """

    to: Code = by_type(_code)
    rounding: str = "reciprocal"

    quant = KeepFloat("a cast")

    def check(self) -> None:
        quantize_mode(self.rounding)
        if not isinstance(self.to, Affine) and self.rounding != "reciprocal":
            raise self.error(
                f"expected rounding reciprocal for a code of kind {self.to.kind}, got "
                f"{self.rounding}"
            )
        if self.to.multipliers is not None and self.rounding != "reciprocal":
            raise self.error(
                f"expected rounding reciprocal for a scale of two levels, got {self.rounding}; "
                "leave the rounding out"
            )

    def result(self, x: TensorType) -> TensorType:
        if x.element != self.to.expressed:
            raise self.error(f"expected an operand of {self.to.expressed.value}, got {x}")
        if self.to.storage.bits > 16:
            raise self.error(f"expected a code of at most 16 bits, got {self.to.storage.value}")
        return TensorType(x.shape, self.to)

    def interval(self, x: Interval) -> Interval:
        return _saturated(x, self.to)

    def evaluate(self, x: Array) -> Array:
        return x

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return self.encode(x.stored)

    def encode(self, real: Array) -> Array:
        """Returns the stored numbers of real ones."""
        if not isinstance(self.to, Affine):
            return self.to.encode(real)
        return quantize_mode(self.rounding)(real, self.to)


@op("dequantize")
class Dequantize(Op):
    """Stored numbers to real ones, by `Affine.decode`: float32(q - zp) times the float32 scale."""

    quant = KeepFloat("a cast")

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        if x.quant is None:
            raise self.error(f"expected an operand with a code, got {x}")
        return TensorType(x.shape, x.quant.expressed)

    def interval(self, x: Interval) -> Interval:
        return x

    def evaluate(self, x: Array) -> Array:
        return x

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return x.code.decode(x.stored)


@op("requantize")
class Requantize(Op):
    """From one code to another with one rounding, saturating.

    `clamp(round((q - zp) * m) + zp', low, high)` where m is the ratio of the scales and the
    rounding mode says how m becomes an integer and how the product is rounded (see
    `qir.numbers.rounding`).

    Attributes:
        to: The code of the result, of at most 16 bits; or of 32 with bounds, which is how sums of
            different scales become terms of one sum.
        rounding: The name of the rounding mode.
        clamp: Narrower bounds of the stored result, such as those of a fused relu.
        multiplier: What the rounding mode makes of m, written out by pass lower-requantize: a
            scalar, or one for each channel along the axis in which the codes vary.
        shift: The shift that goes with an integer multiplier. For an accumulator in i64 both are
            those of 2^16 times m, which is applied to the accumulator over 2^16.
        agrees: A certificate: rounding modes that give the same integers, each with the multiplier
            that it makes of the scales, for every accumulator that can occur. Pass agree-roundings
            adds it, and the verifier proves it again (`qir.analysis.certificates`).
    """

    to: Affine = by_type(_affine)
    rounding: str = "fixed31"
    clamp: tuple[int, int] | None = None
    multiplier: FrozenArray | None = None
    shift: FrozenArray | None = None
    agrees: tuple[str, ...] = ()

    quant = KeepFloat("a cast")

    def check(self) -> None:
        low, high = self.to.range
        try:
            mode, *_ = map(rounding_mode, (self.rounding, *self.agrees))
        except QirError as error:
            raise self.error(error.message) from None
        if self.rounding in self.agrees or len(set(self.agrees)) < len(self.agrees):
            raise self.error(
                f"expected agrees to name roundings other than {self.rounding}, each once, got "
                f"{list(self.agrees)}"
            )
        if self.clamp is not None:
            if not low <= self.clamp[0] <= self.clamp[1] <= high:
                raise self.error(f"expected a clamp inside [{low}, {high}], got {list(self.clamp)}")
            if self.clamp == self.to.range:
                object.__setattr__(self, "clamp", None)
        if (self.shift is not None) != (self.multiplier is not None and mode.has_shift):
            raise self.error("expected an integer multiplier together with a shift")
        for name, array, kind in (
            ("multiplier", self.multiplier, mode.multiplier_type),
            ("shift", self.shift, np.int32),
        ):
            if array is not None and array.array.dtype != kind:
                with np.errstate(invalid="ignore", over="ignore"):
                    narrow = FrozenArray(array.array, kind)
                if kind is np.int32 and not np.array_equal(narrow.array, array.array):
                    raise self.error(f"expected integers of 32 bits in {name}, got {array!r}")
                object.__setattr__(self, name, narrow)

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest stored number of the result."""
        return self.clamp or self.to.range

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, x: TensorType) -> TensorType:
        if x.quant is None:
            raise self.error(f"expected an operand with a code, got {x}")
        if x.quant.step_bounds is None:
            raise self.error(f"{x}: {x.quant.without_steps}")
        bounded = self.to.storage is DType.I32 and self.to.bounds is not None
        if (self.to.storage.bits > 16 and not bounded) or self.to.multipliers is not None:
            raise self.error(
                "expected an affine code of at most 16 bits, or one of i32 with bounds, got "
                f"{self.to.storage.value}"
            )
        if self.to.expressed != x.quant.expressed:
            raise self.error(
                f"expected a code that stands for {x.quant.expressed.value}, got "
                f"{self.to.expressed.value}"
            )
        self.factors(x)
        return TensorType(x.shape, self.to)

    def factors(self, x: TensorType) -> Multiplier:
        """Returns the multiplier written out, or that of the scales; a scalar or of x's rank.

        Raises:
            QirError: The ratio of the scales is out of the rounding mode's reach, or what is
                written out is not a multiplier of that mode.
        """
        mode = rounding_mode(self.rounding)
        code = _code(x)
        if is_long(x) and not mode.takes_long:
            raise self.error(f"rounding {self.rounding}: {mode.refuses_long}")
        if self.multiplier is None:
            places = LONG_PLACES if is_long(x) else 0
            return mode.multipliers(code.scale.array * 2.0**places, self.to.scale.array)
        axis = code.axis if code.axis is not None else self.to.axis
        value, shift = (
            self.multiplier.array,
            np.zeros((), np.int32) if self.shift is None else self.shift.array,
        )
        if shift.shape not in ((), value.shape):
            raise self.error(
                f"expected one shift, or one for each of {counted(value.size, 'multiplier')}, got "
                f"{list(shift.shape)}"
            )
        if value.ndim:
            if axis is None or value.shape != (x.shape[axis],):
                raise self.error(
                    f"expected one multiplier, or one for each channel of {x}, got {value.size}"
                )
            along = tuple(-1 if place == axis else 1 for place in range(x.rank))
            value, shift = value.reshape(along), shift.reshape(along) if shift.ndim else shift
        multiplier = Multiplier(value, np.broadcast_to(shift, value.shape))
        mode.check(multiplier)
        return multiplier

    def machine_forms(self, x: TensorType) -> tuple[tuple[str, MachineForm], ...]:
        """Returns what a backend may compute to give the op's integers.

        The machine form of the op's own rounding mode, where it has one, and then those of the
        modes of its certificate, each with the multiplier that it makes of the scales.

        Args:
            x: The type of the operand.

        Returns:
            Names of modes with forms, whose arrays are scalars or of x's rank.
        """
        return _machine_forms(self, x)

    def interval(self, x: Interval) -> Interval:
        return _saturated(x, self.to, self.bounds)

    def evaluate(self, x: Array) -> Array:
        return x

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        shape = x.stored.shape
        found = self.factors(x.type)
        factors = Multiplier(expand(found.value, shape), expand(found.shift, shape))
        points = expand(self.to.zero_points, shape)
        mode = rounding_mode(self.rounding)
        if is_long(x.type):
            rounded = mode.apply_long(x.stored, factors)
            return np.clip(rounded + points.astype(np.int64), *self.bounds)
        return mode.requantize(x.steps, factors, points, *self.bounds)


def is_long(x: TensorType) -> bool:
    """Whether a tensor holds accumulators in i64; see `qir.numbers.long_sums`."""
    return x.quant is not None and x.dtype is DType.I64


@lru_cache(maxsize=256)
def _machine_forms(op: Requantize, x: TensorType) -> tuple[tuple[str, MachineForm], ...]:
    scales = _code(x).scale.array, op.to.scale.array
    factors = {op.rounding: op.factors(x)}
    factors |= {name: rounding_mode(name).multipliers(*scales) for name in op.agrees}
    forms = []
    for name, multiplier in factors.items():
        form = rounding_mode(name).machine_form(multiplier, op.to.zero_points, *op.bounds)
        if form is None:
            continue
        if not isinstance(form, MachineForm):
            raise QirError(
                f"rounding {name}: expected machine_form to return Scaled, Float32, Thresholds or "
                f"None, got {form!r}"
            )
        forms.append((name, form))
    return tuple(forms)


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
        return _saturated(EVERYTHING, self.to)

    def evaluate(self, x: Array) -> Array:
        return x

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return x.stored.astype(np.int64) + self.offset(x.type)


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
