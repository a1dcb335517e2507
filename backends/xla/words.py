"""Integers of 64 bits as two words of 32: the few that each row of a tensor has, and long sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from qir.backends.xla.materialize import stored
from qir.types import Array


class Words(NamedTuple):
    """An integer in [0, 2^64), or one in two's complement: uint32 arrays of one shape.

    They may also broadcast.
    """

    high: jax.Array
    low: jax.Array

    @staticmethod
    def of(low: jax.Array) -> Words:
        """Widens a word."""
        return Words(jnp.zeros_like(low), low)

    @staticmethod
    def of_signed(number: jax.Array) -> Words:
        """Widens int32 numbers to two's complement."""
        return Words((number >> 31).astype(jnp.uint32), number.astype(jnp.uint32))

    @staticmethod
    def constant(numbers: ArrayLike) -> tuple[Array, Array]:
        """Returns the two words of int64 numbers, in numpy; negative ones in two's complement."""
        wide = np.asarray(numbers, np.int64).astype(np.uint64)
        return (wide >> np.uint64(32)).astype(np.uint32), wide.astype(np.uint32)

    def numbers(self) -> Array:
        """Returns numbers in two's complement as int64, in numpy."""
        high, low = (np.asarray(word).astype(np.int64) for word in self)
        return np.asarray((high << 32) | low)

    def plus(self, other: Words) -> Words:
        """Adds, modulo 2^64."""
        low = self.low + other.low
        return Words(self.high + other.high + (low < self.low).astype(jnp.uint32), low)

    def minus(self, other: Words) -> Words:
        """Subtracts, modulo 2^64."""
        borrow = (self.low < other.low).astype(jnp.uint32)
        return Words(self.high - other.high - borrow, self.low - other.low)

    def times(self, factor: int) -> Words:
        """Multiplies by a number of magnitude below 2^32, modulo 2^64."""
        if factor < 0:
            zero = jnp.zeros_like(self.low)
            return Words(zero, zero).minus(self.times(-factor))
        word = np.uint32(factor)
        product = product_of(self.low, jnp.full_like(self.low, word))
        return Words(product.high + self.high * word, product.low)

    def greater(self, other: Words) -> Words:
        """Returns the greater of two."""
        above = (self.high > other.high) | ((self.high == other.high) & (self.low >= other.low))
        return Words(jnp.where(above, self.high, other.high), jnp.where(above, self.low, other.low))

    def up(self, places: jax.Array) -> Words:
        """Shifts left by 0 to 63 places."""
        small, part = places < 32, places & 31
        # Shifts by all bits of a word are split in two.
        carried = (self.low >> 1) >> (31 - part)
        shifted = self.low << part
        high = jnp.where(small, (self.high << part) | carried, shifted)
        return Words(high, jnp.where(small, shifted, jnp.uint32(0)))

    def down(self, places: jax.Array) -> Words:
        """Shifts right by 0 to 63 places."""
        small, part = places < 32, places & 31
        # Shifts by all bits of a word are split in two.
        carried = (self.high << 1) << (31 - part)
        shifted = self.high >> part
        low = jnp.where(small, (self.low >> part) | carried, shifted)
        return Words(jnp.where(small, shifted, jnp.uint32(0)), low)

    def moved(self, places: int) -> Words:
        """Shifts left, or right where the places are negative."""
        if places == 0:
            return self
        if 0 < places < 32:
            left = np.uint32(places)
            return Words((self.high << left) | (self.low >> (32 - left)), self.low << left)
        if places >= 32:
            return self.up(jnp.full_like(self.low, np.uint32(min(places, 63))))
        if places <= -64:
            return Words(jnp.zeros_like(self.high), jnp.zeros_like(self.low))
        if places <= -32:
            return Words(jnp.zeros_like(self.high), self.high >> np.uint32(-places - 32))
        right = np.uint32(-places)
        return Words(self.high >> right, (self.low >> right) | (self.high << (32 - right)))

    def float32(self, places: int = 0) -> jax.Array:
        """Converts a number of at most 48 bits in two's complement, over 2^places.

        To nearest, ties to even. Of the bits below the first 26 it matters only whether there are
        any, which the last one of those that stay tells.
        """
        found = self.low.astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-places)
        for shift, bits in ((6, 31), (11, 37), (16, 42)):
            moved = (self.high << (32 - shift)) | (self.low >> shift)
            sticky = ((self.low & (2**shift - 1)) != 0).astype(jnp.uint32)
            kept = lax.bitcast_convert_type(moved | sticky, jnp.int32)
            real = kept.astype(jnp.float32) * np.float32(2.0 ** (shift - places))
            found = jnp.where(self.leaves(bits), real, found)
        return found

    def leaves(self, bits: int) -> jax.Array:
        """Whether a number in two's complement is outside of [-2^bits, 2^bits)."""
        high = lax.bitcast_convert_type(self.high, jnp.int32)
        if bits >= 32:
            return (high >> (bits - 32)) != (high >> 31)
        low = lax.bitcast_convert_type(self.low, jnp.int32)
        return ((low >> bits) != (low >> 31)) | (high != (low >> 31))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each word."""
        return self.low.shape

    @property
    def ndim(self) -> int:
        """The rank of each word."""
        return self.low.ndim

    def each(self, change: Callable[..., jax.Array]) -> Words:
        """Applies a change of layout to both words."""
        return Words(change(self.high), change(self.low))

    @property
    def bits(self) -> jax.Array:
        """How many bits it has, uint32."""
        return jnp.where(self.high > 0, 64 - lax.clz(self.high), 32 - lax.clz(self.low))


def product_of(x: jax.Array, y: jax.Array) -> Words:
    """Multiplies two words."""
    x_high, x_low, y_high, y_low = x >> 16, x & 0xFFFF, y >> 16, y & 0xFFFF
    lowest, crossed = x_low * y_low, x_high * y_low
    middle = crossed + (lowest >> 16)
    carried = x_low * y_high + (middle & 0xFFFF)
    return Words(
        x_high * y_high + (middle >> 16) + (carried >> 16), (carried << 16) | (lowest & 0xFFFF)
    )


def inverse_root(number: Words) -> tuple[jax.Array, jax.Array]:
    """Returns the inverse square root of integers in [1, 2^62).

    Equals `qir.numbers.inverse_root.inverse_root`.

    Returns:
        The significand and the exponent, both int32.
    """
    root, half = normalized_root(number)
    quotient = quotient_by(Words.constant(np.int64(2**61 - 1)), root)
    return stored(quotient.astype(jnp.int32)), half.astype(jnp.int32)


def normalized_root(number: Words) -> tuple[jax.Array, jax.Array]:
    """Returns the square root of integers in [1, 2^62).

    Equals `qir.numbers.inverse_root.normalized_root`.

    Returns:
        The significand and the exponent, both uint32.
    """
    half = (62 - number.bits) >> 1
    return _root(number.up(2 * half)), half


def quotient_by(numerator: tuple[Array, Array], divisor: jax.Array) -> jax.Array:
    """Returns floor(n / d) for n in (2^60, 2^61] and d in [2^30, 2^31], exactly, as uint32.

    A quotient of floats is off by less than 2^-21 of itself, on machines with fast division too.
    What it leaves over says by how much, to less than 1, and the sign of what is left over then
    decides. So the result depends on no float.

    Args:
        numerator: The two words of n, constants.
        divisor: d, uint32.
    """
    real = divisor.astype(jnp.float32)
    near = (np.float32(int(numerator[0]) * 2**32) / real).astype(jnp.uint32)
    whole = Words(*(jnp.full_like(divisor, word) for word in numerator))
    rest = whole.minus(product_of(near, divisor))
    near = near + jnp.round(_signed(rest) / real).astype(jnp.int32).astype(jnp.uint32)
    return near - _is_negative(whole.minus(product_of(near, divisor)))


def _root(number: Words) -> jax.Array:
    """Returns floor(sqrt(n)) of integers in [2^60, 2^62), exactly, as uint32.

    As in `quotient_by`: the root of a float is off by less than 2^-21 of itself, and one step of
    Newton's method leaves less than 1.
    """
    near = (jnp.sqrt(number.high.astype(jnp.float32)) * np.float32(2**16)).astype(jnp.uint32)
    rest = number.minus(product_of(near, near))
    step = jnp.round(_signed(rest) / (2 * near.astype(jnp.float32)))
    near = near + step.astype(jnp.int32).astype(jnp.uint32)
    return near - _is_negative(number.minus(product_of(near, near)))


def _signed(number: Words) -> jax.Array:
    """Returns an integer in two's complement as float32, off by at most 2^8 or 2^-22 of itself."""
    high = lax.bitcast_convert_type(number.high, jnp.int32).astype(jnp.float32)
    return high * np.float32(2**32) + number.low.astype(jnp.float32)


def _is_negative(number: Words) -> jax.Array:
    return number.high >> 31
