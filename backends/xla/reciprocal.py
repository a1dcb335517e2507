"""Reciprocals of int32 divisors in XLA, as `qir.numbers.reciprocal` defines them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.xla.arithmetic import high_31_bits
from qir.backends.xla.materialize import stored
from qir.backends.xla.words import Words, quotient_by
from qir.numbers.reciprocal import MAX_PLACES
from qir.types import Array


def reciprocal(divisor: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the significands and exponents of `qir.numbers.reciprocal.reciprocal`.

    Args:
        divisor: int32 in [1, 2^31).
    """
    y = divisor.astype(jnp.uint32)
    bits = np.uint32(32) - lax.clz(y - 1)
    significand = quotient_by(Words.constant(np.int64(2**61)), y << (31 - bits))
    return stored(significand.astype(jnp.int32)), 30 + bits.astype(jnp.int32)


def multiplier(divisor: jax.Array, value: Array, places: Array) -> tuple[jax.Array, jax.Array]:
    """Returns M and s of `qir.numbers.reciprocal.multiplier`, int32.

    Args:
        divisor: int32, of any sign, never 0.
        value: The significands of the ratio of scales, constants that broadcast.
        places: Their places, likewise.
    """
    inverse, exponent = reciprocal(jnp.abs(divisor))
    shape = jnp.broadcast_shapes(inverse.shape, value.shape)
    product = high_31_bits(jnp.broadcast_to(inverse, shape), value.astype(np.int32))
    # Places far beyond all shifts must not wrap.
    shift = exponent + (np.clip(places, -128, 1024) - 31).astype(np.int32)
    product = jnp.where(shift > MAX_PLACES, 0, product)
    return product, jnp.broadcast_to(jnp.clip(shift, 1, MAX_PLACES), shape)
