"""The machine forms of `qir.numbers.rounding`, and the casts to and from float, in XLA.

Every function gives the integers of its numpy definition, bit for bit, inside any `jax.jit`. The
programs hold int32, uint32 and float32 only, whether or not the x64 flag is set.

What XLA does to floats decides the forms used here. It may fuse `a * b + c` into one rounding, and
reassociates `(x * a) * b` for constants, so each float path is one multiply followed by `round`. It
turns division by a broadcast value into multiplication by a reciprocal, so there is no division. On
CPU it flushes denormals to zero; the functions say why that cannot reach an integer. Conversions of
floats saturate and those of integers wrap, so every value is clamped before it is narrowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from numpy.typing import NDArray

from qir.backends.xla.words import Words
from qir.errors import QirError
from qir.numbers.int32 import INT32_MAX, INT32_MIN
from qir.numbers.long_sums import LONG_PLACES
from qir.numbers.rounding import MAX_SHIFT, Ties, check_float32_bounds

ZeroPoint: TypeAlias = int | NDArray[np.integer]
NumberOrArray: TypeAlias = float | NDArray[np.number] | jax.Array


def requantize_scaled(
    acc: jax.Array | Words,
    multiplier: NumberOrArray,
    shift: NumberOrArray,
    zero_point: ZeroPoint,
    low: int,
    high: int,
    dtype: DTypeLike,
    *,
    second: NumberOrArray | None = None,
    ties: Ties = "up",
    shift_range: tuple[int, int] | None = None,
) -> jax.Array:
    """Requantizes by the machine form `Scaled`, on 16-bit limbs.

    Four int32 multiplies suffice where every shift is known to be at least 33, that is m < 1/4 as
    behind nearly every conv and dot. Smaller shifts need the low word of the product as well.

    Args:
        acc: int32 accumulators, or those of two words, which count 2^-16 (`long_scaled` of
            `qir.numbers.long_sums` is what they come to).
        multiplier: M, a constant or a traced int32 array that broadcasts against `acc`.
        shift: s, likewise.
        zero_point: Constant scalar or array.
        low: Smallest stored value of the result.
        high: Largest stored value of the result.
        dtype: Integer dtype of the result, which holds [low, high].
        second: The shift of a second rounding, likewise.
        ties: Where the second rounding takes a half.
        shift_range: Least and greatest shift, where `shift` is traced but its values are known.
            Constants need none.

    Raises:
        QirError: The zero point is so far from [low, high] that int32 does not hold their distance.
    """
    value, places = _int32(multiplier), _int32(shift)
    if shift_range is not None:
        least, greatest = shift_range
    elif isinstance(places, jax.Array):
        least, greatest = 1, MAX_SHIFT
    else:
        # A zero multiplier gives zero at any shift, and must not cost the others the short path.
        if not isinstance(value, jax.Array):
            places = np.where(value == 0, max(33, int(places.max())), places).astype(np.int32)
        least, greatest = int(places.min()), int(places.max())

    if isinstance(acc, Words):
        high_word, low_word = _long_product(acc, value)
    else:
        high_word = product_high_word(acc, value >> 16, value & 0xFFFF)
        low_word = acc * value
    if least >= 33:
        rounded = _shift_high_word(high_word, places)
    else:
        rounded = _shift_both_words(high_word, low_word, jnp.minimum(places, 32))
        if greatest >= 33:
            far = _shift_high_word(high_word, jnp.maximum(places, 33))
            rounded = jnp.where(places >= 33, far, rounded)
    if second is not None:
        rounded = _second_rounding(rounded, _int32(second), ties)

    offset = np.asarray(zero_point, np.int64)
    if np.any(low - offset > INT32_MAX) or np.any(high - offset < INT32_MIN):
        raise QirError(f"zero point: expected within 2^31 of [{low}, {high}], got {zero_point}")
    least_code = np.maximum(low - offset, INT32_MIN).astype(np.int32)
    greatest_code = np.minimum(high - offset, INT32_MAX).astype(np.int32)
    return _store(jnp.clip(rounded, least_code, greatest_code), zero_point, dtype)


def scaled_sum(x: jax.Array, y: jax.Array, factors: tuple[int, int], shift: int) -> jax.Array:
    """Returns `floor((x * mx + y * my + 2^(shift-1)) / 2^shift)`, saturated to int32.

    The sum is one of 48 bits in two words.

    Args:
        x: int32 of at most 18 bits.
        y: Likewise; they broadcast.
        factors: mx in [0, 2^31) and my in (-2^31, 2^31).
        shift: In [1, 30].
    """
    products = []
    for steps, factor in zip((x, y), factors, strict=True):
        value, signed = np.asarray(abs(factor), np.int32), -steps if factor < 0 else steps
        high = product_high_word(signed, value >> 16, value & 0xFFFF)
        products.append(Words(high.astype(jnp.uint32), (signed * value).astype(jnp.uint32)))
    total = products[0].plus(products[1])
    high, low = (lax.bitcast_convert_type(word, jnp.int32) for word in total)
    return _shift_both_words(high, low, jnp.full_like(low, shift))


def requantize_by_high_word(
    acc: jax.Array, limbs: Sequence[NumberOrArray], low: int, high: int, dtype: DTypeLike
) -> jax.Array:
    """Requantizes by the machine form `HighWord` without a lift, on 16-bit limbs.

    Args:
        acc: int32 accumulators.
        limbs: The high and the low 16 bits of M, the addend and the shift: constants or traced
            int32 arrays, each of which broadcasts against `acc`.
        low: Smallest stored value of the result.
        high: Largest stored value of the result.
        dtype: Integer dtype of the result, which holds [low, high].
    """
    value_high, value_low, addend, places = map(_int32, limbs)
    rounded = (product_high_word(acc, value_high, value_low) + addend) >> places
    return jnp.clip(rounded, low, high).astype(dtype)


def requantize_by_thresholds(
    acc: jax.Array, row: NumberOrArray, base: NumberOrArray, edges: jax.Array, dtype: DTypeLike
) -> jax.Array:
    """Requantizes by the machine form `Thresholds`: a binary search of eight steps.

    Args:
        acc: int32 accumulators.
        row: Which row of `edges` each goes by: int32 that broadcasts against `acc`.
        base: The result where no edge is below, likewise.
        edges: int32 of shape [rows, at most 255], each row in rising order.
        dtype: Integer dtype of the result.
    """
    count = edges.shape[1]
    table = jnp.pad(edges, ((0, 0), (0, 255 - count)), constant_values=INT32_MAX).reshape(-1)
    start = jnp.broadcast_to(_int32(row), acc.shape) * 255
    below: jax.Array = jnp.zeros_like(acc)
    for step in (128, 64, 32, 16, 8, 4, 2, 1):
        edge = table.at[start + below + (step - 1)].get(mode="promise_in_bounds")
        below = jnp.where(edge < acc, below + step, below)
    return (below + _int32(base)).astype(dtype)


def requantize_float32(
    acc: jax.Array | Words,
    multiplier: NumberOrArray,
    zero_point: ZeroPoint,
    low: int,
    high: int,
    dtype: DTypeLike,
) -> jax.Array:
    """Requantizes by the machine form `Float32`.

    A flushed denormal cannot show: a multiplier below 2^-126 takes every int32 to zero, and so does
    rounding.

    Args:
        acc: int32 accumulators, or those of two words, which count 2^-16.
        multiplier: float32 constant, or traced array that broadcasts against `acc`.
        zero_point: Constant scalar or array.
        low: Smallest stored value of the result.
        high: Largest stored value of the result.
        dtype: Integer dtype of the result, which holds [low, high].

    Raises:
        QirError: A bound is not within 2^24 of the zero point.
    """
    real = acc.float32(LONG_PLACES) if isinstance(acc, Words) else acc.astype(jnp.float32)
    scaled = _round(real * jnp.asarray(multiplier, jnp.float32))
    return _store(_clamp_float(scaled, zero_point, low, high), zero_point, dtype)


def rounding_shift(acc: jax.Array, shift: NumberOrArray) -> jax.Array:
    """Divides int32 by `2**shift`, 1 <= shift <= 31, rounding half toward +infinity.

    Equals `qir.numbers.int32.rounding_shift` on all of int32: adding the highest bit that is
    shifted out cannot overflow, unlike adding half before the shift.
    """
    places = _int32(shift)
    return (acc >> places) + ((acc >> (places - 1)) & 1)


def quantize(
    x: jax.Array,
    inverse_scale: NumberOrArray,
    zero_point: ZeroPoint,
    low: int,
    high: int,
    dtype: DTypeLike,
) -> jax.Array:
    """Quantizes: `clamp(rne(x * inverse_scale), low - zero_point, high - zero_point) + zero_point`.

    This is `qir.types.Affine.encode` for codes of at most 16 bits. NaN becomes the zero point and
    infinities the bounds. The barrier keeps XLA from folding the multiply into one that produced
    `x`, which would make the integers depend on the caller's `jit`. The inverse scale lies in
    [2^-126, 2^125], so that a denormal `x`, which XLA may flush, is below one half when scaled.

    Args:
        x: float32.
        inverse_scale: float32 constant, or traced array that broadcasts against `x`.
        zero_point: Constant scalar or array.
        low: Smallest stored value of the result.
        high: Largest stored value of the result.
        dtype: Integer dtype of the result, which holds [low, high].

    Raises:
        QirError: A bound is not within 2^24 of the zero point.
    """
    fenced: jax.Array = lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    scaled = _round(fenced * jnp.asarray(inverse_scale, jnp.float32))
    scaled = jnp.where(jnp.isnan(scaled), jnp.float32(0), scaled)
    return _store(_clamp_float(scaled, zero_point, low, high), zero_point, dtype)


def high_31_bits(x: jax.Array, y: NumberOrArray) -> jax.Array:
    """Returns `(x * y) >> 31` for int32 factors in [0, 2^31)."""
    value = _int32(y)
    low = (x * value).astype(jnp.uint32)
    high = product_high_word(x, value >> 16, value & 0xFFFF)
    return (high << 1) | (low >> 31).astype(jnp.int32)


def product_high_word(
    acc: jax.Array,
    value_high: NDArray[np.int32] | jax.Array,
    value_low: NDArray[np.int32] | jax.Array,
) -> jax.Array:
    """Returns the high 32 bits of `acc * M` for M = value_high * 2^16 + value_low in [0, 2^31).

    With acc = a1 * 2^16 + a0, each partial sum fits int32; only a0 * value_low needs uint32.
    """
    acc_high, acc_low = acc >> 16, acc & 0xFFFF
    lowest = (acc_low.astype(jnp.uint32) * value_low.astype(jnp.uint32)) >> 16
    middle = acc_high * value_low + lowest.astype(jnp.int32)
    carried = (acc_low * value_high + (middle & 0xFFFF)) >> 16
    return acc_high * value_high + (middle >> 16) + carried


def _long_product(acc: Words, value: NDArray[np.int32] | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns both words of floor(acc * M / 2^16) as int32, for acc of 48 bits and M in [0, 2^31).

    With acc = a1 * 2^16 + a0 it is a1 * M + floor(a0 * M / 2^16), the latter below 2^32.
    """
    value_high, value_low = value >> 16, value & 0xFFFF
    upper = lax.bitcast_convert_type((acc.high << 16) | (acc.low >> 16), jnp.int32)
    lower = acc.low & 0xFFFF
    rest = lower * value_high.astype(jnp.uint32)
    rest = rest + ((lower * value_low.astype(jnp.uint32)) >> 16)
    low = (upper * value).astype(jnp.uint32) + rest
    high = product_high_word(upper, value_high, value_low) + (low < rest).astype(jnp.int32)
    return high, low.astype(jnp.int32)


