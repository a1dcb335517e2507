"""Rescaling as part of a step: multipliers as literals or parameters, by every rounding mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np

from qir.backends.xla.arithmetic import requantize_fixed31, requantize_float32
from qir.backends.xla.codes import zero_points
from qir.backends.xla.lowering import Parameter, argument, spread
from qir.fixed_point import MAX_SHIFT, Multiplier, Rounding
from qir.types import Array, Quant

Factor: TypeAlias = Array | jax.Array
Rescaling: TypeAlias = Callable[[jax.Array, Factor, Factor], jax.Array]
"""From int32 accumulators, multiplier and shift to stored numbers."""


def rescaling(
    name: str,
    multiplier: Multiplier,
    code: Quant,
    bounds: tuple[int, int] | None = None,
    rounding: Rounding = "fixed31",
) -> tuple[Rescaling, tuple[Parameter | Array, Parameter | Array]]:
    """Prepares a requantization.

    Args:
        name: Name of the value that is computed, which names the parameters.
        multiplier: The multiplier, 0-d or of the accumulator's rank.
        code: The code of the result.
        bounds: Least and greatest stored number of the result, where narrower than the code's.
        rounding: The rounding mode.

    Returns:
        The function, and its second and third argument as arguments of a step.
    """
    low, high = bounds or code.range
    dtype = code.storage.numpy
    value, shift = multiplier.value, _common(multiplier, rounding)
    shift_range = (int(shift.min(initial=MAX_SHIFT)), int(shift.max(initial=1)))

    def rescale(acc: jax.Array, factor: Factor, places: Factor) -> jax.Array:
        factor, places = spread(factor, acc.shape), spread(places, acc.shape)
        points = zero_points(code, acc.shape)
        if rounding == "f32_rne":
            return requantize_float32(acc, factor, points, low, high, dtype)
        return requantize_fixed31(
            acc, factor, places, points, low, high, dtype, shift_range=shift_range
        )

    return rescale, (argument(f"{name}.multiplier", value), argument(f"{name}.shift", shift))


def _common(multiplier: Multiplier, rounding: Rounding) -> Array:
    """Returns the shifts, as a scalar where all are equal."""
    if rounding == "f32_rne":
        return np.zeros((), np.int32)
    shift = np.asarray(multiplier.shift)
    # A multiplier of 0 gives 0 at any shift, and must not cost the others the short path.
    harmless = max(33, int(shift.max(initial=1)))
    shift = np.where(multiplier.value == 0, np.int32(harmless), shift)
    return shift.reshape(-1)[:1].reshape(()) if np.unique(shift).size == 1 else shift
