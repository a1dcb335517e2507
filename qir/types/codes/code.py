"""Codes: what stored integers mean. A kind of code is one class, entered into `CODES`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import reduce
from math import lcm, prod
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError, did_you_mean
from qir.types.arrays import FrozenArray, expand
from qir.types.codes.parts import SMALLEST_NORMAL, SMALLEST_SCALE, magnitudes, per_part
from qir.types.dims import Dim, Shape, format_shape
from qir.types.dtype import Array, DType
from qir.types.factored import multiplied

MOST_MULTIPLIER = 255
"""See constraint C9 of Code."""

_C = TypeVar("_C", bound="type[Code]")

CODES: dict[str, type[Code]] = {}
"""Every kind of code by the name that texts carry."""


def code(kind: str) -> Callable[[_C], _C]:
    """Enters a kind of code into `CODES`, by which texts that hold it are read.

    Args:
        kind: The name in the text, snake_case.

    Raises:
        QirError: The name is taken, or none that a text can hold.
    """

    def declare(cls: _C) -> _C:
        if not (kind.isidentifier() and kind.isascii()):
            raise QirError(f"code: expected a kind of letters, digits and '_', got '{kind}'")
        if kind in CODES:
            raise QirError(f"code: kind '{kind}' is already declared")
        cls.kind = kind
        CODES[kind] = cls
        return cls

    return declare


def code_kind(kind: str) -> type[Code]:
    """Looks up a kind of code.

    Raises:
        QirError: There is none of that name; the message gives the nearest.
    """
    if kind not in CODES:
        known = ", ".join(CODES)
        raise QirError(
            f"code: expected a kind among {known}, got '{kind}'{did_you_mean(kind, CODES)}"
        )
    return CODES[kind]


def in_text(
    name: str = "",
    *,
    default: Any = MISSING,
    spread: bool = False,
    by_place: bool = False,
    names: Mapping[str, Any] | None = None,
) -> Any:
    """Declares a field of a kind of code that its text spells in a way of its own.

    Args:
        name: What the text calls it, where that is another name.
        default: Its default; a field that has it is not printed.
        spread: Whether an array has the scale's shape, and is written as the scale is.
        by_place: Whether an array has the tensor's rank, and is moved along with the numbers.
        names: Values that the text calls by a name.
    """
    metadata = {
        "text": name,
        "spread": spread,
        "by_place": by_place or spread,
        "names": names or {},
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Code(ABC):
    """What stored integers mean: real = step * scale, where the kind makes steps of them.

    A scale is a scalar (per tensor) or has the tensor's rank with each dimension dividing the
    tensor's: 1 in all but one dimension is per channel, anything else is per block. Multipliers are
    the second level of a scale of two levels: integers of the same law that belong to the steps, so
    that sums over blocks of different multipliers are exact.

    A kind derives from `Affine` or `LevelCode`, or from this class: it gives `range`,
    `encode`, `steps_between` and `steps`, or `multiples` where the scale multiplies no integers.
    Its fields are attributes in the text. The constraints of all kinds, by the numbers that errors
    name:

    - C1: every scale is finite and greater than 0.
    - C4: the scale is a scalar or has the tensor's rank, and each of its dimensions divides the
      tensor's.
    - C6: the storage type is an integer type, the expressed type a floating-point one.
    - C7: scales of storage of at most 16 bits lie between 2^-125 and 2^125, multipliers included:
      their inverses are normal float32 numbers and every denormal number encodes as 0, so that a
      machine that flushes denormals agrees.
    - C9: multipliers are integers from 1 to 255 of the tensor's rank, each dimension dividing the
      tensor's; storage with multipliers has at most 16 bits.
    - C15: a scale is kept as factors only in storage of 32 bits and more: that of an accumulator
      whose operands have scales along different axes.

    Attributes:
        storage: The integer type of the stored numbers.
        scale: Real size of one step. Kept as float32; as float64 for storage of 32 bits and more,
            where it is the product of two float32 scales, which float64 holds exactly, or one
            scale over the divisor of a mean; as a `FactoredArray` of them where both vary.
        expressed: The floating-point type that the code stands for.
        multipliers: For a scale of two levels, the integers that multiply the steps, u8; None for
            1 everywhere.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    storage: DType
    scale: FrozenArray
    expressed: DType = field(default=DType.F32, kw_only=True)
    multipliers: FrozenArray | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "undeclared"

    def __post_init__(self) -> None:
        if not self.storage.is_integer or not self.expressed.is_float:
            raise QirError(
                "code: C6: expected an integer storage type and a floating-point expressed type, "
                f"got {self.storage.value} and {self.expressed.value}"
            )
        wanted = np.float32 if self.storage.bits <= 16 else np.float64
        with np.errstate(over="ignore", under="ignore"):
            factors = [factor.astype(wanted) for factor in self.scale.factors]
        if len(factors) > 1 and self.storage.bits < 32:
            raise QirError(
                "code: C15: expected one array of scales in storage of fewer than 32 bits, got "
                f"{len(factors)} factors in {self.storage.value}"
            )
        scale = multiplied(*factors)
        if scale.shape and prod(scale.shape) == 1:
            scale = FrozenArray(scale.array.reshape(()))
        object.__setattr__(self, "scale", scale)
        if self.multipliers is not None:
            object.__setattr__(self, "multipliers", self._checked_multipliers(self.multipliers))
        for factor in scale.factors:
            fits = np.isfinite(factor.array) & (factor.array > 0)
            if not np.all(fits):
                bad = factor.array[~fits].flat[0]
                raise QirError(f"code: C1: expected finite scales greater than 0, got {bad!s}")
        if self.storage.bits <= 16:
            sizes = self.step_sizes
            outside = (sizes < SMALLEST_SCALE) | (sizes > 1 / SMALLEST_SCALE)
            if np.any(outside):
                raise QirError(
                    "code: C7: expected scales between 2^-125 and 2^125, "
                    f"got {sizes[outside].astype(np.float32).flat[0]!s}"
                )

    def _checked_multipliers(self, multipliers: FrozenArray) -> FrozenArray | None:
        array, counts = multipliers.array, self.scale.shape
        # Counts of which none divides the other would ask for more sizes than either has numbers.
        pairs = list(zip(array.shape, counts, strict=False))
        if (
            not array.size
            or (counts and len(counts) != array.ndim)
            or any(max(pair) % max(min(pair), 1) for pair in pairs)
        ):
            raise QirError(
                "code: C9: expected multipliers of the tensor's rank, whose counts divide those of "
                f"the scale {list(counts)} or are divided by them, got shape {list(array.shape)}"
            )
        with np.errstate(invalid="ignore"):
            narrow = array.astype(np.uint8) if array.dtype.kind in "iuf" else np.zeros_like(array)
        if not np.array_equal(narrow, array) or not np.all(narrow) or self.storage.bits > 16:
            raise QirError(
                f"code: C9: expected multipliers that are integers from 1 to {MOST_MULTIPLIER}, "
                f"in storage of at most 16 bits, got {multipliers!r} in {self.storage.value}"
            )
        return None if np.all(narrow == 1) else FrozenArray(narrow)

    @property
    @abstractmethod
    def range(self) -> tuple[int, int]:
        """Smallest and largest number that may be stored."""

    @abstractmethod
    def encode(self, real: ArrayLike) -> Array:
        """Returns the stored numbers of real ones: the definition that backends are tested against.

        It is monotone: a greater real number never has a stored number that means less. NaN has the
        stored number of 0.

        Args:
            real: An array of the tensor's shape.

        Returns:
            An array of the same shape and of the storage's numpy type.
        """

    def decode(self, stored: ArrayLike) -> Array:
        """Returns the real numbers of stored ones, in the expressed type: `multiples` * scale.

        One float32 product.

        Args:
            stored: An array of the tensor's shape.
        """
        stored = np.asarray(stored)
        scale = expand(self.decoding_scale, stored.shape)
        with np.errstate(over="ignore"):
            return (self.multiples(stored) * scale).astype(self.expressed.numpy)

    def multiples(self, stored: Array) -> Array:
        """Returns what the scale multiplies, as float32: the steps, where there are some."""
        return self.steps(stored).astype(np.float32)

    def steps_between(self, low: int, high: int) -> tuple[int, int] | None:
        """Returns the least and the greatest step of stored numbers from low to high.

        Returns:
            Two integers; None where the scale multiplies no integers.
        """
        return None

    def steps(self, stored: Array) -> Array:
        """Returns the integers that the scale multiplies, as int64.

        Args:
            stored: An array of the tensor's shape.

        Raises:
            QirError: The scale multiplies no integers.
        """
        raise QirError(self.without_steps)

    @property
    def step_bounds(self) -> tuple[int, int] | None:
        """The least and the greatest step; None where the scale multiplies no integers."""
        return self.steps_between(*self.range)

    @property
    def without_steps(self) -> str:
        """Why a code whose scale multiplies no integers has no exact arithmetic, and the remedy."""
        return (
            f"the real numbers of kind {self.kind} are no integers times a scale; dequantize it, "
            "and compute in floating point"
        )

    @property
    def holds_zero(self) -> bool:
        """Whether some stored number means 0, in every channel."""
        stored = self.encode(np.zeros((1,) * self.scale.array.ndim, np.float32))
        return bool(np.all(self.decode(stored) == 0))

    @property
    def real_bounds(self) -> tuple[float, float]:
        """The least and the greatest multiple of `step_sizes` that a stored number means."""
        return -np.inf, np.inf

    @property
    def is_ordered(self) -> bool:
        """Whether a greater stored number means a greater real one."""
        return False

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves the whole tensor, and whatever else varies by place."""
        return not self.scale.shape and self.multipliers is None

    @property
    def axis(self) -> int | None:
        """The only axis along which the scale varies; None where there is none or several."""
        varying = [axis for axis, size in enumerate(self.scale.shape) if size > 1]
        return varying[0] if len(varying) == 1 else None

    @property
    def grid(self) -> tuple[int, ...]:
        """The parts along each axis in which scale and multipliers are the same; () for one."""
        if self.multipliers is None:
            return self.scale.shape
        counts = self.multipliers.shape
        return tuple(map(lcm, counts, self.scale.shape or (1,) * len(counts)))

    @property
    def step_sizes(self) -> Array:
        """Scale times multiplier, of shape `grid`: float64, or the scale itself where it is all."""
        if self.multipliers is None:
            return self.scale.array
        scale = expand(self.scale.array.astype(np.float64), self.grid)
        return np.broadcast_to(scale * expand(self.multipliers.array, self.grid), self.grid)

    @property
    def greatest_scale(self) -> float:
        """The greatest of the scales."""
        return prod(float(factor.array.max()) for factor in self.scale.factors)

    @property
    def decoding_scale(self) -> Array:
        """What `decode` multiplies by: the float32 product of `decoding_factors`, 0 if denormal.

        A machine that flushes denormal numbers agrees; only accumulators have scales so small.
        """
        shape, factors = self.scale.shape, self.scale.factors
        with np.errstate(over="ignore", under="ignore"):
            if len(factors) == 1:
                scale = factors[0].array.astype(np.float32)
            else:
                spread = (expand(factor, shape) for factor in self.decoding_factors)
                scale = reduce(np.multiply, spread)
        return np.where(scale < SMALLEST_NORMAL, np.float32(0), scale)

    @property
    def decoding_factors(self) -> tuple[Array, ...]:
        """The float32 arrays that multiply to `decoding_scale`, each product rounded to float32.

        Of two float32 scales that is their product, which float64 holds, rounded once.
        """
        if len(self.scale.factors) == 1:
            return (self.decoding_scale,)
        return tuple(factor.array.astype(np.float32) for factor in self.scale.factors)

    @property
    def inverse_scale(self) -> Array:
        """The float32 reciprocal of `step_sizes`, by which `quantize` multiplies; of its shape."""
        return (1.0 / self.step_sizes.astype(np.float64)).astype(np.float32)

    def multiplied(self, steps: Array) -> Array:
        """Returns steps times their multipliers, in the type of the steps."""
        if self.multipliers is None:
            return steps
        multiplied: Array = steps * expand(self.multipliers.array, steps.shape).astype(steps.dtype)
        return multiplied

    def multiplied_bounds(self, least: int, greatest: int) -> tuple[int, int]:
        """Returns the bounds of steps times their multipliers."""
        if self.multipliers is None:
            return least, greatest
        factors = int(self.multipliers.array.min()), int(self.multipliers.array.max())
        return min(least * f for f in factors), max(greatest * f for f in factors)

    @classmethod
    def fit(cls, array: ArrayLike, parts: tuple[int, ...] = (), bits: int | None = None) -> Self:
        """Returns the code of this kind that real numbers are stored in, its scales from them.

        Args:
            array: The numbers, of the tensor's shape.
            parts: Shape of the scales: the number of parts along each axis, each of which has a
                scale, 1 along all but one for scales per channel; () for one scale.
            bits: How many a stored number has; None for the kind's usual width.

        Raises:
            QirError: The parts do not divide the tensor, a number is not finite, or the kind has no
                such width.
        """
        raise QirError(f"code: expected a kind that finds scales, got {cls.kind}; give it a scale")

    def in_two_levels(self, parts: tuple[int, ...] = (), most: int = MOST_MULTIPLIER) -> Self:
        """Returns the code whose scales are those of this one as integers times fewer scales.

        Each becomes an integer from 1 to `most`, rounded to nearest, times the scale of its part,
        the greatest of those there over `most`. Sums over blocks are exact with it.

        Args:
            parts: Shape of the scales that stay, which divide those of this code; () for one.
            most: The greatest multiplier.

        Raises:
            QirError: The parts do not divide the scales, or there are multipliers already.
        """
        if self.multipliers is not None:
            raise QirError("code: expected scales of one level, got multipliers too")
        scale = FrozenArray(magnitudes(self.scale.array, parts) / most, np.float32)
        ratios = per_part(self.scale.array, scale.array)
        multipliers = FrozenArray(np.clip(np.rint(ratios), 1, most))
        return replace(self, scale=scale, multipliers=multipliers)

    def check(self, shape: Shape) -> None:
        """Raises QirError unless the code fits a tensor of this shape (constraints C4 and C9)."""
        if not _divides(counts := self.scale.shape, shape):
            raise QirError(
                "code: C4: expected a scalar scale or one whose dimensions divide "
                f"{format_shape(shape)}, got a scale of shape {list(counts)}"
            )
        if self.multipliers is not None and not (
            _divides(counts := self.multipliers.array.shape, shape) and len(counts) == len(shape)
        ):
            raise QirError(
                "code: C9: expected multipliers whose dimensions divide "
                f"{format_shape(shape)}, got an array of shape {list(counts)}"
            )

    def map_arrays(self, change: Callable[[Array], Array]) -> Self:
        """Applies a change of layout to scales and whatever else varies by place."""
        changed: dict[str, Any] = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            by_place = spec.name in ("scale", "multipliers") or spec.metadata.get("by_place")
            if by_place and isinstance(value, FrozenArray) and value.shape:
                changed[spec.name] = value.map(change)
        return replace(self, **changed) if changed else self


def own_fields(kind: type[Code]) -> Iterator[tuple[str, Field[Any]]]:
    """Returns the fields of a kind that texts write as attributes, each with its name there.

    Storage, scale and expressed type are spelled for themselves.
    """
    for spec in fields(kind):
        if spec.name not in ("storage", "scale", "expressed"):
            yield spec.metadata.get("text") or spec.name, spec


def written_fields(code: Code) -> Iterator[tuple[str, Field[Any], Any]]:
    """Returns the attributes of a code that are not their defaults: name, field and value.

    A value that has a name is the name.
    """
    for name, spec in own_fields(type(code)):
        value = getattr(code, spec.name)
        if value == spec.default:
            continue
        known: Mapping[str, Any] = spec.metadata.get("names", {})
        yield name, spec, next((word for word, named in known.items() if named == value), value)


def _divides(counts: tuple[int, ...], shape: Shape) -> bool:
    fits = not counts or len(counts) == len(shape)
    for count, size in zip(counts, shape, strict=False):
        whole = not isinstance(size, Dim) and 0 < count <= size and size % count == 0
        fits = fits and (count == 1 or whole)
    return fits
