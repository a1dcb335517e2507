"""Affine maps along one axis, recognized in chains of additions, products and normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from qir.ir import Value
from qir.ops import Add, BatchNorm, Div, Mul, Neg, Sub
from qir.ops.op import Op
from qir.types import Array, Size, known

AFFINE_OPS: tuple[type[Op], ...] = (Add, Sub, Mul, Div, Neg, BatchNorm)
"""The ops that are affine maps of one operand where the others are constants."""


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


def along_one_axis(array: Array, rank: int) -> tuple[Array, int] | None:
    """Describes an array that is constant along all axes but one of a tensor that it broadcasts to.

    Args:
        array: The array.
        rank: The tensor's rank.

    Returns:
        The numbers along the axis as a float64 vector, one where none varies, and the axis of the
        tensor; None where the array varies along several axes.
    """
    real = array.astype(np.float64)
    axis = rank - 1
    for place in range(real.ndim):
        first = real.take([0], place) if real.shape[place] else real
        if real.shape[place] > 1 and np.array_equal(np.broadcast_to(first, real.shape), real):
            real = first
    varying = [place for place, size in enumerate(real.shape) if size != 1]
    if len(varying) > 1:
        return None
    if varying:
        axis = varying[0] + rank - real.ndim
    return real.reshape(-1), axis


def match_affine(value: Value) -> tuple[Value, AffineMap] | None:
    """Returns the tensor that a value is an affine map of, and the map; None for anything else."""
    rank = value.type.rank
    one, zero = np.ones(1), np.zeros(1)
    match value:
        case Value(BatchNorm() as op, [x, *statistics]):
            if not all(part.is_constant for part in statistics):
                return None
            gamma, beta, mean, variance = (part.real.astype(np.float64) for part in statistics)
            with np.errstate(all="ignore"):
                return x, AffineMap(*op.affine(gamma, beta, mean, variance), rank - 1)
        case Value(Neg(), [x]) if x.type.is_float:
            return x, AffineMap(-one, zero, rank - 1)
        case Value(Add() | Sub() | Mul() | Div() as op, [a, b]) if a.is_constant != b.is_constant:
            x, constant = (b, a) if a.is_constant else (a, b)
            if x.type != value.type or not x.type.is_float:
                return None
            if (found := along_one_axis(constant.real, rank)) is None:
                return None
            numbers, axis = found
            match op:
                case Add():
                    return x, AffineMap(one, numbers, axis)
                case Sub():
                    return x, AffineMap(-one, numbers, axis) if x is b else AffineMap(
                        one, -numbers, axis
                    )
                case Mul():
                    return x, AffineMap(numbers, zero, axis)
                case Div():
                    if x is a and np.all(numbers != 0):
                        return x, AffineMap(1 / numbers, zero, axis)
        case _:
            pass
    return None


class Chain(NamedTuple):
    """Consecutive affine maps of which each but the last is read by the next one only.

    Attributes:
        source: What the first one reads.
        affine: All of them as one.
        values: Their results, the last one first.
    """

    source: Value
    affine: AffineMap
    values: tuple[Value, ...]


def affine_chain(value: Value) -> Chain | None:
    """Returns the longest chain of affine maps that ends at a value."""
    if (found := match_affine(value)) is None:
        return None
    source, affine = found
    values = [value]
    while len(source.uses) == 1 and (found := match_affine(source)) is not None:
        if (composed := affine.after(found[1])) is None:
            break
        values.append(source)
        source, affine = found[0], composed
    return Chain(source, affine, tuple(values))


def chain_goes_on(value: Value) -> bool:
    """Whether a value's only reader is an affine map that continues its chain."""
    if len(value.uses) != 1:
        return False
    (reader,) = value.users
    if len(reader.outputs) != 1:
        return False
    outer, inner = match_affine(reader.outputs[0]), match_affine(value)
    return outer is not None and inner is not None and outer[1].after(inner[1]) is not None
