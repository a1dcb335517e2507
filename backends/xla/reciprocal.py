"""Reciprocals of int32 divisors in XLA, as `qir.numbers.reciprocal` defines them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.xla.arithmetic import high_31_bits
from qir.numbers.reciprocal import MAX_PLACES
from qir.types import Array


def reciprocal(divisor: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the significands and exponents of `qir.numbers.reciprocal.reciprocal`.

    The quotient comes bit by bit, by a loop rather than in one expression: XLA would fuse that
    into what reads it, and divide once for each number of a row instead of once a row.

    Args:
        divisor: int32 in [1, 2^31).
    """
    y = divisor.astype(jnp.uint32)
    bits = np.uint32(32) - lax.clz(y - 1)
    # 2^b is at least y and less than twice y: the first bit of the quotient is 1.
    first = jnp.ones_like(y), (np.uint32(1) << bits) - y

    def add_bit(_: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        significand, rest = state
        rest = rest << 1
        fits = rest >= y
        rest = jnp.where(fits, rest - y, rest)
        return (significand << 1) | fits.astype(jnp.uint32), rest

    # The loop counts in the type of its bounds, which without one is int64 in a jit of 64 bits.
    significand, _ = lax.fori_loop(np.int32(0), np.int32(30), add_bit, first)
    return significand.astype(jnp.int32), 30 + bits.astype(jnp.int32)


def multiplier(divisor: jax.Array, value: Array, places: Array) -> tuple[jax.Array, jax.Array]:
    """Returns M and s of `qir.numbers.reciprocal.multiplier`, int32.

    Args:
        divisor: int32, of any sign, never 0.
        value: The significands of the ratio of scales, constants that broadcast.
        places: Their places, likewise.
    """
    inverse, exponent = reciprocal(jnp.abs(divisor))
    shape = np.broadcast_shapes(inverse.shape, value.shape)
    product = high_31_bits(jnp.broadcast_to(inverse, shape), value.astype(np.int32))
    # Places far beyond all shifts must not wrap.
    shift = exponent + (np.clip(places, -128, 1024) - 31).astype(np.int32)
    product = jnp.where(shift > MAX_PLACES, 0, product)
    return product, jnp.broadcast_to(jnp.clip(shift, 1, MAX_PLACES), shape)
