"""The type that holds sums of products: exact by the sum itself, as small as that allows."""

import numpy as np
import pytest

from qir.numbers.carrier import carrier
from qir.ops import Dot


def test_bytes_take_single_precision_until_their_sums_could_reach_its_end():
    x = np.full((1, 1024), 127, np.int8)
    assert carrier(x, np.full((1024, 2), 127, np.int8)) is np.float32
    assert carrier(np.full((1, 1041), 127, np.int8), np.full((1041, 2), 127, np.int8)) is np.float64


def test_weights_of_both_signs_are_told_from_those_of_one():
    weights = np.tile(np.array([[127], [-127]], np.int8), (600, 1))
    positive = np.full((1, 1200), 127, np.int8)
    assert carrier(positive, weights) is np.float32
    # With numbers of both signs all products can have the same one.
    assert carrier(positive * np.tile([1, -1], 600), weights) is np.float64


def test_a_bias_counts():
    x, weights = np.ones((1, 2), np.int8), np.ones((2, 1), np.int8)
    assert carrier(x, weights, np.array([2**24 - 4], np.int32)) is np.float32
    assert carrier(x, weights, np.array([-(2**24)], np.int32)) is np.float64


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((2, 0), (0, 2)), ((2, 3), (3, 0))])
def test_empty_tensors_have_one(shapes):
    x, weights = (np.zeros(shape, np.int8) for shape in shapes)
    assert carrier(x, weights) is np.float32
    assert carrier(x, weights, np.array([2**24 + 1], np.int32)) is np.float64


@pytest.mark.parametrize("terms", [3, 900, 1032, 1033, 5000])
def test_sums_are_exact_on_both_sides_of_the_bound(terms):
    rng = np.random.default_rng(terms)
    x = rng.choice(np.array([-128, -127, 127], np.int8), (4, terms))
    weights = rng.choice(np.array([-128, 126, 127], np.int8), (terms, 3))
    weights[:, 0], x[0] = -128, -128
    exact = x.astype(np.int64) @ weights.astype(np.int64)
    assert np.array_equal(Dot().evaluate(x, weights), exact)
