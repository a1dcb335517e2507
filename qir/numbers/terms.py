"""Terms: what requantizations become for machines of 32 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qir.numbers.rounding import Multiplier


def fixed31_terms(
    multiplier: Multiplier, zero_point: int | NDArray[np.integer]
) -> NDArray[np.int32] | None:
    """Prepares a requantization of mode fixed31 whose low product word has no say.

    With H the high word of acc * M and k = shift - 32, the rounded quotient plus the zero point is

        floor((H + 2^(k-1)) / 2^k) + z  =  (H + (2^(k-1) + z * 2^k)) >> k

    Numbers that differ between requantizations of one shape thus become arguments of one and the
    same code, which XLA compiles once for all of them.

    Args:
        multiplier: M and s, 0-d or for every channel.
        zero_point: Constant scalar or array.

    Returns:
        int32 of shape (4, ...): the high and the low 16 bits of M, the addend and k; None where a
        shift is below 33 or a sum could leave int32.
    """
    value, places, points = np.broadcast_arrays(
        multiplier.value.astype(np.int64),
        multiplier.shift.astype(np.int64) - 32,
        np.asarray(zero_point),
    )
    # A multiplier of 0 gives 0 at any shift.
    places = np.where(value == 0, 1, places)
    if np.any(places < 1):
        return None
    addend = (np.int64(1) << (places - 1)) + (points.astype(np.int64) << places)
    # -2^30 <= H < 2^30, since M < 2^31.
    if np.any(np.abs(addend) > 2**30):
        return None
    return np.stack([value >> 16, value & 0xFFFF, addend, places]).astype(np.int32)
