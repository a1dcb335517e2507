"""The integers that take normalized numbers to steps of a code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.numbers.int32 import INT32_MAX, Int64Array
from qir.types import Affine, Array


def affine_terms(
    parameters: Sequence[Array], to: Affine, result_fraction: int
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Returns the integers that take normalized numbers t to steps of a code.

    The steps are (t * m + b) >> g, where m * 2^-g is gamma / (2^result_fraction * scale) rounded
    to 31 bits, and b is beta / scale in the same units plus the half that rounds. g is less where
    b would leave 62 bits otherwise, and as beta then is far larger than gamma, what m loses is
    below 2^-28 steps of it. What leaves every code saturates.

    Args:
        parameters: Gamma and beta, in floating point, which broadcast; either or both left out.
        to: The result's code, per tensor.
        result_fraction: How many bits of t are fractional; |t| < 2^30.

    Returns:
        m, |m| < 2^31, b, |b| <= 2^62, and g in [1, 62]: int64 of one shape. The sum t * m + b is
        exact in 64 bits.
    """
    scale = float(to.scale.array)
    gamma, beta = (*parameters, 1.0, 0.0)[:1], (*parameters[1:], 0.0)[:1]
    factor, offset = np.broadcast_arrays(
        *(np.asarray(array[0], np.float64) / scale for array in (gamma, beta))
    )
    _, factor_bits = np.frexp(factor)
    _, offset_bits = np.frexp(offset)
    # |m| < 2^31 and |b| < 2^60.
    normal = np.where(factor == 0, 62, 31 + result_fraction - factor_bits.astype(np.int64))
    places = np.clip(np.minimum(normal, 60 - offset_bits.astype(np.int64)), 1, 62)
    multiplier = np.clip(
        np.rint(np.ldexp(factor, places - result_fraction)), -INT32_MAX, INT32_MAX
    ).astype(np.int64)
    limit = 2.0**61
    rounded = np.clip(np.rint(np.ldexp(offset, places)), -limit, limit).astype(np.int64)
    return multiplier, rounded + (np.int64(1) << (places - 1)), places
