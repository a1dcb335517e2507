"""Steps of codes as signed bytes: one limb where bytes hold them, or several.

A sum of products of numbers in limbs is the sum over the pairs of limbs, each a product of signed
bytes, shifted by the places of both:

    step = sum over limbs of (bytes - the limb's point) * 2^places

Stored numbers of affine codes enter as they are, and their zero points stay outside of the dot.
The byte that stands for the real number 0, and which pads, is the limb's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qir.backends.xla.codes import signed, signed_zero_points, steps
from qir.errors import UnsupportedError
from qir.types import Affine, Array, DType, TensorType

BYTE = 8
"""Bits of every limb but the highest."""

_NONE = np.zeros(1, np.int32)


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

    Args:
        x: A numpy or jax array of the storage's type.
        type: The tensor's type: plain integers of at most 8 bits, or a code of at most 16 that has
            steps.
    """
    code = type.quant
    if code is not None and type.dtype.bits > 2 * BYTE:
        raise UnsupportedError(
            f"xla: expected operands of at most 16 bits in a sum of products, got {type}; "
            "requantize it first"
        )
    if code is not None and not _enters_stored(type):
        bounds = code.step_bounds
        assert bounds is not None
        return _limbs_of(code.steps(x) if isinstance(x, np.ndarray) else steps(x, code), bounds)
    points = signed_zero_points(type)
    if type.dtype.bits <= BYTE:
        return [Limb(signed(x, type.dtype), points, 0)]
    if code is not None and -128 <= code.range[0] <= code.range[1] <= 127:
        return [Limb(x.astype(np.int8), points, 0)]
    # The low limb is less than the low byte by 128, so that it is signed; points make up for it.
    high = x >> BYTE
    low = signed((x & 0xFF).astype(np.uint8), DType.U8)
    if type.dtype is DType.U16:
        high = signed(high.astype(np.uint8), DType.U8)
        points = points - (128 << BYTE)
    above, below = _split(points - 128)
    return [Limb(high.astype(np.int8), above, BYTE), Limb(low, below, 0)]


def constant_limbs(stored: Array, type: TensorType) -> list[Limb]:
    """Splits stored numbers that are known; zero points are taken off where limbs get no more."""
    whole = limbs(stored, type)
    if all(limb.nonzero_points is None for limb in whole) or not stored.size:
        return whole
    known = type.code.steps(stored) if type.quant is not None else stored.astype(np.int64)
    centred = _limbs_of(known, (int(known.min()), int(known.max())))
    return centred if len(centred) <= len(whole) else whole


def zero_bytes(type: TensorType) -> list[int]:
    """Returns for each limb of a tensor with one zero point the byte that stands for 0.

    Where no stored number means 0, none stands for it, and nothing asks for it.
    """
    code = type.quant
    if code is not None and not _enters_stored(type):
        return [0 for _ in empty_limbs(type)]
    point = code.zero_points.reshape(-1)[0] if isinstance(code, Affine) else 0
    nearest = np.clip([point], *type.dtype.bounds).astype(type.dtype.numpy)
    return [int(limb.bytes[0]) for limb in limbs(nearest, type)]


def empty_limbs(type: TensorType) -> list[Limb]:
    """Returns the points and the places of a tensor's limbs, with bytes that mean nothing."""
    code = type.quant
    if code is None or _enters_stored(type):
        return limbs(np.zeros(1, type.dtype.numpy), type)
    assert code.step_bounds is not None
    return _limbs_of(np.zeros(1, np.int64), code.step_bounds)


def points_of(type: TensorType) -> Array:
    """Returns what limbs of a tensor exceed its steps by: int64, of the shape of its zero points.

    That is a scalar, unless they vary.
    """
    code = type.quant
    shape = code.zero_points.shape if isinstance(code, Affine) and _enters_stored(type) else ()
    found = sum(limb.points.astype(np.int64) << limb.places for limb in empty_limbs(type))
    return np.asarray(found).reshape(shape)


def _enters_stored(type: TensorType) -> bool:
    """Whether stored numbers less one number for each channel are the steps."""
    code = type.quant
    return code is None or (isinstance(code, Affine) and code.multipliers is None)


def _limbs_of(numbers: Any, bounds: tuple[int, int]) -> list[Limb]:
    """Splits integers within bounds into as few limbs as hold them."""
    parts, places, (low, high) = [], 0, bounds
    while low < -128 or high > 127:
        numbers, rest = _split(numbers)
        parts.append(Limb(rest.astype(np.int8), _NONE, places))
        (low, high), places = ((low + 128) >> BYTE, (high + 128) >> BYTE), places + BYTE
    return [*parts, Limb(numbers.astype(np.int8), _NONE, places)]


def _split(numbers: Any) -> tuple[Any, Any]:
    """Returns high and low with numbers = 256 * high + low and low in [-128, 127]."""
    high = (numbers + 128) >> BYTE
    return high, numbers - (high << BYTE)
