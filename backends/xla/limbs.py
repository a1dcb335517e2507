"""Stored numbers of up to 16 bits as signed bytes: one limb, or a high and a low one.

A sum of products of numbers in limbs is the sum over the pairs of limbs, each a product of signed
bytes, shifted by the places of both:

    stored - point = sum over limbs of (bytes - limb's point) * 2^places

The byte that stands for the real number 0, and which pads, is the limb's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qir.backends.xla.codes import signed, signed_zero_points
from qir.types import Array, DType, TensorType

LOW_BITS = 8
"""Bits of the low one of two limbs."""


class Limb(NamedTuple):
    """Signed bytes that count 2^places each.

    Attributes:
        bytes: int8, a numpy or jax array.
        points: What is subtracted from each: int32, [1], or one for each channel.
        places: By how much they are shifted.
    """

    bytes: Any
    points: Array
    places: int

    @property
    def nonzero_points(self) -> Array | None:
        """What is subtracted; None for nothing."""
        return self.points if np.any(self.points) else None


def limbs(x: Any, type: TensorType) -> list[Limb]:
    """Splits stored numbers.

    The low limb is less than the low byte by 128, so that it is signed; its point makes up for it.

    Args:
        x: A numpy or jax array of the storage's type.
        type: The tensor's type: plain integers of at most 8 bits, or a code of at most 16.
    """
    points = signed_zero_points(type)
    if type.dtype.bits <= LOW_BITS:
        return [Limb(signed(x, type.dtype), points, 0)]
    if type.quant is not None and -128 <= type.quant.range[0] <= type.quant.range[1] <= 127:
        return [Limb(x.astype(np.int8), points, 0)]
    high = x >> LOW_BITS
    low = signed((x & 0xFF).astype(np.uint8), DType.U8)
    if type.dtype is DType.U16:
        high = signed(high.astype(np.uint8), DType.U8)
        points = points - (128 << LOW_BITS)
    above, below = _split(points - 128)
    return [Limb(high.astype(np.int8), above, LOW_BITS), Limb(low, below, 0)]


def constant_limbs(stored: Array, type: TensorType) -> list[Limb]:
    """Splits stored numbers that are known; zero points are taken off where bytes hold the rest."""
    points = signed_zero_points(type)
    if type.dtype.bits <= LOW_BITS and not np.any(points):
        return limbs(stored, type)
    offset = 128 if type.dtype is DType.U8 else 0
    steps = stored.astype(np.int32) - offset - points
    if not steps.size:
        return [Limb(steps.astype(np.int8), np.zeros(1, np.int32), 0)]
    none = np.zeros(1, np.int32)
    least, most = int(steps.min()), int(steps.max())
    if least >= -128 and most <= 127:
        return [Limb(steps.astype(np.int8), none, 0)]
    # The greatest with a high byte of 127, the least with one of -128.
    fit = least >= (-128 << LOW_BITS) - 128 and most <= (127 << LOW_BITS) + 127
    if type.dtype.bits > LOW_BITS and fit:
        high, low = (limb.astype(np.int8) for limb in _split(steps))
        return [Limb(high, none, LOW_BITS), Limb(low, none, 0)]
    return limbs(stored, type)


def _split(numbers: Array) -> tuple[Array, Array]:
    """Returns high and low with numbers = 256 * high + low and low in [-128, 127]."""
    high = (numbers + 128) >> LOW_BITS
    return high, numbers - (high << LOW_BITS)


def zero_bytes(type: TensorType) -> list[int]:
    """Returns for each limb of a tensor with one zero point the byte that stands for 0.

    Where no stored number means 0, none stands for it, and nothing asks for it.
    """
    (point, *_) = np.zeros(1, int) if type.quant is None else type.quant.zero_points.reshape(-1)
    low, high = type.dtype.bounds
    nearest = np.clip([point], low, high).astype(type.dtype.numpy)
    return [int(limb.bytes[0]) for limb in limbs(nearest, type)]
