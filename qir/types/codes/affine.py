"""Affine codes: a scale and a zero point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.types.arrays import FrozenArray, expand
from qir.types.codes.code import Code, code, in_text
from qir.types.codes.parts import magnitudes, scales_of, storage_of
from qir.types.dtype import Array, DType

FURTHEST_POINT = 2**16
"""See constraint C2 of Affine: sums of zero point and stored number are exact in float32."""

_AT_A_TIME = 2**18
"""Numbers that are encoded at a time, where there are many."""


@code("affine")
@dataclass(frozen=True)
class Affine(Code):
    """An affine code: real = (stored - zero_point) * scale.

    Its own constraints, beside those of all codes:

    - C2: every zero point is at most 2^16 away from 0, inside the bounds or not; 32-bit and wider
      storage has zero point 0. One outside of the bounds is for numbers far from zero: no stored
      number means 0 then, see `holds_zero`.
    - C3: the bounds lie inside the storage type, the lower one below the upper one.
    - C5: an array of zero points has the shape of the scale.

    Args:
        storage: The integer type of the stored numbers.
        scale: Real size of one step.
        zero_point: The stored number that means 0.
        bounds: Smallest and largest stored number, where narrower than the storage type.
        expressed: The floating-point type that the code stands for.
        multipliers: The second level of the scale; (stored - zero_point) * multiplier is a step.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    zero_point: int | FrozenArray = in_text("zp", default=0, spread=True)
    bounds: tuple[int, int] | None = None

    @staticmethod
    def of(
        storage: DType,
        scale: ArrayLike,
        zero_point: ArrayLike = 0,
        *,
        bounds: tuple[int, int] | None = None,
        expressed: DType = DType.F32,
        multipliers: ArrayLike | None = None,
    ) -> Affine:
        """Builds a code from numbers or arrays; the scale is rounded to the type it is kept in."""
        return Affine(
            storage,
            FrozenArray(scale, np.float32 if storage.bits <= 16 else np.float64),
            FrozenArray(zero_point),
            bounds,
            expressed=expressed,
            multipliers=None if multipliers is None else FrozenArray(multipliers),
        )

    @classmethod
    def fit(cls, array: ArrayLike, parts: tuple[int, ...] = (), bits: int | None = None) -> Affine:
        """Returns the symmetric code of 2 to 16 bits: scale = greatest magnitude / greatest number.

        The bounds are as far from 0 on either side, so that no sign is cut off.

        Args:
            array: The numbers, of the tensor's shape.
            parts: Shape of the scales; () for one.
            bits: The width, 8 unless given.

        Raises:
            QirError: The parts do not divide the tensor, a number is not finite, or the width is
                another.
        """
        width = 8 if bits is None else bits
        storage = storage_of(width, signed=True)
        greatest = 2 ** (width - 1) - 1
        scale = scales_of(magnitudes(array, parts) / greatest)
        return cls(storage, scale, 0, (-greatest, greatest))

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.zero_point, FrozenArray):
            points = _int32(self.zero_point.array)
            if points.ndim and points.shape != self.scale.array.shape and points.size != 1:
                raise QirError(
                    "code: C5: expected zero points of the scale's shape "
                    f"{list(self.scale.array.shape)}, got {list(points.shape)}"
                )
            first = int(points.flat[0]) if points.size else 0
            point = first if np.all(points == first) else FrozenArray(points)
            object.__setattr__(self, "zero_point", point)
        if self.bounds == self.storage.bounds:
            object.__setattr__(self, "bounds", None)
        low, high = self.storage.bounds
        if self.bounds and not (low <= self.bounds[0] < self.bounds[1] <= high):
            raise QirError(
                f"code: C3: expected bounds inside [{low}, {high}], lower before upper, "
                f"got {list(self.bounds)}"
            )
        furthest = 0 if self.storage.bits >= 32 else FURTHEST_POINT
        if isinstance(self.zero_point, FrozenArray):
            points = self.zero_point.array.astype(np.int64)  # of which -2^31 has a magnitude
            outside = points[np.abs(points) > furthest].tolist()
        else:
            outside = [self.zero_point] if abs(self.zero_point) > furthest else []
        if outside:
            bad = outside[0]
            allowed = "of 0" if self.storage.bits >= 32 else f"within {FURTHEST_POINT} of 0"
            raise QirError(f"code: C2: expected a zero point {allowed}, got {bad}")

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest number that may be stored."""
        return self.bounds or self.storage.bounds

    @property
    def zero_points(self) -> Array:
        """The zero points as an int32 array, 0-d where all are equal."""
        if isinstance(self.zero_point, FrozenArray):
            return self.zero_point.array
        return np.asarray(self.zero_point, np.int32)

    @property
    def holds_zero(self) -> bool:
        """Whether some stored number means 0, in every channel."""
        low, high = self.range
        return bool(np.all((self.zero_points >= low) & (self.zero_points <= high)))

    @property
    def real_bounds(self) -> tuple[float, float]:
        """The least and the greatest step without its multiplier."""
        (low, high), points = self.range, self.zero_points
        return low - int(points.max()), high - int(points.min())

    @property
    def is_ordered(self) -> bool:
        """True: the scale is positive."""
        return True

    def encode(self, real: ArrayLike) -> Array:
        """Returns the stored numbers of real ones: the definition that backends are tested against.

        Codes of at most 16 bits: `clamp(rint(float32(real) * inverse_scale), low - zp, high - zp) +
        zp`, one float32 multiplication, ties to even. Wider ones: `rint(real / scale)` in float64.
        NaN becomes the zero point, or the stored number nearest to it.

        Args:
            real: An array of the tensor's shape.

        Returns:
            An array of the same shape and of the storage's numpy type.
        """
        real = np.asarray(real)
        scale = self.inverse_scale if self.storage.bits <= 16 else self.scale.array
        factors = (expand(scale, real.shape), expand(self.zero_points, real.shape))
        if real.size <= 2 * _AT_A_TIME:
            return self._encoded(real, *factors)
        # Weights are large: what is made on the way stays in caches.
        stored = np.empty(real.shape, self.storage.numpy)
        rows = max(_AT_A_TIME * len(real) // real.size, 1)
        for part in (slice(first, first + rows) for first in range(0, len(real), rows)):
            own = (each[part] if each.ndim and len(each) > 1 else each for each in factors)
            stored[part] = self._encoded(real[part], *own)
        return stored

    def _encoded(self, real: Array, scale: Array, points: Array) -> Array:
        low, high = self.range
        with np.errstate(over="ignore", invalid="ignore"):
            if self.storage.bits <= 16:
                steps = np.asarray(real.astype(np.float32, copy=False) * scale)
            else:
                steps = np.asarray(real.astype(np.float64, copy=False) / scale)
        np.rint(steps, out=steps)
        np.copyto(steps, 0, where=np.isnan(steps))
        high = min(high, 2**63 - 1024)  # the greatest that float64 holds in 64 bits
        # Bounds and zero points of at most 16 bits are exact in float32 as well.
        wide = points.astype(np.int64)
        np.clip(steps, *((bound - wide).astype(steps.dtype) for bound in (low, high)), out=steps)
        steps += wide.astype(steps.dtype)
        return steps.astype(self.storage.numpy)

    def steps_between(self, low: int, high: int) -> tuple[int, int]:
        """Returns the least and the greatest step of stored numbers from low to high."""
        points = self.zero_points
        return self.multiplied_bounds(low - int(points.max()), high - int(points.min()))

    def steps(self, stored: Array) -> Array:
        """Returns (stored - zero point) * multiplier, as int64."""
        steps = stored.astype(np.int64)
        if self.zero_points.any():
            steps = np.subtract(steps, expand(self.zero_points, stored.shape))
        return self.multiplied(steps)


def _int32(numbers: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        narrow = (
            numbers.astype(np.int32)
            if numbers.dtype.kind in "iuf"
            else np.zeros_like(numbers, np.int32)
        )
    if not np.array_equal(narrow, numbers):
        raise QirError(
            f"code: C2: expected zero points that are integers of 32 bits, got {numbers}"
        )
    return narrow