def _shift_high_word(high_word: jax.Array, shift: NDArray[np.int32] | jax.Array) -> jax.Array:
    """Rounds the product's quotient by 2^shift for shift >= 33, where the low word has no say."""
    return (high_word + (np.int32(1) << (shift - 33))) >> (shift - 32)


def _shift_both_words(high_word: jax.Array, low_word: jax.Array, shift: jax.Array) -> jax.Array:
    """Rounds the product's quotient by 2^shift for shift <= 32, saturated to int32."""
    unsigned = shift.astype(jnp.uint32)
    half = jnp.uint32(1) << (unsigned - 1)
    low = low_word.astype(jnp.uint32) + half
    high = high_word + (low < half).astype(jnp.int32)
    # Two steps, because a shift by all 32 bits is undefined.
    shifted = (high << (32 - shift)) | ((low >> (unsigned - 1)) >> 1).astype(jnp.int32)
    sign = high >> 31
    return jnp.where((high >> (shift - 1)) == sign, shifted, sign ^ INT32_MAX)


def _second_rounding(x: jax.Array, shift: NDArray[np.int32] | jax.Array, ties: Ties) -> jax.Array:
    """Divides by 2^shift, 0 <= shift <= 31, to the nearest integer."""
    mask = (np.int32(1) << shift) - 1
    half = mask >> 1
    if ties == "away":
        half = half + (x < 0)
    return (x >> shift) + ((x & mask) > half)


def _round(x: jax.Array) -> jax.Array:
    return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


def _clamp_float(x: jax.Array, zero_point: ZeroPoint, low: int, high: int) -> jax.Array:
    """Clamps integral floats to [low, high] around the zero point and converts them to int32."""
    check_float32_bounds(zero_point, low, high)
    offset = np.asarray(zero_point, np.int64)
    least, greatest = (low - offset).astype(np.float32), (high - offset).astype(np.float32)
    return jnp.clip(x, least, greatest).astype(jnp.int32)


def _store(clamped: jax.Array, zero_point: ZeroPoint, dtype: DTypeLike) -> jax.Array:
    return (clamped + _int32(zero_point)).astype(dtype)


def _int32(values: NumberOrArray) -> NDArray[np.int32] | jax.Array:
    """Returns int32 of its own kind: constants stay in numpy, where they are folded before XLA."""
    return values if isinstance(values, jax.Array) else np.asarray(values, np.int32)
