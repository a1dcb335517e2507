"""Fixed-point requantization: the numpy definitions that every backend reproduces bit for bit.

Requantization maps an int32 accumulator to a stored integer, `clamp(round(acc * m) + zero_point)`,
where `m` is the ratio of the accumulator's scale to the output's. Runtimes disagree on how `m`
becomes a machine number and on how the product becomes an integer. Both belong to the *rounding
mode*, an attribute of the program, so that an imported model keeps the integers of its source.

The canonical mode is `fixed31`, which rounds once. gemmlowp, and TFLite as it is built by default,
round twice: first to the high word of the doubled product, then in the remaining right shift. A
fraction just below one half is carried up to the half by the first rounding and over it by the
second, which moves one output in eight at m = 0.2. Rounding once is what TFLite calls
TFLITE_SINGLE_ROUNDING, ruy documents and TOSA's RESCALE names SINGLE_ROUND.

References:
    Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", arXiv:1712.05877, section 2.2.
    gemmlowp, doc/quantization.md. TOSA specification, RESCALE. ONNX operators, QLinearConv.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError, did_you_mean

IntegerArray: TypeAlias = NDArray[np.integer]
Int64Array: TypeAlias = NDArray[np.int64]
Float64Array: TypeAlias = NDArray[np.float64]

INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1
MAX_SHIFT = 62


@dataclass(frozen=True, eq=False)
class Multiplier:
    """The machine numbers that stand for a ratio of scales: `m = value * 2**-shift`.

    Attributes:
        value: Array of the mode's `multiplier_type`; 0-d per tensor, or any shape that broadcasts
            against the accumulator.
        shift: int32 array of the same shape; zeros for the modes of real multipliers.
    """

    value: NDArray[np.int32] | NDArray[np.float32] | NDArray[np.float64]
    shift: NDArray[np.int32]


class RoundingMode(ABC):
    """How a ratio of scales becomes a machine number, and a scaled accumulator an integer.

    Every mode is monotone: a greater accumulator never gives a lesser integer.
    """

    name: ClassVar[str] = ""
    """What programs call it."""
    multiplier_type: ClassVar[type[np.int32 | np.float32 | np.float64]] = np.int32
    """Type of the multiplier; one of int32 comes with a shift."""
    nearest: ClassVar[bool] = False
    """Whether a result is an integer nearest to acc * m, but for what float32 products err by.

    Rewrites that may move a result by one step rest on it.
    """

    @property
    def has_shift(self) -> bool:
        """Whether a multiplier comes with a shift."""
        return issubclass(self.multiplier_type, np.integer)

    @property
    def bisects(self) -> bool:
        """Whether `thresholds` takes some thirty evaluations of `apply`, having no formula."""
        return type(self).thresholds is RoundingMode.thresholds

    @abstractmethod
    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Forms the multiplier of the ratio `input_scale / output_scale`.

        Args:
            input_scale: Scale of the accumulator in float64, where the product of two float32
                scales is exact.
            output_scale: Scale of the result; a scalar, or an array that broadcasts.

        Raises:
            QirError: A scale is not finite and positive, or the ratio is out of the mode's reach.
        """

    @abstractmethod
    def check(self, multiplier: Multiplier) -> None:
        """Checks a multiplier that was not formed here, such as one read from a file.

        Raises:
            QirError: The mode does not define the result for this multiplier.
        """

    @abstractmethod
    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns the rounded product, saturated to int32, before the zero point and the clamp.

        Args:
            acc: Values of the int32 range, in any integer dtype.
            multiplier: One that `check` accepts.

        Raises:
            QirError: An accumulator does not fit int32.
        """

    def requantize(
        self,
        acc: IntegerArray,
        multiplier: Multiplier,
        zero_point: ArrayLike,
        low: int,
        high: int,
    ) -> Int64Array:
        """Returns `clamp(apply(acc, multiplier) + zero_point, low, high)`; the sum cannot wrap.

        Args:
            acc: Values of the int32 range, in any integer dtype.
            multiplier: One that `check` accepts.
            zero_point: Integer scalar, or an array that broadcasts against `acc`.
            low: Smallest stored value of the result.
            high: Largest stored value of the result.

        Raises:
            QirError: An accumulator does not fit int32, or the mode does not define the bounds.
        """
        return np.clip(self.apply(acc, multiplier) + np.asarray(zero_point, np.int64), low, high)

    def thresholds(self, multiplier: Multiplier, steps: ArrayLike) -> Int64Array:
        """Returns the least int32 accumulator that `apply` takes to at least some integer.

        As a mode is monotone, its thresholds say all about it. They are found by bisection over
        the definition itself.

        Args:
            multiplier: One that `check` accepts.
            steps: The integers, of magnitude below 2^31 and any shape that broadcasts against the
                multiplier.

        Returns:
            An array of the common shape; 2^31 where no accumulator reaches the integer.
        """
        wanted = np.asarray(steps, np.int64)
        shape = np.broadcast_shapes(wanted.shape, multiplier.value.shape, multiplier.shift.shape)
        least = np.full(shape, INT32_MIN, np.int64)
        greatest = np.full(shape, INT32_MAX + 1, np.int64)
        while np.any(open_ := least < greatest):
            middle = (least + greatest) >> 1
            reached = self.apply(np.minimum(middle, INT32_MAX), multiplier) >= wanted
            greatest = np.where(open_ & reached, middle, greatest)
            least = np.where(open_ & ~reached, middle + 1, least)
        return least


ModeT = TypeVar("ModeT", bound=RoundingMode)
ROUNDINGS: dict[str, RoundingMode] = {}
"""Every rounding mode by the name that programs carry."""


def register_rounding(name: str) -> Callable[[type[ModeT]], type[ModeT]]:
    """Declares a rounding mode: programs may carry it, and the interpreter computes it.

    A backend computes it once it has a machine form of it, and refuses it by name until then.

    Args:
        name: The name in the text, snake_case.

    Raises:
        QirError: The name is taken, or none that a text can hold, or the class derives from that of
            another mode, whose thresholds and promises it would inherit.
    """

    def declare(cls: type[ModeT]) -> type[ModeT]:
        if not name.isidentifier():
            raise QirError(f"rounding: expected a name of letters, digits and '_', got '{name}'")
        if name in ROUNDINGS:
            taken = type(ROUNDINGS[name]).__qualname__
            raise QirError(f"rounding: '{name}' is already declared by {taken}")
        others = {type(mode): other for other, mode in ROUNDINGS.items()}
        if base := next((base for base in cls.__mro__[1:] if base in others), None):
            raise QirError(
                f"rounding: expected '{name}' to inherit nothing of '{others[base]}', got a "
                f"subclass of {base.__qualname__}; derive it from RoundingMode"
            )
        cls.name = name
        ROUNDINGS[name] = cls()
        return cls

    return declare


@register_rounding("fixed31")
@dataclass(frozen=True)
class Fixed31(RoundingMode):
    """The canonical mode: 31 significant bits and one rounding, half toward +infinity.

        sat32(floor((acc * M + 2^(s-1)) / 2^s)),  M = 0 or 2^30 <= M < 2^31,  1 <= s <= 62

    `acc` is int32, so the product and the rounding term fit int64: 2^62 + 2^61 < 2^63.
    `sat32(v) = min(max(v, -2^31), 2^31 - 1)` acts on the rounded quotient, before the zero point is
    added. It can act only for m > 1 (m = 1 returns `acc` itself), and no result of at most 16 bits
    shows it, since the clamp gives the same bound with or without it.
    """

    nearest = True

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Rounds the float64 ratio to 31 significant bits, as TFLite's QuantizeMultiplier does.

        A ratio below 2^-32 takes every int32 below one half and gets M = 0 and, by convention,
        s = 31. A ratio that rounds to 2^30 or more has no shift and is an error.
        """
        scale_in, scale_out = _positive(input_scale), _positive(output_scale)
        with np.errstate(over="ignore", under="ignore"):
            ratio: Float64Array = np.asarray(scale_in / scale_out)
        fraction, exponent = np.frexp(ratio)
        value = np.rint(np.ldexp(fraction, 31))
        carried = value == 2**31
        value = np.where(carried, 2**30, value)
        shift = np.where(carried, 30, 31) - exponent
        wrong = (shift < 1) | np.isinf(ratio)
        if np.any(wrong):
            raise QirError(f"scale ratio: expected below 2^30, got {_first(ratio, wrong)}")
        vanishes = shift > MAX_SHIFT
        return Multiplier(
            np.where(vanishes, 0, value).astype(np.int32),
            np.where(vanishes, 31, shift).astype(np.int32),
        )

    def check(self, multiplier: Multiplier) -> None:
        """Checks that M is 0 or of 31 significant bits, and that 1 <= s <= 62."""
        value, shift = multiplier.value, multiplier.shift
        if value.dtype != np.int32:
            raise QirError(f"fixed31: expected an i32 multiplier, got {value.dtype}")
        if np.any(wrong := (value != 0) & (value < 2**30)):
            got = _first(value, wrong)
            raise QirError(f"fixed31: expected a multiplier of 0 or in [2^30, 2^31), got {got}")
        if np.any(wrong := (shift < 1) | (shift > MAX_SHIFT)):
            raise QirError(f"fixed31: expected a shift in [1, 62], got {_first(shift, wrong)}")

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `sat32(floor((acc * M + 2^(s-1)) / 2^s))`."""
        product = _accumulator(acc) * multiplier.value.astype(np.int64)
        return np.clip(rounding_shift(product, multiplier.shift), INT32_MIN, INT32_MAX)

    def thresholds(self, multiplier: Multiplier, steps: ArrayLike) -> Int64Array:
        """Returns `ceil((2*step - 1) * 2^(s-1) / M)`, held to [-2^31, 2^31]; see the base class.

        A product beyond 2^62 is not formed: the quotient would leave int32, as M < 2^31. No more is
        one formed for M = 0, whose only result is 0.
        """
        odd = 2 * np.asarray(steps, np.int64) - 1
        shift = multiplier.shift.astype(np.int64) - 1
        small = (multiplier.value > 0) & (np.abs(odd) <= np.right_shift(np.int64(2**62), shift))
        divisor = np.maximum(multiplier.value.astype(np.int64), 1)
        quotient = -(-np.left_shift(np.where(small, odd, 0), shift) // divisor)
        outside = np.where(odd > 0, INT32_MAX + 1, INT32_MIN)
        return np.clip(np.where(small, quotient, outside), INT32_MIN, INT32_MAX + 1)


@register_rounding("f32_rne")
@dataclass(frozen=True)
class Float32NearestEven(RoundingMode):
    """The mode of ONNX Runtime, XNNPACK and QNNPACK: one float32 multiply, half to even.

        clamp(rne(float32(acc) * m), low - zero_point, high - zero_point) + zero_point

    `float32(acc)` rounds to nearest even where |acc| > 2^24. Those runtimes clamp in float, so that
    the conversion to an integer is defined. Here `apply` clamps to int32 in float and `requantize`
    clamps again after adding the zero point: the same integers, if the float bounds are exact.
    """

    multiplier_type = np.float32
    nearest = True

    def multipliers(self, input_scale: ArrayLike, output_scale: ArrayLike) -> Multiplier:
        """Divides in float32, as the runtimes do: `float32(input_scale) / float32(output_scale)`.

        `float32(input_scale)` is the float32 product of the two scales behind a dot. About a
        quarter of these quotients differ from the rounded float64 ratio.
        """
        scale_in, scale_out = _positive(input_scale), _positive(output_scale)
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            value = np.asarray(scale_in.astype(np.float32) / scale_out.astype(np.float32))
        if np.any(wrong := ~np.isfinite(value)):
            raise QirError(f"scale ratio: expected finite in float32, got {_first(value, wrong)}")
        return Multiplier(value.astype(np.float32), np.zeros(value.shape, np.int32))

    def check(self, multiplier: Multiplier) -> None:
        """Checks that the multiplier is a finite float32 of at least 0, and the shift 0."""
        value, shift = multiplier.value, multiplier.shift
        if value.dtype != np.float32:
            raise QirError(f"f32_rne: expected an f32 multiplier, got {value.dtype}")
        if np.any(wrong := ~(np.isfinite(value) & (value >= 0))):
            got = _first(value, wrong)
            raise QirError(f"f32_rne: expected a finite multiplier of at least 0, got {got}")
        if np.any(wrong := shift != 0):
            raise QirError(f"f32_rne: expected a shift of 0, got {_first(shift, wrong)}")

    def apply(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns `rne(float32(acc) * m)`, saturated to int32."""
        with np.errstate(over="ignore", under="ignore"):
            product = _accumulator(acc).astype(np.float32) * multiplier.value.astype(np.float32)
        # float64 holds 2^31 - 1, which float32 does not.
        rounded = np.rint(product).astype(np.float64)
        return np.clip(rounded, INT32_MIN, INT32_MAX).astype(np.int64)

    def requantize(
        self,
        acc: IntegerArray,
        multiplier: Multiplier,
        zero_point: ArrayLike,
        low: int,
        high: int,
    ) -> Int64Array:
        """Requantizes as the base class says; the bounds are those of `check_float32_bounds`."""
        check_float32_bounds(zero_point, low, high)
        return super().requantize(acc, multiplier, zero_point, low, high)


