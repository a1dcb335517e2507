"""Statistics of channels and rows are functions of what was seen, whatever the batches."""

import numpy as np
import pytest

from qir.errors import QirError
from qir.observe.channels import (
    MOST_PLACES,
    ChannelMoments,
    ChannelStatistic,
    RowPeaks,
    few_places,
    observe_channels,
    observe_moments,
    observe_rows,
)
from qir.observe.exact_sums import ExactSums


@pytest.mark.parametrize("axes", [(2,), (1,), (0, 1), (0, 2)])
def test_channels_have_their_own_extremes_and_mean_squares(axes):
    array = np.random.default_rng(0).normal(0, 3, (4, 5, 6)).astype(np.float32)
    others = tuple(axis for axis in range(3) if axis not in axes)
    found = observe_channels(array, axes)
    assert np.array_equal(found.minimum, array.min(axis=others))
    assert np.array_equal(found.maximum, array.max(axis=others))
    assert np.array_equal(found.peaks, np.abs(array).max(axis=others))
    expected = np.square(array.astype(np.float64)).mean(axis=others)
    # A float32 is within 2^-24 of what it rounds; the order of a sum in float64 does far less.
    np.testing.assert_allclose(found.mean_square, expected, rtol=2**-23)
    assert found.count == array.size // found.minimum.size


def test_neither_order_nor_cut_of_batches_matters():
    rng = np.random.default_rng(1)
    array = (rng.normal(0, 1, (24, 7)) * np.exp2(rng.uniform(-20, 20, 7))).astype(np.float32)
    whole = observe_channels(array, (1,))
    for cuts in ([5], [1, 2, 3], [0, 12]):
        parts = [observe_channels(part, (1,)) for part in np.split(array, cuts)]
        for order in (parts, parts[::-1]):
            merged = order[0]
            for part in order[1:]:
                merged = merged.merge(part)
            assert np.array_equal(merged.minimum, whole.minimum)
            assert np.array_equal(merged.maximum, whole.maximum)
            assert np.array_equal(merged.mean_square, whole.mean_square)
            assert merged.count == whole.count


def test_nothing_seen_is_the_identity():
    some = observe_channels(np.ones((2, 3), np.float32), (1,))
    none = observe_channels(np.ones((0, 3), np.float32), (1,))
    assert none.count == 0
    assert np.array_equal(none.mean_square, np.zeros(3))
    for merged in (some.merge(none), none.merge(some)):
        assert np.array_equal(merged.minimum, some.minimum)
        assert merged.count == some.count


def test_numbers_that_xla_flushes_count_as_zero():
    tiny = np.full((1, 2), 1e-40, np.float32)
    assert np.array_equal(observe_channels(tiny, (1,)).maximum, [0, 0])


def test_statistics_of_other_channels_do_not_merge():
    array = np.ones((3, 3), np.float32)
    with pytest.raises(QirError, match=r"expected \(3,\) along axes \[1\], got \(3,\) along \[0\]"):
        observe_channels(array, (1,)).merge(observe_channels(array, (0,)))
    with pytest.raises(QirError, match="expected rows along axes"):
        RowPeaks((1,)).merge(RowPeaks((0,)))


def test_parts_that_contradict_one_another_are_refused():
    one, two = np.ones(1, np.float32), np.ones(2, np.float32)
    with pytest.raises(QirError, match="arrays of one shape"):
        ChannelStatistic((0,), one, two, ExactSums.of(np.ones(1)), 1)
    with pytest.raises(QirError, match="minimum <= maximum"):
        ChannelStatistic((0,), 2 * one, one, ExactSums.of(np.ones(1)), 1)


