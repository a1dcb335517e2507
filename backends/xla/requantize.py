"""Rescaling as part of a step: multipliers as literals or parameters, by every rounding mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np

from qir.backends.native.steps import Argument, Parameter
from qir.backends.xla.arithmetic import (
    requantize_by_terms,
    requantize_fixed31,
    requantize_float32,
)
from qir.backends.xla.codes import zero_points
from qir.backends.xla.lowering import argument, spread
from qir.errors import UnsupportedError
from qir.numbers.rounding import MAX_SHIFT, Multiplier
from qir.numbers.terms import fixed31_terms
from qir.types import Array, Quant

Factor: TypeAlias = Array | jax.Array
Rescaling: TypeAlias = Callable[..., jax.Array]
"""From int32 accumulators and the arguments that stand beside it to stored numbers."""


Form: TypeAlias = Callable[
    [str, Multiplier, Quant, tuple[int, int]], tuple[Rescaling, tuple[Argument, ...]]
]
"""Prepares a requantization by one rounding mode; see `rescaling`."""


def rescaling(
    name: str,
    multiplier: Multiplier,
    code: Quant,
    bounds: tuple[int, int] | None = None,
    rounding: str = "fixed31",
) -> tuple[Rescaling, tuple[Argument, ...]]:
    """Prepares a requantization.

    Args:
        name: Name of the value that is computed, which names the parameters.
        multiplier: The multiplier, 0-d or of the accumulator's rank.
        code: The code of the result.
        bounds: Least and greatest stored number of the result, where narrower than the code's.
        rounding: The rounding mode.

    Returns:
        The function, and its arguments after the first as arguments of a step.

    Raises:
        UnsupportedError: The mode has no form.
    """
    form = FORMS.get(rounding)
    if form is None:
        raise UnsupportedError(f"xla: {no_form(f'%{name}', rounding)}")
    return form(name, multiplier, code, bounds or code.range)


def no_form(what: str, rounding: str) -> str:
    """Says that a rounding mode has no form, and what to do.

    Args:
        what: What is to be rounded.
        rounding: The mode.
    """
    return (
        f"{what}: expected a rounding that has a machine form, {' or '.join(FORMS)}, got "
        f"{rounding}; qir.evaluate computes it, and pass agree-roundings can certify that one of "
        "these gives the same integers"
    )


def _fixed31(
    name: str, multiplier: Multiplier, code: Quant, bounds: tuple[int, int]
) -> tuple[Rescaling, tuple[Argument, ...]]:
    (low, high), dtype = bounds, code.storage.numpy
    value, shift, point = multiplier.value, multiplier.shift, code.zero_points
    terms = fixed31_terms(multiplier, point) if point.ndim == 0 else None
    if terms is not None:

        def rescale_by_terms(acc: jax.Array, terms: Factor) -> jax.Array:
            each = [spread(term, acc.shape) for term in terms]
            return requantize_by_terms(acc, each, low, high, dtype)

        return rescale_by_terms, (Parameter(f"{name}.rescaling", terms),)

    # A multiplier of 0 gives 0 at any shift, and must not cost the others the short path.
    shift = np.where(value == 0, np.int32(max(33, int(shift.max(initial=1)))), shift)
    shift_range = (int(shift.min(initial=MAX_SHIFT)), int(shift.max(initial=1)))

    def rescale(acc: jax.Array, factor: Factor, places: Factor) -> jax.Array:
        factor, places = spread(factor, acc.shape), spread(places, acc.shape)
        points = zero_points(code, acc.shape)
        return requantize_fixed31(
            acc, factor, places, points, low, high, dtype, shift_range=shift_range
        )

    return rescale, (
        argument(f"{name}.multiplier", value),
        argument(f"{name}.shift", shift.astype(np.int32)),
    )


def _float32(
    name: str, multiplier: Multiplier, code: Quant, bounds: tuple[int, int]
) -> tuple[Rescaling, tuple[Argument, ...]]:
    (low, high), dtype = bounds, code.storage.numpy

    def rescale(acc: jax.Array, factor: Factor) -> jax.Array:
        factor, points = spread(factor, acc.shape), zero_points(code, acc.shape)
        return requantize_float32(acc, factor, points, low, high, dtype)

    return rescale, (argument(f"{name}.multiplier", multiplier.value),)


FORMS: dict[str, Form] = {"fixed31": _fixed31, "f32_rne": _float32}
"""The machine form of each rounding mode that XLA computes, by the name of the mode."""
