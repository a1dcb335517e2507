"""Rescaling as part of a computation: the machine form of a rounding, as literals or parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.computation import Argument, Parameter
from qir.backends.xla.arithmetic import (
    requantize_by_high_word,
    requantize_by_thresholds,
    requantize_float32,
    requantize_scaled,
)
from qir.backends.xla.codes import zero_points
from qir.backends.xla.lowering import argument, spread
from qir.backends.xla.words import Words
from qir.errors import UnsupportedError
from qir.numbers.rounding import (
    MAX_SHIFT,
    ROUNDINGS,
    Float32,
    HighWord,
    MachineForm,
    Multiplier,
    Scaled,
    Thresholds,
    rounding_mode,
)
from qir.types import Affine, Array

Factor: TypeAlias = Array | jax.Array
Rescaling: TypeAlias = Callable[..., jax.Array]
"""From int32 accumulators and the arguments that stand beside it to stored numbers."""


def rescaling(
    name: str,
    multiplier: Multiplier,
    code: Affine,
    bounds: tuple[int, int] | None = None,
    rounding: str = "fixed31",
) -> tuple[Rescaling, tuple[Argument, ...]]:
    """Prepares a requantization by a rounding mode.

    Args:
        name: Name of the value that is computed, which names the parameters.
        multiplier: The multiplier, 0-d or of the accumulator's rank.
        code: The code of the result.
        bounds: Least and greatest stored number of the result, where narrower than the code's.
        rounding: The rounding mode.

    Returns:
        The function, and its arguments after the first as arguments of a computation.

    Raises:
        UnsupportedError: The mode has no machine form for these bounds.
    """
    bounds = bounds or code.range
    form = rounding_mode(rounding).machine_form(multiplier, code.zero_points, *bounds)
    if form is None:
        raise UnsupportedError(f"xla: {no_form(f'%{name}', rounding, bounds)}")
    return rescaling_by(name, form, code, bounds)


def rescaling_by(
    name: str, form: MachineForm, code: Affine, bounds: tuple[int, int], long: bool = False
) -> tuple[Rescaling, tuple[Argument, ...]]:
    """Prepares a requantization by a machine form; see `rescaling`.

    Args:
        name: Name of the value that is computed, which names the parameters.
        form: The form, made for the zero points of the code and the bounds.
        code: The code of the result.
        bounds: Least and greatest stored number of the result.
        long: Whether accumulators have two words.
    """
    match form:
        case Scaled():
            # Zero points that vary stay out of the sum, so that it is no larger than the others.
            scalar = code.zero_points.ndim == 0 and not long
            high_word = form.high_word(code.zero_points) if scalar else None
            if high_word is not None and not high_word.lifted:
                return _by_high_word(name, high_word, code, bounds)
            return _scaled(name, form, code, bounds)
        case Float32():
            return _float32(name, form, code, bounds)
        case Thresholds():
            return _by_thresholds(name, form, code)


def no_form(what: str, rounding: str, bounds: tuple[int, int]) -> str:
    """Says that a rounding mode has no machine form, or none for a result; what to do.

    Args:
        what: What is to be rounded.
        rounding: The mode.
        bounds: Least and greatest stored number of the result.
    """
    low, high = bounds
    if rounding_mode(rounding).has_machine_form:
        if high - low <= 255:
            return (
                f"{what}: expected a machine form of the rounding {rounding} for results in "
                f"[{low}, {high}], got None from its machine_form; by_thresholds makes one of any "
                "mode, and qir.evaluate computes it without"
            )
        return (
            f"{what}: expected a result of at most 8 bits with the rounding {rounding}, which has "
            "no machine form for wider ones; qir.evaluate computes it"
        )
    known = [name for name, mode in ROUNDINGS.items() if mode.has_machine_form]
    return (
        f"{what}: expected a rounding that has a machine form, {' or '.join(known)}, got "
        f"{rounding}; qir.evaluate computes it, and pass agree-roundings can certify that one of "
        "these gives the same integers"
    )


def _by_high_word(
    name: str, form: HighWord, code: Affine, bounds: tuple[int, int]
) -> tuple[Rescaling, tuple[Argument, ...]]:
    (low, high), dtype = bounds, code.storage.numpy
    # One parameter, so that requantizations of one shape are one and the same code to XLA.
    limbs = np.stack([form.value >> 16, form.value & 0xFFFF, form.addend, form.places])

    def rescale(acc: jax.Array, limbs: Factor) -> jax.Array:
        each = [spread(limb, acc.shape) for limb in limbs]
        return requantize_by_high_word(acc, each, low, high, dtype)

    return rescale, (Parameter(f"{name}.rescaling", limbs),)


def _scaled(
    name: str, form: Scaled, code: Affine, bounds: tuple[int, int]
) -> tuple[Rescaling, tuple[Argument, ...]]:
    (low, high), dtype = bounds, code.storage.numpy
    value, shift = form.value, form.shift
    # A multiplier of 0 gives 0 at any shift, and must not cost the others the short path.
    shift = np.where(value == 0, np.int32(max(33, int(shift.max(initial=1)))), shift)
    shift_range = (int(shift.min(initial=MAX_SHIFT)), int(shift.max(initial=1)))
    seconds = () if form.rounds_once else (argument(f"{name}.second_shift", form.second),)

    def rescale(
        acc: jax.Array | Words, factor: Factor, places: Factor, second: Factor | None = None
    ) -> jax.Array:
        return requantize_scaled(
            acc,
            spread(factor, acc.shape),
            spread(places, acc.shape),
            zero_points(code, acc.shape),
            low,
            high,
            dtype,
            second=None if second is None else spread(second, acc.shape),
            ties=form.ties,
            shift_range=shift_range,
        )

    return rescale, (
        argument(f"{name}.multiplier", value),
        argument(f"{name}.shift", shift.astype(np.int32)),
        *seconds,
    )


def _float32(
    name: str, form: Float32, code: Affine, bounds: tuple[int, int]
) -> tuple[Rescaling, tuple[Argument, ...]]:
    (low, high), dtype = bounds, code.storage.numpy

    def rescale(acc: jax.Array | Words, factor: Factor) -> jax.Array:
        factor, points = spread(factor, acc.shape), zero_points(code, acc.shape)
        return requantize_float32(acc, factor, points, low, high, dtype)

    return rescale, (argument(f"{name}.multiplier", form.value),)


def _by_thresholds(
    name: str, form: Thresholds, code: Affine
) -> tuple[Rescaling, tuple[Argument, ...]]:
    dtype, rows = code.storage.numpy, np.arange(form.base.size, dtype=np.int32)
    each = rows.reshape(form.base.shape)

    def rescale(acc: jax.Array, base: Factor, edges: jax.Array) -> jax.Array:
        row = spread(jnp.asarray(each), acc.shape)
        return requantize_by_thresholds(acc, row, spread(base, acc.shape), edges, dtype)

    edges = form.edges.reshape(form.base.size, form.edges.shape[-1])
    return rescale, (argument(f"{name}.base", form.base), Parameter(f"{name}.edges", edges))
