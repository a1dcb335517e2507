"""Quotients of float32 numbers, rounded once to nearest even, of integers alone.

They are those of numpy, bit for bit and on every platform: XLA makes a product of a division by
what is broadcast, and CUDA's is off by two units in the last place. A float32 number is taken as
its bits, which for positive ones have its order: 8 of exponent above 23 of the significand, whose
highest bit is left out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.xla.materialize import stored
from qir.backends.xla.reciprocal import reciprocal
from qir.numbers.dynamic_scale import LARGEST_FLOAT
from qir.types import SMALLEST_SCALE

FRACTION = 2**23 - 1
"""The bits of a significand that are kept."""

LEAST_SCALE, GREATEST_SCALE = (
    int(np.float32(bound).view(np.int32)) for bound in (SMALLEST_SCALE, 1 / SMALLEST_SCALE)
)


def peaks(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns the bits of the greatest |x| along axes, which stay with the size 1, int32.

    NaN counts as 0, an infinity as the greatest finite number. Denormal numbers may be flushed,
    where all have the least scale. The maximum is one of floats, which XLA on CPU is fast for.

    Args:
        x: float32.
        axes: The axes.
    """
    finite = jnp.where(jnp.isnan(x), jnp.float32(0), jnp.minimum(jnp.abs(x), LARGEST_FLOAT))
    greatest = jnp.max(finite, axis=axes, keepdims=True, initial=0)
    bits: jax.Array = lax.bitcast_convert_type(greatest, jnp.int32)
    return bits


def scale_of(greatest: jax.Array, largest: int) -> tuple[jax.Array, jax.Array]:
    """Returns scales as `qir.numbers.dynamic_scale.symmetric_scale`, and their reciprocals.

    Args:
        greatest: The bits of the greatest magnitudes, as of `peaks`.
        largest: The largest step, in [1, 2^15).

    Returns:
        Two float32 arrays, which are stored and not computed anew for each number.
    """
    bits = jnp.clip(divided(greatest, largest), LEAST_SCALE, GREATEST_SCALE)
    return stored(_float(bits)), stored(_float(inverted(bits)))


def divided(bits: jax.Array, divisor: int) -> jax.Array:
    """Returns the bits of x / divisor for x >= 0; of a denormal x or quotient, bits below 2^23.

    One long division by an integer: 25 or 26 bits of the quotient of the significand, which lies in
    [2^23, 2^24), and whether something is left over.

    Args:
        bits: The bits of finite numbers, int32.
        divisor: In [1, 2^15).
    """
    places = divisor.bit_length() + 1
    significand, exponent = _parts(bits)
    whole, rest = significand // np.uint32(divisor), significand % np.uint32(divisor)
    rest = rest << places
    quotient = (whole << places) + rest // np.uint32(divisor)
    inexact = (rest % np.uint32(divisor)) != 0
    extra = 1 + (quotient >> 25).astype(jnp.int32)
    rounded = _rounded(quotient, extra.astype(jnp.uint32), inexact)
    return _joined(rounded, exponent - places + extra)


def inverted(bits: jax.Array) -> jax.Array:
    """Returns the bits of 1 / x, where both are normal.

    The 31 bits of the reciprocal of the significand are never half way between two numbers: they
    are a power of two, or what they leave over is not 0.

    Args:
        bits: The bits of positive numbers, int32.
    """
    significand, exponent = _parts(bits)
    inverse, places = reciprocal(significand.astype(jnp.int32))
    rounded = (inverse + 64) >> 7
    return _joined(rounded.astype(jnp.uint32), 307 - places - exponent)


def _parts(bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the significands in [2^23, 2^24), uint32, and the biased exponents, int32."""
    return ((bits & FRACTION) | (FRACTION + 1)).astype(jnp.uint32), bits >> 23


def _rounded(number: jax.Array, places: jax.Array, inexact: jax.Array) -> jax.Array:
    """Shifts right by 1 or 2 places, rounding to nearest even; what is inexact is above a tie."""
    kept, half = number >> places, np.uint32(1) << (places - 1)
    rest = number & ((half << 1) - 1)
    up = (rest > half) | ((rest == half) & (inexact | ((kept & 1) != 0)))
    return kept + up.astype(jnp.uint32)


def _joined(significand: jax.Array, exponent: jax.Array) -> jax.Array:
    """Returns the bits of a number; a significand of 2^24 carries into the exponent."""
    return (exponent << 23) + significand.astype(jnp.int32) - (FRACTION + 1)


def _float(bits: jax.Array) -> jax.Array:
    number: jax.Array = lax.bitcast_convert_type(bits, jnp.float32)
    return number
