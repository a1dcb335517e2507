"""The calibration statistic: what it counts, that merging is exact, that XLA counts the same."""

from dataclasses import replace
from fractions import Fraction
from math import trunc
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qir.errors import QirError
from qir.observe.extremes import BatchExtremes
from qir.observe.histograms import (
    BINS,
    SMALLEST,
    Histogram,
    NonFiniteError,
    merge,
    observe,
    observe_clipped,
)
from qir.observe.methods import MovingAverage
from qir.observe.statistics import TensorStatistics

Array = NDArray[np.float32]

ELEMENTS = [
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-8, 8, width=32),
    st.integers(-40, 40).map(lambda value: value / 4),
]


def arrays(least: int, most: int) -> st.SearchStrategy[Array]:
    shapes = st.tuples(st.integers(least, most))
    return st.one_of(*(hnp.arrays(np.float32, shapes, elements=each) for each in ELEMENTS))


some = arrays(1, 40)
limits = st.sampled_from([16, 17, 100, BINS])


def bin_of(value: float, exponent: int) -> int:
    magnitude = trunc(abs(Fraction(value)) / Fraction(2) ** exponent)
    return magnitude if value >= 0 else -1 - magnitude


@given(some, limits)
def test_every_value_is_in_its_bin(array: Array, bins: int) -> None:
    statistic = observe(array, bins)
    values = [0.0 if abs(value) < SMALLEST else value for value in array.tolist()]
    counts = [0] * len(statistic.counts)
    for value in values:
        counts[bin_of(value, statistic.exponent) - statistic.first] += 1
    assert statistic.counts.tolist() == counts
    assert (statistic.minimum, statistic.maximum) == (min(values), max(values))
    assert (statistic.count, statistic.zeros) == (len(values), values.count(0))


@given(some, limits)
def test_bins_are_as_narrow_as_fit(array: Array, bins: int) -> None:
    statistic = observe(array, bins)

    def used(exponent: int) -> int:
        ends = [bin_of(value, exponent) for value in (statistic.minimum, 0, statistic.maximum)]
        return max(ends) - min(ends) + 1

    assert len(statistic.counts) <= used(statistic.exponent) <= bins
    assert statistic.exponent == -126 or used(statistic.exponent - 1) > bins


@given(st.lists(arrays(0, 40), max_size=5), st.randoms(use_true_random=False), limits)
def test_merge_is_the_statistic_of_all_values_in_any_order(
    batches: list[Array], random: Random, bins: int
) -> None:
    parts = [observe(batch, bins) for batch in batches]
    while len(parts) > 1:
        random.shuffle(parts)
        parts.append(parts.pop().merge(parts.pop()))
    together = observe(np.concatenate([np.zeros(0, np.float32), *batches]), bins)
    assert merge([*parts, Histogram.empty(bins)]) == together


@given(some, some, some, st.tuples(limits, limits, limits))
def test_merge_is_associative_and_commutative_whatever_the_bins(
    x: Array, y: Array, z: Array, bins: tuple[int, int, int]
) -> None:
    a, b, c = (observe(array, limit) for array, limit in zip((x, y, z), bins, strict=True))
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c)) == merge([c, a, b])


@given(some, limits, limits)
def test_coarsening_is_observing_with_fewer_bins(array: Array, one: int, other: int) -> None:
    fine, coarse = observe(array, max(one, other)), observe(array, min(one, other))
    assert fine.coarsen(coarse.bins) == coarse


bounds = st.sampled_from([-np.inf, -3.0, -1e-3, -1e-40, 0.0, 1e-40, 0.5, 2.25, 6.0, np.inf])


@given(arrays(0, 40), limits, st.tuples(bounds, bounds))
@example(np.array([-1e30, 1.0, 2.0], np.float32), 16, (0.0, np.inf))
def test_clipped_values_need_not_be_counted(
    array: Array, bins: int, between: tuple[float, float]
) -> None:
    low, high = (float(np.float32(bound)) for bound in sorted(between))
    assume(low < np.inf and high > -np.inf)
    assert observe_clipped(array, low, high, bins) == (
        observe(array, bins),
        observe(np.clip(array, np.float32(low), np.float32(high)), bins),
    )


def test_clipped_values_need_bins_that_are_narrow_enough() -> None:
    wide = observe(np.array([-100.0, 1.0], np.float32), bins=16)
    with pytest.raises(QirError, match=r"expected bins of at most 2\*\*-3, got 2\*\*3"):
        wide.clipped(0.0, np.inf, 16)


@given(some)
def test_the_bins_of_negated_values_are_mirrored(array: Array) -> None:
    values = array[np.abs(array) >= SMALLEST]
    # Bin 0 belongs to the bins in use whatever the signs, so values of one sign may differ.
    assume(values.size and values.min() < 0 < values.max())
    there, back = observe(values), observe(-values)
    assert there.counts.tolist() == back.counts[::-1].tolist()
    assert (there.first, there.last) == (-1 - back.last, -1 - back.first)