def rounding_mode(name: str) -> RoundingMode:
    """Looks up a rounding mode.

    Raises:
        QirError: There is no such mode; the message gives the nearest name.
    """
    mode = ROUNDINGS.get(name)
    if mode is None:
        known, nearest = " or ".join(ROUNDINGS), did_you_mean(name, ROUNDINGS)
        raise QirError(f"rounding: expected {known}, got '{name}'{nearest}")
    return mode


def requantize(
    acc: IntegerArray,
    multiplier: Multiplier,
    zero_point: ArrayLike,
    low: int,
    high: int,
    rounding: str = "fixed31",
) -> Int64Array:
    """Maps int32 accumulators to stored integers in [low, high]; see `RoundingMode.requantize`.

    Raises:
        QirError: Unknown mode, an accumulator outside int32, or bounds the mode does not define.
    """
    return rounding_mode(rounding).requantize(acc, multiplier, zero_point, low, high)


def rounding_shift(acc: IntegerArray, shift: ArrayLike) -> Int64Array:
    """Divides by `2**shift`, rounding half toward +infinity: `(acc + 2^(shift-1)) >> shift`.

    Args:
        acc: Integers of magnitude at most 2^62.
        shift: Integer scalar in [1, 62], or an array of such that broadcasts against `acc`.
    """
    wide_shift = np.asarray(shift, np.int64)
    half = np.left_shift(np.int64(1), wide_shift - 1)
    return np.asarray(np.right_shift(acc.astype(np.int64) + half, wide_shift))


