"""Thresholds are exact, and two roundings are said to agree exactly when they do."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qir.numbers.agreement import Domain, Staircase, differences
from qir.numbers.rounding import ROUNDINGS, Multiplier, RoundingMode, rounding_mode
from qir.types import FrozenArray
from tests.roundings import near_multipliers

INT32 = (-(2**31), 2**31 - 1)
MODES = sorted(ROUNDINGS)
PAIRS = list(permutations(MODES, 2))
ratios = st.floats(2.0**-36, 2.0**20) | st.integers(-34, 8).map(lambda power: 2.0**power)


def multiplier(mode, ratio):
    """The multiplier of float32 scales near a ratio, or of the nearest that the mode accepts."""
    return near_multipliers(mode, np.float64(np.float32(ratio)))


def staircase(mode, *ratios):
    """The multipliers of several channels."""
    found = [multiplier(mode, ratio) for ratio in ratios]
    value, shift = (
        np.array([getattr(each, name) for each in found]) for name in ("value", "shift")
    )
    return Staircase(mode, FrozenArray(value), FrozenArray(shift))


def domain(low, high, bounds):
    least, greatest = (np.full(len(low), bound, np.int64) for bound in bounds)
    low, high = (np.array(bound, np.int64) for bound in (low, high))
    return Domain(*map(FrozenArray, (low, high, least, greatest)))


@given(
    st.sampled_from(MODES),
    ratios,
    st.lists(st.integers(-256, 256) | st.integers(-(2**31) + 1, 2**31 - 1), min_size=1),
)
def test_a_threshold_is_the_least_accumulator_that_reaches_the_step(mode, ratio, steps):
    mode, factors = rounding_mode(mode), multiplier(mode, ratio)
    found = mode.thresholds(factors, np.array(steps))
    for step, threshold in zip(steps, found.tolist(), strict=True):
        if threshold <= INT32[1]:
            assert mode.apply(np.array(threshold), factors) >= step
        if threshold > INT32[0]:
            assert mode.apply(np.array(threshold - 1), factors) < step


@given(st.integers(2**30, 2**31 - 1) | st.just(0), st.integers(1, 62))
def test_every_multiplier_of_fixed31_has_thresholds(value, shift):
    mode = ROUNDINGS["fixed31"]
    factors = Multiplier(np.array([value], np.int32), np.array([shift], np.int32))
    steps = np.array([-(2**31) + 1, -65536, -256, -1, 0, 1, 255, 65536, 2**31 - 1])
    by_bisection = RoundingMode.thresholds(mode, factors, steps)
    assert np.array_equal(mode.thresholds(factors, steps), by_bisection)


@given(
    st.lists(st.floats(2.0**-9, 1.5), min_size=1, max_size=4),
    st.integers(-300, 300),
    st.integers(0, 40_000),
    st.tuples(st.integers(-128, 127), st.integers(-128, 127)).map(sorted),
    st.sampled_from(PAIRS),
)
def test_modes_agree_if_and_only_if_all_accumulators_do(ratios, low, count, bounds, modes):
    first, second = (staircase(mode, *ratios) for mode in modes)
    ends = [low] * len(ratios), [low + count] * len(ratios)
    found = differences(first, second, domain(*ends, bounds))
    accumulators = np.arange(low, low + count + 1)
    for row, ratio in enumerate(ratios):
        one, other = (
            rounding_mode(mode).requantize(accumulators, multiplier(mode, ratio), 0, *bounds)
            for mode in modes
        )
        assert found.found[row] == np.any(one != other)
        if found.found[row]:
            at = int(found.accumulator[row]) - low
            assert one[at] != other[at]


@pytest.mark.parametrize("modes", [("fixed31", mode) for mode in MODES if mode != "fixed31"])
@pytest.mark.parametrize("ratio", [0.0011, 0.00037, 2.0**-9, 1 / 3000, 0.0131])
def test_a_million_accumulators_one_by_one(ratio, modes):
    """The whole of [-2^20, 2^20], which covers all 8 bits, and scales nearby."""
    accumulators = np.arange(-(2**20), 2**20 + 1)
    scales = np.float32(ratio) * (1 + np.arange(-2, 3) * 2.0**-23)
    found = differences(
        *(staircase(mode, *scales) for mode in modes),
        domain([-(2**20)] * 5, [2**20] * 5, (-128, 127)),
    )
    for row, scale in enumerate(scales):
        results = [
            rounding_mode(mode).requantize(accumulators, multiplier(mode, scale), 0, -128, 127)
            for mode in modes
        ]
        assert found.found[row] == np.any(results[0] != results[1])


@given(st.floats(2.0**-25, 2.0**-19), st.sampled_from(PAIRS))
def test_accumulators_that_float32_rounds(ratio, pair):
    """Beyond 2^24 all accumulators near each threshold, and random ones between."""
    first, second = pair
    one, other = multiplier(first, ratio), multiplier(second, ratio)
    low, high = -(2**31), 2**31 - 1
    found = differences(
        staircase(first, ratio), staircase(second, ratio), domain([low], [high], (-128, 127))
    )
    modes = rounding_mode(first), rounding_mode(second)
    near = np.concatenate(
        [
            mode.thresholds(each, np.arange(-127, 128))
            for mode, each in zip(modes, (one, other), strict=True)
        ]
    )
    near = (near[:, None] + np.arange(-3, 4)).reshape(-1)
    anywhere = np.random.default_rng(0).integers(low, high, 10_000, endpoint=True)
    accumulators = np.clip(np.concatenate([near, anywhere, [low, high]]), low, high)
    results = [
        mode.requantize(accumulators, each, 0, -128, 127)
        for mode, each in zip(modes, (one, other), strict=True)
    ]
    assert found.found[0] == np.any(results[0] != results[1])


@pytest.mark.parametrize("modes", list(permutations(["fixed31", "f32_rne"])))
def test_what_lies_outside_does_not_count(modes):
    """A difference is seen by accumulators and clamps that reach it, and by no others."""
    stairs = [staircase(mode, np.float32(0.0011)) for mode in modes]
    wide = differences(*stairs, domain([-(2**17)], [2**17], (-128, 127)))
    assert wide.found[0]
    at = int(wide.accumulator[0])
    least = min(round_(at, modes))
    for low, high in [(at, at), (at - 9, at), (at, at + 9)]:
        assert differences(*stairs, domain([low], [high], (-128, 127))).found[0]
    assert not differences(*stairs, domain([at + 1], [at + 9], (-128, 127))).found[0]
    assert not differences(*stairs, domain([at - 9], [at - 1], (-128, 127))).found[0]
    assert differences(*stairs, domain([at], [at], (least, least + 1))).found[0]
    assert not differences(*stairs, domain([at], [at], (least + 1, 127))).found[0]
    assert not differences(*stairs, domain([at], [at], (-128, least))).found[0]
    assert not differences(*stairs, domain([at], [at], (least, least))).found[0]


def round_(accumulator, modes):
    """What each mode makes of an accumulator."""
    ratio = np.float32(0.0011)
    return [int(rounding_mode(m).apply(np.array(accumulator), multiplier(m, ratio))) for m in modes]
