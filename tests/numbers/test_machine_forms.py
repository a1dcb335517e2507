"""Machine forms give the integers of their modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qir.numbers.int32 import INT32_MAX, INT32_MIN, Int64Array, rounding_shift
from qir.numbers.rounding import (
    Float32,
    HighWord,
    MachineForm,
    Multiplier,
    Scaled,
    Thresholds,
    rounding_mode,
)
from tests.roundings import COMPUTED, near_multipliers

RATIOS = st.floats(2.0**-40, 2.0**10) | st.integers(-34, 10).map(lambda power: 2.0**power)
BOUNDS = st.sampled_from([(-128, 127), (0, 255), (-100, 90), (-8, 7), (3, 3)])


def computed(form: MachineForm | HighWord, acc: Int64Array, zero_point: int) -> Int64Array:
    """What a form says, in int64; before the clamp, but for thresholds, which hold it."""
    match form:
        case Scaled():
            product = acc * form.value.astype(np.int64)
            first = np.clip(rounding_shift(product, form.shift), INT32_MIN, INT32_MAX)
            quotient, half = first / 2.0**form.second, np.copysign(0.5, first)
            second = np.floor(quotient + 0.5) if form.ties == "up" else np.trunc(quotient + half)
            whole = np.where(form.second == 0, first, second).astype(np.int64)
            return np.asarray(whole + zero_point, np.int64)
        case HighWord():
            limit = form.limit.astype(np.int64)
            held = np.clip(acc, -limit, limit) << form.lift.astype(np.int64)
            assert np.all(np.abs(held) <= 2**31)
            high = held * form.value.astype(np.int64) >> 32
            return np.asarray((high + form.addend) >> form.places.astype(np.int64), np.int64)
        case Float32():
            real = acc.astype(np.float32) * form.value
            whole = np.clip(np.rint(real), -1e6, 1e6).astype(np.int64)
            return np.asarray(whole + zero_point, np.int64)
        case Thresholds():
            below = np.count_nonzero(form.edges < acc[..., None], axis=-1)
            return np.asarray(form.base + below, np.int64)


def accumulators(mode: str, multiplier: Multiplier, seed: int) -> Int64Array:
    """Accumulators on both sides of each step near 0, of all magnitudes, and the extremes."""
    rng = np.random.default_rng(seed)
    near = rounding_mode(mode).thresholds(multiplier, np.arange(-400, 400))
    near = (near[:, None] + np.arange(-2, 2)).reshape(-1)
    anywhere = rng.integers(INT32_MIN, INT32_MAX, 200, endpoint=True) >> rng.integers(0, 32, 200)
    ends = [INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX - 1, INT32_MAX]
    return np.asarray(np.clip(np.concatenate([near, anywhere, ends]), INT32_MIN, INT32_MAX))


@pytest.mark.parametrize("mode", COMPUTED)
@given(RATIOS, BOUNDS, st.integers(-128, 255), st.integers(0, 99))
def test_a_form_gives_the_integers_of_its_mode(
    mode: str, ratio: float, bounds: tuple[int, int], zero_point: int, seed: int
) -> None:
    multiplier = near_multipliers(mode, ratio)
    acc = accumulators(mode, multiplier, seed)
    expected = rounding_mode(mode).requantize(acc, multiplier, zero_point, *bounds)
    form = rounding_mode(mode).machine_form(multiplier, zero_point, *bounds)
    assert form is not None
    assert np.array_equal(computed(form, acc, zero_point).clip(*bounds), expected)


@pytest.mark.parametrize("mode", COMPUTED)
@given(RATIOS, st.integers(-128, 127), st.integers(0, 99))
def test_the_high_word_gives_every_result_of_8_bits(
    mode: str, ratio: float, zero_point: int, seed: int
) -> None:
    multiplier = near_multipliers(mode, ratio)
    form = rounding_mode(mode).machine_form(multiplier, zero_point, -128, 127)
    if not isinstance(form, Scaled):
        return
    acc = accumulators(mode, multiplier, seed)
    for point in (zero_point, 0):
        high_word = form.high_word(point)
        assert high_word is None or form.rounds_once
        if high_word is not None:
            expected = rounding_mode(mode).requantize(acc, multiplier, point, -128, 127)
            assert np.array_equal(computed(high_word, acc, point).clip(-128, 127), expected)


@pytest.mark.parametrize("mode", COMPUTED)
def test_forms_of_channels_are_those_of_each(mode: str) -> None:
    ratios, points = np.geomspace(1e-9, 2, 7), np.arange(-3, 4)
    multiplier = near_multipliers(mode, ratios)
    acc = np.random.default_rng(0).integers(-(2**20), 2**20, (50, 7))
    expected = rounding_mode(mode).requantize(acc, multiplier, points, -128, 127)
    form = rounding_mode(mode).machine_form(multiplier, points, -128, 127)
    assert form is not None
    found = computed(form, acc, 0) + (0 if isinstance(form, Thresholds) else points)
    assert np.array_equal(found.clip(-128, 127), expected)


@pytest.mark.parametrize("mode", ["dbl_away", "half_away"])
def test_tables_of_thresholds_are_for_8_bits(mode: str) -> None:
    multiplier = near_multipliers(mode, 0.01)
    assert rounding_mode(mode).machine_form(multiplier, 0, -128, 127) is not None
    assert rounding_mode(mode).machine_form(multiplier, 0, -129, 127) is None