def common_shift_multipliers(
    scales: Sequence[float], output_scale: float, magnitudes: int | Sequence[int] = 255
) -> tuple[list[int], int]:
    """Forms the multipliers that add operands of different scales with a single rounding.

        q = clamp(rounding_shift(sum((q_i - z_i) * M_i), s) + z, low, high)
        M_i = rne(scale_i / output_scale * 2^s)

    Rescaling each operand to the output first would round once per operand and move a quarter of
    the results. Here the sum is exact, and the shift is the largest in [1, 30] for which it stays
    in int32: `sum(magnitude_i * M_i) + 2^(s-1) < 2^31`. Before its rounding, the sum is within
    `sum(magnitude_i) / 2^(s+1)` output steps of the real one, because each M_i is within 1/2 of
    its own: 2^-14 for two 8-bit operands of the output's scale. For a subtraction, negate the
    operand's multiplier.

    Args:
        scales: Scale of each operand.
        output_scale: Scale of the result.
        magnitudes: Largest `|q - zero_point|` of each operand, or one bound for all of them; 255
            holds for every operand of 8 bits.

    Returns:
        The multiplier of each operand, at least 0, and the shift.

    Raises:
        QirError: A scale is not finite and positive, or the largest ratio leaves so few fraction
            bits that the error above could reach half an output step.
    """
    bounds = [magnitudes] * len(scales) if isinstance(magnitudes, int) else list(magnitudes)
    exact_output = Fraction(float(_positive(output_scale)))
    ratios = [Fraction(float(_positive(scale))) / exact_output for scale in scales]
    for shift in range(30, sum(bounds).bit_length() - 1, -1):
        multipliers = [round(ratio * 2**shift) for ratio in ratios]
        products = (bound * value for bound, value in zip(bounds, multipliers, strict=True))
        if sum(products) + 2 ** (shift - 1) < 2**31:
            return multipliers, shift
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    raise QirError(
        "scale ratio: expected one that an int32 sum resolves to half an output step, got operand "
        f"{worst} of {len(scales)} at {float(ratios[worst]):g} times the output scale"
    )


