"""The casts that round: between real numbers and codes, and between codes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from qir.errors import QirError, counted
from qir.numbers.interval import Interval
from qir.numbers.long_sums import LONG_PLACES
from qir.numbers.quantize_mode import quantize_mode
from qir.numbers.reach import Reach
from qir.numbers.rounding import MachineForm, Multiplier, rounding_mode
from qir.ops.agreement import AgreesWith
from qir.ops.attributes import by_type
from qir.ops.claims import Claim
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, turned_code
from qir.ops.rules import Coded, KeepFloat
from qir.ops.traits import Carried, Formed, StoredOperand, carried_in_place
from qir.types import Affine, Array, Code, DType, FrozenArray, TensorType, expand, on_one_grid


def _code(result: TensorType) -> Code:
    if result.quant is None:
        raise QirError(f"cast: expected a result type with a code, got {result}")
    return result.quant


def _affine(result: TensorType) -> Affine:
    return result.affine


def saturated(x: Interval, code: Code, bounds: tuple[int, int] | None = None) -> Interval:
    """Returns the part of an interval that a code can tell, within bounds of stored numbers."""
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
        return saturated(x, self.to)

    def evaluate(self, x: Array) -> Array:
        return x

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        (x,) = operands
        return self.encode(x.stored)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place(range(operands[0].rank))

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(self.with_code(turned_code(self.to, order)), (0,), (order,))

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

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place(range(operands[0].rank))

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(self, (0,), (order,))


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
            adds it, and the verifier proves it again (`qir.ops.agreement`).
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
            own, to = on_one_grid(code.scale.array, self.to.scale.array)
            return mode.multipliers(own * 2.0**places, to)
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

    def claims(self) -> tuple[Claim, ...]:
        return tuple(AgreesWith(self, rounding) for rounding in self.agrees)

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
        return saturated(x, self.to, self.bounds)

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

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        return carried_in_place(range(operands[0].rank))

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned:
        return Turned(self.with_code(turned_code(self.to, order)), (0,), (order,))

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
        return Formed(*steps[0], is_long(operands[0]))

    def stored(self, operands: Sequence[StoredOperand], result: TensorType) -> Reach:
        return self.bounds


def is_long(x: TensorType) -> bool:
    """Whether a tensor holds accumulators in i64; see `qir.numbers.long_sums`."""
    return x.quant is not None and x.dtype is DType.I64


@lru_cache(maxsize=256)
def _machine_forms(op: Requantize, x: TensorType) -> tuple[tuple[str, MachineForm], ...]:
    scales = on_one_grid(_code(x).scale.array, op.to.scale.array)
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