def test_every_shape_and_dtype_of_floats_is_observed() -> None:
    normal = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(ml_dtypes.bfloat16)
    assert observe(normal) == observe(normal.reshape(-1).astype(np.float32))
    for array in (normal[:, :0], normal.astype(np.float16).transpose(), normal[0, 0, 0]):
        flat = np.asarray(array).reshape(-1).astype(np.float32)
        assert observe(np.asarray(array)) == merge(
            observe(flat[at : at + 1]) for at in range(flat.size)
        )


def test_a_long_array_is_observed_in_chunks() -> None:
    long = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    assert observe(long) == merge(observe(part) for part in np.array_split(long, 7))
    assert observe(long.reshape(8, 5, -1).T) == observe(long)


def test_values_that_are_not_finite_are_counted() -> None:
    array = np.array([1, np.nan, -np.inf, 0, np.nan, np.inf, -np.nan], np.float32)
    with pytest.raises(NonFiniteError, match="expected finite values, got 3 NaN, 2 infinite") as e:
        observe(array)
    assert (e.value.nan, e.value.infinite) == (3, 2)
    with pytest.raises(NonFiniteError, match="got 0 NaN, 1 infinite"):
        observe(np.array([np.inf], np.float32))


def test_wider_floats_are_rounded_and_may_overflow() -> None:
    assert observe(np.array([0.1, 1e-60])) == observe(np.array([0.1, 0], np.float32))
    with pytest.raises(NonFiniteError, match="got 0 NaN, 1 infinite"):
        observe(np.array([1e39]))


def test_only_floats_are_observed() -> None:
    with pytest.raises(QirError, match="expected an array of floats, got int64"):
        observe(np.array([1, 2], np.int64))
    with pytest.raises(QirError, match="expected 16 to 1048576 bins, got 8"):
        observe(np.zeros(1), bins=8)


def test_parts_that_contradict_one_another_are_refused() -> None:
    fits = observe(np.array([-1, 0, 0, 2], np.float32), bins=16)
    assert len(fits.counts) == 14

    cases: list[tuple[dict[str, Any], str]] = [
        ({"counts": fits.counts[1:]}, "expected 14 counts, got 13"),
        ({"counts": -fits.counts}, "expected counts >= 0, and > 0 at the extremes"),
        ({"counts": fits.counts[::-1] * 0}, "expected counts >= 0, and > 0 at the extremes"),
        ({"counts": []}, "expected counts of the values, got none"),
        ({"zeros": 3}, "expected zeros among bin 0, got 3"),
        ({"minimum": 0.1}, "expected normal float32 extremes, got 0.1"),
        ({"minimum": np.nan}, "expected normal float32 extremes, got nan"),
        ({"minimum": 3.0}, "expected minimum <= maximum, got 3.0 > 2.0"),
    ]
    for other, message in cases:
        with pytest.raises(QirError, match=f"statistic: {message}"):
            replace(fits, **other)


def test_a_statistic_prints_as_one_line() -> None:
    values = np.concatenate([np.zeros(1000), np.linspace(0, 1, 25)[1:] ** 2, [2]])
    assert str(observe(values)) == (
        "count 1025  zeros 97.6%  min 0  max 2  |█▂▂▂▂▁▂▁▁▁▁▁▁          ▁|"
    )
    assert str(Histogram.empty()) == "count 0"


@given(st.lists(some, min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 0.75]))
def test_the_moving_average_weighs_batches_by_their_age(
    batches: list[Array], momentum: float
) -> None:
    seen = enumerate(map(observe, batches))
    kept = BatchExtremes.of((number, batch.minimum, batch.maximum) for number, batch in seen)
    low, high = MovingAverage(momentum).range(TensorStatistics(extremes=kept))
    ages = range(len(batches) - 1, -1, -1)
    weights = [Fraction(momentum) ** age for age in ages]
    weights[1:] = [weight * (1 - Fraction(momentum)) for weight in weights[1:]]
    for got, extremes in [
        (low, [observe(batch).minimum for batch in batches]),
        (high, [observe(batch).maximum for batch in batches]),
    ]:
        terms = [w * Fraction(value) for w, value in zip(weights, extremes, strict=True)]
        # Each update rounds two products and a sum of numbers no larger than the largest extreme.
        bound = 4 * len(batches) * Fraction(max(map(abs, extremes))) / 2**53
        assert abs(Fraction(got) - sum(terms)) <= bound


def test_the_moving_average_checks_its_parts() -> None:
    with pytest.raises(QirError, match=r"expected momentum in \[0, 1\), got 1.0"):
        MovingAverage(1.0)
    with pytest.raises(QirError, match="expected minimum <= maximum in each batch"):
        BatchExtremes.of([(3, 2.0, 1.0)])
    with pytest.raises(QirError, match="expected increasing numbers of batches"):
        BatchExtremes.of([(3, 1.0, 2.0), (3, 1.0, 2.0)])
