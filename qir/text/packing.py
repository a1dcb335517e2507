"""The raw bytes of arrays that lie beside a text: how many there are, and what they hold."""

from __future__ import annotations

from math import prod

import numpy as np

from qir.errors import QirError, counted
from qir.types import Array, DType

E8M0 = "e8m0"
"""The form of powers of two: the exponents of float32 numbers, as of the scales of MXFP4."""

CURVE = "curve"
"""The form of tables of smooth functions: their second differences, of 4 bits.

A table by stored numbers begins at 0 and jumps from the greatest to the least, so that differences
begin behind the greatest jump. Three int32 come first: where that is, the number there and the
difference to the next."""

LEAST_CURVE, MOST_CURVE = 4096, 65_536
"""Numbers that a table has at the least, and at the most, to be written as a curve: one of 12 bits
and one of 16. Without an end a short file could name an array 64 times as long as itself."""

CURVED = (DType.I16, DType.I32)
"""Types of such tables."""

FRACTION_BITS = 23
"""Bits of a float32 number below its exponent."""

_SAMPLE = 64
"""Numbers that are looked at first, so that large arrays of others take no time."""

_HEAD_BYTES = 12


def compact_form(array: Array) -> str:
    """Returns the form in which an array takes fewer bytes, empty where there is none.

    Args:
        array: An array of any shape and type.
    """
    if array.dtype == np.float32 and array.size:
        return E8M0 if _are_powers(array) else ""
    kinds = [dtype.numpy for dtype in CURVED]
    if array.dtype in kinds and array.ndim == 1 and LEAST_CURVE <= array.size <= MOST_CURVE:
        return "" if _differences(array) is None else CURVE
    return ""


def _are_powers(array: Array) -> bool:
    flat = array.reshape(-1).view(np.uint32)
    for bits in (flat[:_SAMPLE], flat):
        exponent, fraction = bits >> FRACTION_BITS, bits & (2**FRACTION_BITS - 1)
        # A sign is a bit above the exponent; 0 and 255 belong to zeros and infinities.
        if np.any(fraction) or np.any((exponent < 1) | (exponent > 254)):
            return False
    return True


def _differences(array: Array) -> tuple[list[int], Array] | None:
    """Returns place, number, difference and the second differences; None where they are larger."""
    wide = array.astype(np.int64)
    place = (int(np.argmax(np.abs(np.diff(wide, append=wide[:1])))) + 1) % wide.size
    turned = np.roll(wide, -place)
    head, second = [place, *turned[:2].tolist()], np.diff(turned, 2)
    head[2] -= head[1]
    fits = np.all(np.abs(head) < 2**31) and second.min() >= -8 and second.max() <= 7
    return (head, second.astype(np.int8)) if fits else None


def packed_bytes(dtype: DType, shape: tuple[int, ...], form: str = "") -> int:
    """Returns how many bytes an array takes.

    Args:
        dtype: Its type.
        shape: Its shape.
        form: Its form, as of `compact_form`.

    Raises:
        QirError: There is no such form of the type.
    """
    is_table = dtype in CURVED and len(shape) == 1 and LEAST_CURVE <= shape[0] <= MOST_CURVE
    if form == CURVE and is_table:
        return _HEAD_BYTES + packed_bytes(DType.I4, (shape[0] - 2,))
    if form == CURVE and prod(shape) > MOST_CURVE:
        raise QirError(
            f"load: expected at most {MOST_CURVE} integers as {CURVE}, "
            f"got {dtype.value}{list(shape)}"
        )
    if form and (form != E8M0 or dtype is not DType.F32):
        raise QirError(
            f"load: expected f32 as {E8M0}, a table of {LEAST_CURVE} integers and more as {CURVE}, "
            f"or no form, got {dtype.value}{list(shape)} as {form}"
        )
    bits = 8 if form or dtype is DType.BOOL else dtype.bits
    return -(-prod(shape) * bits // 8)


def unpacked_bytes(dtype: DType, shape: tuple[int, ...]) -> int:
    """Returns how many bytes an array takes in memory, whatever form its bytes have in a file.

    Args:
        dtype: Its type.
        shape: Its shape.
    """
    return prod(shape) * dtype.numpy.itemsize


def pack(array: Array, dtype: DType, form: str = "") -> Array:
    """Returns the raw bytes of an array, little endian.

    Below 8 bits a byte holds several elements, the first one lowest.

    Args:
        array: The array.
        dtype: Its type.
        form: What `compact_form` says of it, or nothing.
    """
    whole = np.ascontiguousarray(array)
    if form == CURVE:
        found = _differences(array)
        if found is None:
            raise QirError("save: expected a smooth table for the form curve")
        head, second = found
        return np.concatenate([np.array(head, "<i4").view(np.uint8), pack(second, DType.I4)])
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
    if form == CURVE:
        place, first, slope = raw[:_HEAD_BYTES].view("<i4").tolist()
        second = unpack(raw[_HEAD_BYTES:], DType.I4, (count - 2,)).astype(np.int64)
        slopes = np.cumsum(np.append(slope, second))
        turned = np.cumsum(np.append(first, slopes)).astype(dtype.numpy)
        return np.roll(turned, place)
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
