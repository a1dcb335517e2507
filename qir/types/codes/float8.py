"""Floating-point numbers of 8 bits, times a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.types.arrays import FrozenArray
from qir.types.codes.code import code
from qir.types.codes.level_code import LevelCode
from qir.types.codes.minifloat import E4M3, E5M2, even_above
from qir.types.codes.parts import magnitudes, only_width, scales_of
from qir.types.dtype import Array, DType


@dataclass(frozen=True)
class Float8(LevelCode):
    """A floating-point number of 8 bits: real = number * scale, the stored number its bit pattern.

    Numbers are rounded to nearest, ties to the even pattern; a sign stays where they become 0. What
    lies beyond the greatest finite number, infinities too, saturates: no number becomes infinite.
    NaN counts as 0, as in all codes. Patterns of infinities and NaN, which only files hold, decode
    as what they are.

    The scale multiplies no integers: the steps of e4m3fn would have 18 bits. Its own constraint,
    beside those of all codes and of those that are a table:

    - C12: the storage type is u8.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    numbers: ClassVar[Array]

    @classmethod
    def of(cls, scale: ArrayLike, *, expressed: DType = DType.F32) -> Self:
        """Builds a code from a scale or an array of them."""
        return cls(DType.U8, FrozenArray(scale), expressed=expressed)

    @classmethod
    def fit(cls, array: ArrayLike, parts: tuple[int, ...] = (), bits: int | None = None) -> Self:
        """Returns the code whose greatest number is the greatest magnitude of its part.

        Args:
            array: The numbers, of the tensor's shape.
            parts: Shape of the scales; () for one.
            bits: 8, or None for it.

        Raises:
            QirError: The parts do not divide the tensor, a number is not finite, or the width is
                another.
        """
        only_width(cls.kind, bits, 8)
        largest = cls.numbers[np.isfinite(cls.numbers)].max()
        bounds = cls.of(1.0).scale_bounds
        return cls(DType.U8, scales_of(magnitudes(array, parts) / largest, *bounds))

    def __post_init__(self) -> None:
        if self.storage is not DType.U8:
            raise QirError(f"code: C12: expected storage u8, got {self.storage.value}")
        super().__post_init__()

    @property
    def range(self) -> tuple[int, int]:
        """All patterns, those of NaN too."""
        return self.storage.bounds

    @property
    def levels(self) -> Array:
        """The number of each pattern."""
        return self.numbers

    @property
    def ties_up(self) -> Array:
        """Whether the upper one of two neighbours has the even pattern; infinities get nothing."""
        levels = self.levels[self.order]
        return (even_above(self.order) | np.isneginf(levels[:-1])) & ~np.isposinf(levels[1:])


@code("fp8_e4m3fn")
@dataclass(frozen=True)
class Float8E4M3(Float8):
    """E4M3 of the OCP 8-bit Floating Point specification: 4 bits of exponent, up to 448."""

    numbers = E4M3


@code("fp8_e5m2")
@dataclass(frozen=True)
class Float8E5M2(Float8):
    """E5M2 of the OCP 8-bit Floating Point specification: 5 bits of exponent, up to 57344."""

    numbers = E5M2