def check_float32_bounds(zero_point: ArrayLike, low: int, high: int) -> None:
    """Checks that float32 holds `low - zero_point` and `high - zero_point` exactly.

    Raises:
        QirError: One of them exceeds 2^24 in magnitude.
    """
    wide_zero_point = np.asarray(zero_point, np.int64)
    reach = max(int(np.max(np.abs(bound - wide_zero_point), initial=0)) for bound in (low, high))
    if reach > 2**24:
        raise QirError(f"f32_rne: expected bounds within 2^24 of the zero point, got {reach}")


def _positive(scale: ArrayLike) -> Float64Array:
    """Returns scales as float64, all of them finite and positive."""
    array = np.asarray(scale, np.float64)
    if np.any(wrong := ~(np.isfinite(array) & (array > 0))):
        raise QirError(f"scale: expected finite and positive, got {_first(array, wrong)}")
    return array


def _accumulator(acc: IntegerArray) -> Int64Array:
    """Widens accumulators to int64, all of them in the int32 range."""
    if np.any(wrong := (acc > INT32_MAX) | (acc < INT32_MIN)):
        raise QirError(f"accumulator: expected the int32 range, got {_first(acc, wrong)}")
    return acc.astype(np.int64)


def _first(values: NDArray[np.generic], wrong: NDArray[np.bool_]) -> str:
    """Prints the first wrong value, with its index where there is more than one value."""
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), values.shape))
    value = values[index].item()
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} at {list(index)}" if index else text
