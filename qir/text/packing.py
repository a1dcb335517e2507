"""The raw bytes of arrays that lie beside a text: how many there are, and what they hold."""

from __future__ import annotations

from math import prod

import numpy as np

from qir.errors import QirError, counted
from qir.types import Array, DType

E8M0 = "e8m0"
"""The form of powers of two: the exponents of float32 numbers, as of the scales of MXFP4."""

FRACTION_BITS = 23
"""Bits of a float32 number below its exponent."""

_SAMPLE = 64
"""Numbers that are looked at first, so that large arrays of others take no time."""


def compact_form(array: Array) -> str:
    """Returns the form in which an array takes fewer bytes, empty where there is none.

    Args:
        array: An array of any shape and type.
    """
    if array.dtype != np.float32 or not array.size:
        return ""
    flat = array.reshape(-1).view(np.uint32)
    for bits in (flat[:_SAMPLE], flat):
        exponent, fraction = bits >> FRACTION_BITS, bits & (2**FRACTION_BITS - 1)
        # A sign is a bit above the exponent; 0 and 255 belong to zeros and infinities.
        if np.any(fraction) or np.any((exponent < 1) | (exponent > 254)):
            return ""
    return E8M0


def packed_bytes(dtype: DType, shape: tuple[int, ...], form: str = "") -> int:
    """Returns how many bytes an array takes.

    Args:
        dtype: Its type.
        shape: Its shape.
        form: Its form, as of `compact_form`.

    Raises:
        QirError: There is no such form of the type.
    """
    if form and (form != E8M0 or dtype is not DType.F32):
        raise QirError(
            f"load: expected f32 in the form {E8M0}, or no form, got {dtype.value} as {form}"
        )
    bits = 8 if form or dtype is DType.BOOL else dtype.bits
    return -(-prod(shape) * bits // 8)


def pack(array: Array, dtype: DType, form: str = "") -> Array:
    """Returns the raw bytes of an array, little endian.

    Below 8 bits a byte holds several elements, the first one lowest.

    Args:
        array: The array.
        dtype: Its type.
        form: What `compact_form` says of it, or nothing.
    """
    whole = np.ascontiguousarray(array)
    if form:
        exponents: Array = (whole.reshape(-1).view(np.uint32) >> FRACTION_BITS).astype(np.uint8)
        return exponents
    if dtype.bits >= 8 or dtype is DType.BOOL:
        return np.frombuffer(whole.tobytes(), np.uint8)
    per_byte = 8 // dtype.bits
    flat = array.reshape(-1).astype(np.uint8) & (2**dtype.bits - 1)
    padded = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * dtype.bits
    packed: Array = np.bitwise_or.reduce(padded << shifts, axis=1)
    return packed.astype(np.uint8)


def unpack(raw: Array, dtype: DType, shape: tuple[int, ...], form: str = "") -> Array:
    """Reverses `pack`.

    Raises:
        QirError: The number of bytes is not the shape's, or there is no such form.
    """
    count, size = prod(shape), packed_bytes(dtype, shape, form)
    if raw.dtype != np.uint8 or raw.shape != (size,):
        raise QirError(
            f"load: expected {counted(size, 'byte')} for {dtype.value}{list(shape)}, got {raw.size}"
        )
    if form:
        powers: Array = (raw.astype(np.uint32) << FRACTION_BITS).view(np.float32).reshape(shape)
        powers.flags.writeable = False
        return powers
    if dtype.bits >= 8 or dtype is DType.BOOL:
        whole: Array = raw.view(dtype.numpy).reshape(shape)
        whole.flags.writeable = False
        return whole
    shifts = np.arange(8 // dtype.bits, dtype=np.uint8) * dtype.bits
    fields: Array = (raw[:, None] >> shifts) & (2**dtype.bits - 1)
    values = fields.reshape(-1)[:count].astype(np.int16)
    if dtype.bounds[0] < 0:
        values = np.where(values > dtype.bounds[1], values - 2**dtype.bits, values)
    return values.astype(dtype.numpy).reshape(shape)
