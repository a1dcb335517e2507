"""What a rounding mode is, and the registry of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError, did_you_mean
from qir.numbers.int32 import INT32_MAX, INT32_MIN, Int64Array, IntegerArray
from qir.numbers.rounding.forms import MachineForm, Thresholds


@dataclass(frozen=True, eq=False)
class Multiplier:
    """The numbers that stand for a ratio of scales, `m = value * 2**-shift` in most modes.

    Attributes:
        value: Array of the mode's `multiplier_type`; 0-d per tensor, or any shape that broadcasts
            against the accumulator.
        shift: int32 array of the same shape; zeros for the modes whose multiplier has none.
    """

    value: NDArray[np.int32] | NDArray[np.float32] | NDArray[np.float64]
    shift: NDArray[np.int32]

    def column(self) -> Multiplier:
        """Returns it with an axis at the end, along which it is constant."""
        return Multiplier(self.value[..., None], self.shift[..., None])

    def some(self, count: int) -> Multiplier:
        """Returns at most so many of its numbers, evenly spread, along one axis."""
        step = -(-self.value.size // count) or 1
        return Multiplier(self.value.reshape(-1)[::step], self.shift.reshape(-1)[::step])


_PROBES = np.unique(
    [sign * 2**bits + step for bits in range(32) for sign in (-1, 1) for step in (-1, 0, 1)]
).clip(INT32_MIN, INT32_MAX)
"""Accumulators of all magnitudes, in rising order."""


MOST_THRESHOLDS = 2**24
"""Of one requantize: 64 MB of a program."""


class RoundingMode(ABC):
    """How a ratio of scales becomes a machine number, and a scaled accumulator an integer.

    Every mode is monotone, a greater accumulator never gives a lesser integer; it gives the same
    integer each time, of an integer dtype. What rests on it checks a sample.
    """

    name: ClassVar[str] = ""
    """What programs call it."""
    multiplier_type: ClassVar[type[np.int32 | np.float32 | np.float64]] = np.int32
    """Type of the multiplier."""
    nearest: ClassVar[bool] = False
    """Whether a result is an integer nearest to acc * m, but for what float32 products err by.

    Rewrites that may move a result by one step rest on it.
    """
    takes_long: ClassVar[bool] = False
    """Whether it rounds accumulators in i64 too, by `apply_long`."""

    @property
    def has_shift(self) -> bool:
        """Whether a multiplier comes with a shift: one of int32 does, unless a mode says no."""
        return issubclass(self.multiplier_type, np.integer)

    @property
    def has_machine_form(self) -> bool:
        """Whether backends may compute it; `machine_form` may still have none for wide results."""
        return type(self).machine_form is not RoundingMode.machine_form

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
            output_scale: Scale of the result, times the divisor of a mean, which in float64 is
                exact too; a scalar, or an array that broadcasts.

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

        It is read by `rounded`, which refuses a result of another dtype than an integer's.

        Args:
            acc: Values of the int32 range, in any integer dtype.
            multiplier: One that `check` accepts.

        Raises:
            QirError: An accumulator does not fit int32.
        """

    def rounded(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns what `apply` does.

        Raises:
            QirError: An accumulator does not fit int32, or the mode gives no integers.
        """
        found = np.asarray(self.apply(acc, multiplier))
        if found.dtype.kind not in "iu":
            raise QirError(
                f"rounding {self.name}: expected apply to return integers, such as int64, got "
                f"{found.dtype}; end it with .astype(np.int64)"
            )
        return found.astype(np.int64, copy=False)

    def apply_long(self, acc: IntegerArray, multiplier: Multiplier) -> Int64Array:
        """Returns what `apply` makes of accumulators in i64 over 2^16, which need not be whole.

        Modes that say so by `takes_long` define it, and their machine form holds for it.

        Args:
            acc: Integers of at most 48 bits; see `qir.numbers.long_sums`.
            multiplier: One that `check` accepts, formed of 2^16 times the ratio of the scales.

        Raises:
            QirError: The mode is one of 32 bits alone.
        """
        raise QirError(f"rounding {self.name}: {self.refuses_long}")

    @property
    def refuses_long(self) -> str:
        """Why a mode that rounds 32 bits alone does not take accumulators in i64."""
        known = " or ".join(name for name, mode in ROUNDINGS.items() if mode.takes_long)
        return f"expected an accumulator in i32, got one in i64, which {known} round"

    def machine_form(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> MachineForm | None:
        """Returns what backends compute for `requantize` with the same arguments.

        Args:
            multiplier: One that `check` accepts.
            zero_point: Integer scalar, or an array that broadcasts.
            low: Smallest stored value of the result.
            high: Largest stored value of the result.

        Returns:
            A form that gives the integers of `requantize`, bit for bit; None, which every backend
            refuses by name, where there is none.
        """
        return None

    def by_thresholds(
        self, multiplier: Multiplier, zero_point: int | IntegerArray, low: int, high: int
    ) -> Thresholds | None:
        """Returns a machine form of any mode, by the accumulators at which its result changes.

        It is for modes that have no cheaper one; the arguments are those of `machine_form`.

        Returns:
            The form; None for more than 256 results, whose table would be too large.

        Raises:
            QirError: `apply` is not the step function that `thresholds` makes of it, or there are
                more than `MOST_THRESHOLDS`, as where scales vary along rows and columns.
        """
        if high - low > 255:
            return None
        if multiplier.value.size * (high - low) > MOST_THRESHOLDS:
            raise QirError(
                f"rounding {self.name}: expected at most {MOST_THRESHOLDS:,} thresholds, got "
                f"{multiplier.value.size} multipliers with {high - low} each; a mode that computes "
                "with multipliers, such as fixed31, needs none"
            )
        points = np.asarray(zero_point, np.int64)
        shape = np.broadcast_shapes(multiplier.value.shape, points.shape)
        steps = np.arange(low + 1, high + 1) - np.broadcast_to(points, shape)[..., None]
        least = self.thresholds(multiplier.column(), steps)
        # There is no accumulator below -2^31: what is always reached counts from the start.
        always = np.count_nonzero(least == INT32_MIN, axis=-1)
        places = np.arange(high - low) + np.asarray(always)[..., None]
        edges = np.take_along_axis(least - 1, np.minimum(places, high - low - 1), axis=-1)
        edges = np.where(places < high - low, edges, INT32_MAX)
        self._check_steps(low + always, edges, multiplier.column(), points[..., None], low, high)
        return Thresholds(np.asarray(low + always, np.int32), edges.astype(np.int32))

    def _check_steps(
        self,
        base: IntegerArray,
        edges: Int64Array,
        multiplier: Multiplier,
        zero_point: Int64Array,
        low: int,
        high: int,
    ) -> None:
        """Checks the first, the middle and the last accumulator of every step of a form."""
        end = np.ones((*edges.shape[:-1], 1), np.int64)
        first = np.concatenate([end * INT32_MIN, edges + 1], axis=-1)
        last = np.concatenate([edges, end * INT32_MAX], axis=-1)
        wanted = np.asarray(base)[..., None] + np.arange(first.shape[-1])
        for acc in (first, (first + last) >> 1, last):
            held = np.clip(acc, INT32_MIN, INT32_MAX)
            found = self.requantize(held, multiplier, zero_point, low, high)
            wrong = (first <= last) & (found != wanted)
            if np.any(wrong):
                raise QirError(
                    f"rounding {self.name}: expected {wanted[wrong][0]} of accumulator "
                    f"{acc[wrong][0]}, as its thresholds say, got {found[wrong][0]}; a mode is "
                    "monotone and always gives the same integers"
                )

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
        return np.clip(self.rounded(acc, multiplier) + np.asarray(zero_point, np.int64), low, high)

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

        Raises:
            QirError: The mode is not monotone on accumulators of all magnitudes.
        """
        results = self.rounded(_PROBES, multiplier.some(16).column())
        falls = np.any(np.diff(results) < 0, axis=0)
        if np.any(falls):
            at = int(np.argmax(falls))
            raise QirError(
                f"rounding {self.name}: expected a monotone mode, got a lesser integer of "
                f"accumulator {_PROBES[at + 1]} than of {_PROBES[at]}; without being monotone it "
                "has no thresholds"
            )
        wanted = np.asarray(steps, np.int64)
        shape = np.broadcast_shapes(wanted.shape, multiplier.value.shape, multiplier.shift.shape)
        least = np.full(shape, INT32_MIN, np.int64)
        greatest = np.full(shape, INT32_MAX + 1, np.int64)
        while np.any(open_ := least < greatest):
            middle = (least + greatest) >> 1
            reached = self.rounded(np.minimum(middle, INT32_MAX), multiplier) >= wanted
            greatest = np.where(open_ & reached, middle, greatest)
            least = np.where(open_ & ~reached, middle + 1, least)
        return least


ModeT = TypeVar("ModeT", bound=RoundingMode)
ROUNDINGS: dict[str, RoundingMode] = {}
"""Every rounding mode by the name that programs carry."""


def register_rounding(name: str) -> Callable[[type[ModeT]], type[ModeT]]:
    """Declares a rounding mode: programs may carry it, and the interpreter computes it.

    Backends compute it once it has a machine form, and refuse it by name until then.

    Args:
        name: The name in the text, snake_case.

    Raises:
        QirError: The name is taken, or none that a text can hold; or the class lacks a method, or
            derives from that of another mode, whose thresholds and promises it would inherit.
    """

    def declare(cls: type[ModeT]) -> type[ModeT]:
        if RoundingMode not in cls.__mro__:
            raise QirError(
                f"rounding {name}: expected {cls.__qualname__} to derive from RoundingMode"
            )
        if not (name.isidentifier() and name.isascii()):
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
        if cls.__abstractmethods__:
            raise QirError(
                f"rounding {name}: expected {cls.__qualname__} to define "
                f"{', '.join(sorted(cls.__abstractmethods__))}"
            )
        cls.name = name
        ROUNDINGS[name] = cls()
        return cls

    return declare


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
