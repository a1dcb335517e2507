"""Accumulators in i64: rounding modes against exact fractions, and XLA's two words."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qir.backends.xla.requantize import rescaling_by
from qir.backends.xla.words import Words
from qir.errors import QirError
from qir.numbers.int32 import INT32_MAX, INT32_MIN
from qir.numbers.long_sums import LONG_MAX, LONG_MIN, LONG_PLACES
from qir.numbers.rounding import ROUNDINGS, Multiplier, rounding_mode
from qir.types import Affine, Array, DType

LONG = [name for name, mode in ROUNDINGS.items() if mode.takes_long]
CODE = Affine.of(DType.I16, 1.0, 7)


def numbers(seed: int) -> Array:
    """Accumulators of all magnitudes, the ends of 48 bits among them."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(LONG_MIN, LONG_MAX, 500, endpoint=True) >> rng.integers(0, 47, 500)
    powers = [
        sign * 2**bits + step for bits in range(47) for sign in (-1, 1) for step in (-1, 0, 1)
    ]
    return np.concatenate([drawn, powers, [LONG_MIN, LONG_MAX]])


def multipliers(name: str) -> Multiplier:
    """Multipliers of ratios from 2^-46 to 2^13, one in each row."""
    exponents = np.arange(-46.0, 14.0)[:, None]
    ratios = np.exp2(exponents)
    if name != "pow2":
        ratios = ratios * np.random.default_rng(2).uniform(1, 2, exponents.shape)
    return rounding_mode(name).multipliers(ratios * 2.0**LONG_PLACES, 1.0)


@pytest.mark.parametrize("name", ["fixed31", "pow2"])
def test_integer_modes_are_one_rounding_of_the_exact_product(name: str) -> None:
    acc, found = numbers(1), multipliers(name)
    rounded = rounding_mode(name).apply_long(acc, found)
    for value, shift, row in zip(found.value[:, 0], found.shift[:, 0], rounded, strict=True):
        ratio = Fraction(int(value), 2 ** (int(shift) + LONG_PLACES))
        exact = [math.floor(int(number) * ratio + Fraction(1, 2)) for number in acc]
        assert row.tolist() == [min(max(each, INT32_MIN), INT32_MAX) for each in exact]


@pytest.mark.parametrize("name", LONG)
def test_two_words_round_as_the_reference_does(name: str) -> None:
    acc, found, mode = numbers(3), multipliers(name), rounding_mode(name)
    form = mode.machine_form(found, CODE.zero_points, *CODE.range)
    assert form is not None
    rescale, arguments = rescaling_by("y", form, CODE, CODE.range, long=True)
    words = Words(*(jnp.asarray(np.broadcast_to(w, (60, acc.size))) for w in Words.constant(acc)))
    given = [getattr(argument, "array", argument) for argument in arguments]
    computed = jax.jit(rescale)(words, *map(jnp.asarray, given))
    expected = np.clip(mode.apply_long(acc, found) + 7, *CODE.range)
    assert np.array_equal(computed, expected)


def test_two_words_become_the_nearest_float32() -> None:
    acc = numbers(5)
    # Halfway between two float32 numbers and next to it.
    ties = (2 * np.arange(2**23, 2**23 + 50) + 1) << np.arange(50) % 23
    acc = np.concatenate([acc, *(sign * ties + step for sign in (-1, 1) for step in (-1, 0, 1))])
    words = Words(*map(jnp.asarray, Words.constant(acc)))
    assert np.array_equal(jax.jit(lambda x: x.float32())(words), acc.astype(np.float32))


@pytest.mark.parametrize("name", sorted(set(ROUNDINGS) - set(LONG)))
def test_modes_of_32_bits_say_so(name: str) -> None:
    multiplier = Multiplier(np.asarray(1, np.int32), np.asarray(8, np.int32))
    with pytest.raises(QirError, match=f"rounding {name}: expected an accumulator in i32"):
        rounding_mode(name).apply_long(np.asarray([1]), multiplier)


def test_accumulators_have_at_most_48_bits() -> None:
    for number in (LONG_MAX + 1, LONG_MIN - 1):
        with pytest.raises(QirError, match=f"expected at most 48 bits, got {number}"):
            rounding_mode("fixed31").apply_long(np.asarray([number]), multipliers("fixed31"))