def test_the_least_row_maximum_leaves_out_what_the_mask_drops():
    array = np.array([[1, 5, 2], [-4, -3, 9]], np.float32)
    assert observe_rows(array, (1,)).least == 5
    mask = np.array([True, True, False])
    assert observe_rows(array, (1,), mask).least == -3
    rows_without_numbers = np.array([[True], [False]])
    assert observe_rows(array, (1,), rows_without_numbers).least == 5
    assert observe_rows(array, (0, 1)).least == 9
    assert observe_rows(array[:0], (1,)) == RowPeaks((1,), np.inf)
    assert RowPeaks((1,), 5.0).merge(RowPeaks((1,), -3.0)) == RowPeaks((1,), -3.0)


def test_moments_are_mean_and_variance_whatever_the_batches():
    rng = np.random.default_rng(3)
    array = (rng.normal(2, 1, (24, 5, 7)) * np.exp2(rng.uniform(-20, 20, 7))).astype(np.float32)
    whole, real = observe_moments(array), array.astype(np.float64)
    assert whole.count == 24 * 5
    # A float32 is within 2^-24 of what it rounds. The variance is a difference of squares at most
    # ten times as large, of which float64 loses far less.
    np.testing.assert_allclose(whole.means, real.mean(axis=(0, 1)), rtol=2**-23)
    np.testing.assert_allclose(whole.variances, real.var(axis=(0, 1)), rtol=2**-23)
    for cuts in ([5], [1, 2, 3], [0, 12]):
        parts = [observe_moments(part) for part in np.split(array, cuts)]
        merged = parts[-1]
        for part in parts[:-1]:
            merged = merged.merge(part)
        assert np.array_equal(merged.means, whole.means)
        assert merged.count == whole.count
    assert np.array_equal(whole.take(np.array([4, 2])).means, whole.means[[4, 2]])
    with pytest.raises(QirError, match="expected 7 along the last axis, got 2"):
        whole.merge(whole.take(np.array([4, 2])))


def test_moments_of_even_numbers_and_of_none():
    places = np.linspace(3, 5, 100_001)[:, None]
    found, even = observe_moments(places), ChannelMoments.even(3, 5, 1)
    assert np.allclose(even.means, found.means)
    # n numbers a step apart have (n + 1) / (n - 1) times the variance.
    np.testing.assert_allclose(even.variances, found.variances, rtol=3e-5)
    none = observe_moments(np.ones((0, 3, 2), np.float32))
    assert none.count == 0
    assert np.array_equal(none.means, [0, 0])
    huge = observe_moments(np.array([[3e38], [-3e38]], np.float32))
    assert np.isfinite(huge.variances).all()


@pytest.mark.parametrize("sizes", [(112, 112), (64, 64), (7, 7), (1000,)])
def test_few_places_are_spread_over_all_columns(sizes):
    places = int(np.prod(sizes))
    array = np.arange(2 * places * 3).reshape(2, *sizes, 3)
    found = few_places(array)
    assert found.shape[0] == 2
    assert min(places, MOST_PLACES // 2) <= found.shape[1] <= 2 * MOST_PLACES
    columns = found[0, :, 0] // 3 % sizes[-1]
    assert len(np.unique(columns)) > 0.9 * min(sizes[-1], found.shape[1])


def test_rows_of_few_axes_are_all_seen():
    array = np.arange(6).reshape(2, 3)
    assert few_places(array) is array


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (3, 1, 0, 2), (1, 3, 2, 0)])
@pytest.mark.parametrize("axes", [(3,), (1, 2), (0, 3), (0, 1, 2)])
def test_statistics_turn_with_the_axes_of_their_tensor(order, axes):
    array = np.random.default_rng(0).normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
    moved = tuple(sorted(order.index(axis) for axis in axes))
    turned = observe_channels(array, axes).turned(order)
    wanted = observe_channels(array.transpose(order), moved)
    assert (turned.axes, turned.count) == (wanted.axes, wanted.count)
    np.testing.assert_array_equal(turned.minimum, wanted.minimum)
    np.testing.assert_array_equal(turned.maximum, wanted.maximum)
    np.testing.assert_allclose(turned.mean_square, wanted.mean_square, rtol=1e-6)
    assert observe_rows(array, axes).turned(order) == observe_rows(array.transpose(order), moved)
