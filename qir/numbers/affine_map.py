"""Affine maps of tensors: a factor and an offset, constant or varying along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qir.types import Array, Size, known


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x * factor + offset, constant or varying along one axis of x.

    Args:
        factor: Factors, float64: one, or one for each place along the axis.
        offset: Offsets, likewise.
        axis: The axis, counted from 0; without meaning where nothing varies.
    """

    factor: Array
    offset: Array
    axis: int

    @staticmethod
    def identity() -> AffineMap:
        """Returns the map that changes nothing."""
        return AffineMap(np.ones(1), np.zeros(1), 0)

    @property
    def is_identity(self) -> bool:
        """Whether the map changes nothing."""
        return not (self.scales or self.shifts)

    @property
    def varies(self) -> bool:
        """Whether there is more than one factor or offset."""
        return max(self.factor.size, self.offset.size) > 1

    @property
    def scales(self) -> bool:
        """Whether a factor is not 1."""
        return bool(np.any(self.factor != 1))

    @property
    def shifts(self) -> bool:
        """Whether an offset is not 0."""
        return bool(np.any(self.offset != 0))

    @property
    def is_positive(self) -> bool:
        """Whether all factors are greater than 0."""
        return bool(np.all(self.factor > 0))

    def after(self, inner: AffineMap) -> AffineMap | None:
        """Returns this map of the result of another; None where they vary along different axes."""
        if self.varies and inner.varies and self.axis != inner.axis:
            return None
        axis = self.axis if self.varies else inner.axis
        return AffineMap(self.factor * inner.factor, inner.offset * self.factor + self.offset, axis)

    def along(self, axis: int, repeats: int = 1) -> AffineMap:
        """Returns the map along another axis, its numbers repeated as a whole."""
        if not self.varies:
            return self
        factor, offset = np.broadcast_arrays(self.factor, self.offset)
        return AffineMap(np.tile(factor, repeats), np.tile(offset, repeats), axis)

    def split(self, sizes: Sequence[Size]) -> list[AffineMap]:
        """Returns the maps of consecutive parts along the axis."""
        if not self.varies:
            return [self] * len(sizes)
        factor, offset = np.broadcast_arrays(self.factor, self.offset)
        cuts = np.cumsum([known(size, "axis of an affine map") for size in sizes])[:-1]
        parts = zip(np.split(factor, cuts), np.split(offset, cuts), strict=True)
        return [AffineMap(*part, self.axis) for part in parts]

    def without_offset(self) -> AffineMap:
        """Returns the map of differences."""
        return replace(self, offset=np.zeros(1))

    def __call__(self, real: Array, rank: int) -> Array:
        """Applies the map to an array that broadcasts against a tensor of some rank."""
        if not self.varies:
            return np.asarray(real * self.factor[0] + self.offset[0])
        shape = [1] * rank
        shape[self.axis] = -1
        return np.asarray(real * self.factor.reshape(shape) + self.offset.reshape(shape))
