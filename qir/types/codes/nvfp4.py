"""NVFP4: blocks of 16 numbers of 4 bits with a scale of 8 bits, and a scale of the tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError
from qir.types.arrays import FrozenArray
from qir.types.codes.code import code, in_text
from qir.types.codes.float8 import Float8E4M3
from qir.types.codes.level_code import LevelCode
from qir.types.codes.minifloat import E2M1, E4M3, even_above
from qir.types.codes.parts import (
    check_blocks,
    magnitudes,
    only_width,
    per_part,
    real_numbers,
    scales_of,
)
from qir.types.dims import Shape
from qir.types.dtype import Array, DType

BLOCK = 16
"""Numbers that share a scale."""

GREATEST_SCALE = 448
"""The greatest number of E4M3."""

GREATEST = 6
"""The greatest number of E2M1."""

LEAST_BLOCK, GREATEST_BLOCK = 1, 0x7E
"""The patterns of E4M3 that a block may have: 2^-9 to 448."""


@code("nvfp4")
@dataclass(frozen=True)
class NVFP4(LevelCode):
    """NVFP4: real = E2M1 number * float32(E4M3 scale of its block * float32 scale of the tensor).

    The two scales are multiplied first, rounded to float32, and then the number by their product:
    the order of NVIDIA's Transformer Engine (`dequantize_nvfp4.cuh`) and of ONNX graphs for
    TensorRT, where one DequantizeLinear makes the scales of another. Stored numbers and block
    scales are bit patterns; a block is 16 numbers along one axis.

    Numbers are rounded to nearest, ties to the even pattern, and saturate; NaN counts as 0.
    Transformer Engine multiplies by a float32 reciprocal instead of dividing, which differs where a
    number is within 2^-22 of a tie.

    Its own constraint, beside those of all codes and of those that are a table:

    - C14: storage is u4, there is one scale for the tensor and no multipliers, and an E4M3 number
      from 2^-9 to 448 for each 16 numbers along one axis.

    Args:
        storage: u4.
        scale: The scale of the tensor.
        block_scales: The bit patterns of the scales of the blocks, u8.
        expressed: The floating-point type that the code stands for.
        multipliers: None.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    block_scales: FrozenArray = in_text(by_place=True)

    @staticmethod
    def of(scale: float, block_scales: ArrayLike, *, expressed: DType = DType.F32) -> NVFP4:
        """Builds a code from the tensor's scale and the bit patterns of its blocks' scales."""
        return NVFP4(DType.U4, FrozenArray(scale), FrozenArray(block_scales), expressed=expressed)

    @classmethod
    def fit(cls, array: ArrayLike, parts: tuple[int, ...] = (), bits: int | None = None) -> NVFP4:
        """Returns the code that NVIDIA's recipe gives.

        The tensor's scale is its greatest magnitude / (6 * 448), the scale of a block its own
        greatest magnitude / 6 / the tensor's scale, rounded to E4M3: appendix C of "Pretraining
        Large Language Models with NVFP4" (NVIDIA 2025, arXiv:2509.25149). Blocks whose scale would
        be 0 have the least one.

        Args:
            array: The numbers, of the tensor's shape.
            parts: The number of blocks along each axis: of 16 along one, of 1 along all others.
            bits: 4, or None for it.

        Raises:
            QirError: The parts are no such blocks, a number is not finite, or the width is another.
        """
        only_width(cls.kind, bits, 4)
        check_blocks("C14", real_numbers(array).shape, parts, BLOCK)
        greatest = magnitudes(array, parts)
        # The bounds of C7 hold for the least and the greatest scale that a block may have.
        low, high = cls.of(1.0, LEAST_BLOCK).scale_bounds
        low, high = low / E4M3[LEAST_BLOCK], high / GREATEST_SCALE
        scale = scales_of(greatest.max(initial=0) / (GREATEST * GREATEST_SCALE), low, high)
        wanted = per_part(greatest / GREATEST, scale.array)
        patterns = np.clip(Float8E4M3.of(1.0).encode(wanted), LEAST_BLOCK, GREATEST_BLOCK)
        return cls(DType.U4, scale, FrozenArray(patterns))

    def __post_init__(self) -> None:
        patterns = self.block_scales.array
        inside = patterns.dtype.kind in "iu" and np.all(
            (patterns >= LEAST_BLOCK) & (patterns <= GREATEST_BLOCK)
        )
        if self.storage is not DType.U4 or self.scale.array.size != 1 or self.multipliers:
            raise QirError(
                "code: C14: expected storage u4, one scale for the tensor and no multipliers, got "
                f"{self.storage.value} and {self.scale!r}"
            )
        if not inside:
            raise QirError(
                "code: C14: expected block scales that are bit patterns of E4M3 from 2^-9 to 448, "
                f"integers from {LEAST_BLOCK} to {GREATEST_BLOCK}, got {self.block_scales!r}"
            )
        flat = patterns.reshape(()) if patterns.size == 1 else patterns
        object.__setattr__(self, "block_scales", FrozenArray(flat, np.uint8))
        super().__post_init__()

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of blocks along each axis; () for one."""
        return self.block_scales.array.shape

    @property
    def per_tensor(self) -> bool:
        """Whether there is one block."""
        return not self.grid

    @cached_property
    def _products(self) -> Array:
        return E4M3[self.block_scales.array].astype(np.float32) * self.scale.array

    @property
    def step_sizes(self) -> Array:
        """The products of the two scales, float32, of shape `grid`."""
        return self._products

    @property
    def decoding_scale(self) -> Array:
        """The products of the two scales."""
        return self._products

    @property
    def levels(self) -> Array:
        """The numbers of the 16 patterns."""
        return E2M1

    @property
    def ties_up(self) -> Array:
        """Whether the upper one of two neighbours has the even pattern."""
        return even_above(self.order)

    def check(self, shape: Shape) -> None:
        """Raises QirError unless the tensor has a scale for each 16 numbers (C14)."""
        super().check(shape)
        check_blocks("C14", shape, self.grid, BLOCK)
