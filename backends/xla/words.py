"""Integers of 64 bits as two words of 32, for the few that each row of a tensor has."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.types import Array


class Words(NamedTuple):
    """An integer in [0, 2^64): uint32 arrays of one shape, or that broadcast."""

    high: jax.Array
    low: jax.Array

    @staticmethod
    def of(low: jax.Array) -> Words:
        """Widens a word."""
        return Words(jnp.zeros_like(low), low)

    @staticmethod
    def constant(numbers: Array) -> tuple[Array, Array]:
        """Returns the two words of int64 numbers, in numpy; negative ones in two's complement."""
        wide = np.asarray(numbers, np.int64).astype(np.uint64)
        return (wide >> np.uint64(32)).astype(np.uint32), wide.astype(np.uint32)

    def plus(self, other: Words) -> Words:
        """Adds, modulo 2^64."""
        low = self.low + other.low
        return Words(self.high + other.high + (low < self.low).astype(jnp.uint32), low)

    def minus(self, other: Words) -> Words:
        """Subtracts, modulo 2^64."""
        borrow = (self.low < other.low).astype(jnp.uint32)
        return Words(self.high - other.high - borrow, self.low - other.low)

    def times(self, factor: int) -> Words:
        """Multiplies by a number below 2^32, modulo 2^64."""
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

    def moved(self, places: int) -> Words:
        """Shifts left, or right where the places are negative."""
        if places >= 0:
            return self.up(jnp.full_like(self.low, np.uint32(min(places, 63))))
        if places <= -64:
            return Words(jnp.zeros_like(self.high), jnp.zeros_like(self.low))
        if places <= -32:
            return Words(jnp.zeros_like(self.high), self.high >> np.uint32(-places - 32))
        right = np.uint32(-places)
        return Words(self.high >> right, (self.low >> right) | (self.high << (32 - right)))

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
    """Returns the inverse square root of integers in [1, 2^62), digit by digit.

    Equals `qir.numbers.inverse_root.inverse_root`.

    Returns:
        The significand and the exponent, both int32.
    """
    half = (62 - number.bits) >> 1
    # The two highest bits are 0: shifted out, each digit of the root takes the two that follow.
    aligned = number.up(2 * half + 2)

    # Unrolled: XLA takes longer to compile two loops than these few ops.
    rest = root = jnp.zeros_like(aligned.low)
    high, low = aligned
    for _ in range(30):
        rest, trial = (rest << 2) | (high >> 30), (root << 2) | 1
        high, low = (high << 2) | (low >> 30), low << 2
        fits = rest >= trial
        rest = jnp.where(fits, rest - trial, rest)
        root = (root << 1) | fits.astype(jnp.uint32)
    # The rest of the last digit may have 33 bits.
    fits = (rest >> 30 > 0) | (((rest << 2) | (high >> 30)) >= ((root << 2) | 1))
    root = (root << 1) | fits.astype(jnp.uint32)
    # 2^61 - 1 has ones alone: its 30 highest are the first rest, as the root has 31 bits.
    rest, quotient = jnp.full_like(root, np.uint32(2**30 - 1)), jnp.zeros_like(root)
    for _ in range(31):
        rest = (rest << 1) | 1
        fits = rest >= root
        rest = jnp.where(fits, rest - root, rest)
        quotient = (quotient << 1) | fits.astype(jnp.uint32)
    return quotient.astype(jnp.int32), half.astype(jnp.int32)
