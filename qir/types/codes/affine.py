"""Affine codes: a scale and a zero point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.types.arrays import FrozenArray, expand
from qir.types.dims import Dim, Shape, format_shape
from qir.types.dtype import Array, DType

SMALLEST_SCALE = 2.0**-125
"""See constraint C7 of Quant."""

FURTHEST_POINT = 2**16
"""See constraint C2 of Quant: sums of zero point and stored number are exact in float32."""


@dataclass(frozen=True)
class Quant:
    """A code: real = (stored - zero_point) * scale, or (levels[stored] - zero_point) * scale.

    A scale is a scalar (per tensor) or has the tensor's rank with each dimension dividing the
    tensor's: 1 in all but one dimension is per channel, anything else is per block. The
    constraints, by the numbers that errors name:

    - C1: every scale is finite and greater than 0.
    - C2: every zero point is at most 2^16 away from 0, inside the bounds or not; 32-bit and wider
      storage has zero point 0. One outside of the bounds is for numbers far from zero: no stored
      number means 0 then, see `holds_zero`.
    - C3: the bounds lie inside the storage type, the lower one below the upper one.
    - C4: the scale is a scalar or has the tensor's rank, and each of its dimensions divides the
      tensor's.
    - C5: an array of zero points has the shape of the scale.
    - C6: the storage type is an integer type, the expressed type a floating-point one.
    - C7: scales of storage of at most 16 bits lie between 2^-125 and 2^125: their inverses are
      normal float32 numbers and every denormal number encodes as 0, so that a machine that flushes
      denormals agrees.
    - C8: levels are distinct increasing integers, no more of them than the storage has codes;
      bounds don't go with them.

    Args:
        storage: The integer type of the stored numbers.
        scale: Real size of one step. Kept as float32; as float64 for storage of 32 bits and more,
            where it is the product of two float32 scales, which float64 holds exactly, or one
            scale over the divisor of a mean.
        zero_point: The stored number that means 0.
        bounds: Smallest and largest stored number, where narrower than the storage type.
        expressed: The floating-point type that the code stands for.
        levels: For a codebook, the integer level of each code, int32.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    storage: DType
    scale: FrozenArray
    zero_point: int | FrozenArray = 0
    bounds: tuple[int, int] | None = None
    expressed: DType = DType.F32
    levels: FrozenArray | None = None

    @staticmethod
    def of(
        storage: DType,
        scale: ArrayLike,
        zero_point: ArrayLike = 0,
        *,
        bounds: tuple[int, int] | None = None,
        expressed: DType = DType.F32,
        levels: ArrayLike | None = None,
    ) -> Quant:
        """Builds a code from numbers or arrays; the scale is rounded to the type it is kept in."""
        zero_points = _int32(zero_point, "C2: expected zero points")
        return Quant(
            storage,
            FrozenArray(scale, _scale_type(storage)),
            FrozenArray(zero_points) if zero_points.ndim else int(zero_points),
            bounds,
            expressed,
            None if levels is None else FrozenArray(_int32(levels, "C8: expected levels")),
        )

    def __post_init__(self) -> None:
        scale = self.scale.array
        if scale.ndim and scale.size == 1:
            object.__setattr__(self, "scale", FrozenArray(scale.reshape(())))
        if isinstance(self.zero_point, FrozenArray):
            points = self.zero_point.array
            if points.shape != scale.shape:
                raise QirError(
                    f"code: C5: expected zero points of the scale's shape {list(scale.shape)}, "
                    f"got {list(points.shape)}"
                )
            if np.all(points == points.flat[0]):
                object.__setattr__(self, "zero_point", int(points.flat[0]))
        if self.storage.is_integer and self.bounds == self.storage.bounds:
            object.__setattr__(self, "bounds", None)
        self._check()

    def _check(self) -> None:
        if not self.storage.is_integer or not self.expressed.is_float:
            raise QirError(
                "code: C6: expected an integer storage type and a floating-point expressed type, "
                f"got {self.storage.value} and {self.expressed.value}"
            )
        low, high = self.storage.bounds
        if self.bounds and not (low <= self.bounds[0] < self.bounds[1] <= high):
            raise QirError(
                f"code: C3: expected bounds inside [{low}, {high}], lower before upper, "
                f"got {list(self.bounds)}"
            )
        scale = self.scale.array
        if not np.all(np.isfinite(scale) & (scale > 0)):
            bad = scale[~(np.isfinite(scale) & (scale > 0))].flat[0]
            raise QirError(f"code: C1: expected finite scales greater than 0, got {bad!s}")
        if self.storage.bits <= 16:
            outside = (scale < SMALLEST_SCALE) | (scale > 1 / SMALLEST_SCALE)
            if np.any(outside):
                raise QirError(
                    "code: C7: expected scales between 2^-125 and 2^125, "
                    f"got {scale[outside].flat[0]!s}"
                )
        points = self.zero_points
        inside = points == 0 if self.storage.bits >= 32 else np.abs(points) <= FURTHEST_POINT
        if self.levels is None and not np.all(inside):
            bad = points[~inside].flat[0]
            allowed = "of 0" if self.storage.bits >= 32 else f"within {FURTHEST_POINT} of 0"
            raise QirError(f"code: C2: expected a zero point {allowed}, got {bad}")
        if self.levels is not None:
            levels = self.levels.array
            if (
                self.bounds
                or levels.ndim != 1
                or not 2 <= levels.size <= 2**self.storage.bits
                or not np.all(np.diff(levels) > 0)
            ):
                raise QirError(
                    f"code: C8: expected 2 to {2**self.storage.bits} increasing levels and "
                    f"no bounds, got {self.levels!r}"
                )

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest number that may be stored."""
        if self.levels is not None:
            return self.storage.bounds[0], self.storage.bounds[0] + len(self.levels.array) - 1
        return self.bounds or self.storage.bounds

    @property
    def zero_points(self) -> Array:
        """The zero points as an int32 array, 0-d where all are equal."""
        if isinstance(self.zero_point, FrozenArray):
            return self.zero_point.array
        return np.asarray(self.zero_point, np.int32)

    @property
    def holds_zero(self) -> bool:
        """Whether some stored number means 0, in every channel; a codebook's may be near it."""
        if self.levels is not None:
            return True
        low, high = self.range
        return bool(np.all((self.zero_points >= low) & (self.zero_points <= high)))

    @property
    def per_tensor(self) -> bool:
        """Whether one scale and one zero point serve the whole tensor."""
        return self.scale.array.ndim == 0

    @property
    def axis(self) -> int | None:
        """The only axis along which the scale varies; None where there is none or several."""
        varying = [axis for axis, size in enumerate(self.scale.array.shape) if size > 1]
        return varying[0] if len(varying) == 1 else None

    @property
    def inverse_scale(self) -> Array:
        """The float32 reciprocal of the scale, by which `quantize` multiplies; of its shape."""
        return (1.0 / self.scale.array.astype(np.float64)).astype(np.float32)

    def encode(self, real: ArrayLike) -> Array:
        """Returns the stored numbers of real ones: the definition that backends are tested against.

        Codes of at most 16 bits: `clamp(rint(float32(real) * inverse_scale), low - zp, high - zp) +
        zp`, one float32 multiplication, ties to even. Wider ones: `rint(real / scale)` in float64.
        Codebooks: the nearest level, the lower one of two. NaN becomes the zero point, or the
        stored number nearest to it.

        Args:
            real: An array of the tensor's shape.

        Returns:
            An array of the same shape and of the storage's numpy type.
        """
        real = np.asarray(real)
        scale, points = expand(self.scale.array, real.shape), expand(self.zero_points, real.shape)
        low, high = self.range
        if self.levels is not None:
            steps = real.astype(np.float64) / scale + points
            levels = self.levels.array.astype(np.float64)
            steps = np.where(np.isnan(steps), points, steps)
            nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, steps, side="left")
            return (nearest + low).astype(self.storage.numpy)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.storage.bits <= 16:
                single = real.astype(np.float32, copy=False)
                steps = np.asarray(single * expand(self.inverse_scale, real.shape))
            else:
                steps = np.asarray(real.astype(np.float64, copy=False) / scale)
        # In place from here on: weights are large, and new memory takes longer than arithmetic.
        np.rint(steps, out=steps)
        np.copyto(steps, 0, where=np.isnan(steps))
        high = min(high, 2**63 - 1024)  # the greatest that float64 holds in 64 bits
        # Bounds and zero points of at most 16 bits are exact in float32 as well.
        wide = points.astype(np.int64)
        np.clip(steps, *((bound - wide).astype(steps.dtype) for bound in (low, high)), out=steps)
        steps += wide.astype(steps.dtype)
        return steps.astype(self.storage.numpy)

    def decode(self, stored: ArrayLike) -> Array:
        """Returns the real numbers of stored ones, in the expressed type; one float32 product."""
        stored = np.asarray(stored)
        steps = stored.astype(np.int64)
        if self.levels is not None:
            steps = self.levels.array.astype(np.int64)[steps - self.range[0]]
        steps = steps - expand(self.zero_points, stored.shape)
        scale = expand(self.scale.array, stored.shape).astype(np.float32)
        with np.errstate(over="ignore"):
            return (steps.astype(np.float32) * scale).astype(self.expressed.numpy)

    def check(self, shape: Shape) -> None:
        """Raises QirError unless the code fits a tensor of this shape (constraint C4)."""
        counts = self.scale.array.shape
        fits = not counts or len(counts) == len(shape)
        for count, size in zip(counts, shape, strict=False):
            whole = not isinstance(size, Dim) and 0 < count <= size and size % count == 0
            fits = fits and (count == 1 or whole)
        if not fits:
            raise QirError(
                "code: C4: expected a scalar scale or one whose dimensions divide "
                f"{format_shape(shape)}, got a scale of shape {list(counts)}"
            )

    def map_arrays(self, change: Callable[[Array], Array]) -> Quant:
        """Applies a change of layout to scales and zero points that are not scalars."""
        if self.per_tensor:
            return self
        point = self.zero_point
        return replace(
            self,
            scale=FrozenArray(change(self.scale.array)),
            zero_point=FrozenArray(change(point.array))
            if isinstance(point, FrozenArray)
            else point,
        )


def _int32(numbers: ArrayLike, expectation: str) -> Array:
    array = np.asarray(numbers)
    with np.errstate(invalid="ignore"):
        narrow = (
            array.astype(np.int32) if array.dtype.kind in "iuf" else np.zeros_like(array, np.int32)
        )
    if not np.array_equal(narrow, array):
        raise QirError(f"code: {expectation} that are integers of 32 bits, got {array}")
    return narrow


def _scale_type(storage: DType) -> type[np.float32] | type[np.float64]:
    return np.float32 if storage.bits <= 16 else np.float64
