"""MXFP4: blocks of 32 numbers of 4 bits with a power of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.types.arrays import FrozenArray
from qir.types.codes.code import code
from qir.types.codes.level_code import LevelCode
from qir.types.codes.minifloat import E2M1, even_above
from qir.types.codes.parts import check_blocks, magnitudes, only_width, real_numbers
from qir.types.dims import Shape
from qir.types.dtype import Array, DType

BLOCK = 32
"""Numbers that share a power of two."""

LARGEST_EXPONENT = 2
"""The exponent of the largest power of two among the numbers: that of 4."""

FURTHEST_EXPONENT = 124
"""The powers of two are within this of 1; see constraint C7 of Code."""

STEP = 0.5
"""The least number greater than 0, of which all are multiples."""


@code("mxfp4")
@dataclass(frozen=True)
class MXFP4(LevelCode):
    """MXFP4 of the OCP Microscaling Formats (MX) specification, version 1.0: E2M1 with E8M0 by 32.

    The stored numbers are bit patterns of E2M1. The specification multiplies them by X, a power of
    two for each block of 32 along an axis. Here they are steps, 0, 1, 2, 3, 4, 6, 8, 12 and their
    negatives, of size X / 2, which is the scale: the same numbers, and integers.

    Numbers are rounded to nearest, ties to the even pattern; what lies beyond the greatest
    saturates. NaN counts as 0. The specification's blocks of NaN have no place here, nor do X
    outside of 2^-124 to 2^124, by constraint C7.

    Its own constraint, beside those of all codes and of those that are a table:

    - C13: storage is u4, scales are powers of two, one for each 32 numbers along one axis, and
      there are no multipliers.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    @staticmethod
    def of(shared: ArrayLike, *, expressed: DType = DType.F32) -> MXFP4:
        """Builds a code from the X of its blocks, the numbers that E8M0 holds."""
        return MXFP4(DType.U4, FrozenArray(np.asarray(shared) * STEP), expressed=expressed)

    @classmethod
    def fit(cls, array: ArrayLike, parts: tuple[int, ...] = (), bits: int | None = None) -> MXFP4:
        """Returns the code whose X are 2^(floor(log2(greatest magnitude)) - 2), by section 6.3.

        Args:
            array: The numbers, of the tensor's shape.
            parts: The number of blocks along each axis: of 32 along one, of 1 along all others.
            bits: 4, or None for it.

        Raises:
            QirError: The parts are no such blocks, a number is not finite, or the width is another.
        """
        only_width(cls.kind, bits, 4)
        shape = real_numbers(array).shape
        check_blocks("C13", shape, parts, BLOCK)
        greatest = magnitudes(array, parts)
        _, above = np.frexp(greatest)  # the exponent of the next power of two
        exponents = np.where(greatest > 0, above - 1 - LARGEST_EXPONENT, 1)
        return cls.of(np.ldexp(1.0, np.clip(exponents, -FURTHEST_EXPONENT, FURTHEST_EXPONENT)))

    def __post_init__(self) -> None:
        super().__post_init__()
        powers = np.frexp(self.scale.array)[0] == 0.5
        if self.storage is not DType.U4 or not np.all(powers) or self.multipliers is not None:
            raise QirError(
                "code: C13: expected storage u4 and scales that are powers of two, without "
                f"multipliers, got {self.storage.value} and {self.scale!r}"
            )

    @property
    def shared_scales(self) -> Array:
        """X of each block, float32: the numbers that E8M0 holds."""
        return self.scale.array / np.float32(STEP)

    @property
    def levels(self) -> Array:
        """The steps of the 16 patterns."""
        return E2M1 / STEP

    @property
    def ties_up(self) -> Array:
        """Whether the upper one of two neighbours has the even pattern."""
        return even_above(self.order)

    def check(self, shape: Shape) -> None:
        """Raises QirError unless the tensor has a scale for each 32 numbers (C13)."""
        super().check(shape)
        check_blocks("C13", shape, self.scale.array.shape, BLOCK)
