"""Metrics of numbers and tokens, against figures computed by hand."""

import numpy as np
import pytest

import qir
from qir.metrics import Answers
from qir.report.decibels import figures_of
from tests.metrics import figures
from tests.metrics.figures import floats


def figure(name, *batches):
    """The figure of batches of outputs and targets."""
    return figures.figure(name, *(Answers((outputs,), targets) for outputs, targets in batches))


def compared(name, *batches):
    """The figure of batches of outputs and what the float program computes."""
    return figures.figure(name, *(Answers((found,), None, (exact,)) for found, exact in batches))


def test_errors_of_numbers_are_means_over_all_of_them():
    batches = (floats([[1], [2], [3]]), [0, 2, 5]), (floats([[10]]), [[7]])
    assert figure("rmse", *batches) == pytest.approx(np.sqrt((1 + 0 + 4 + 9) / 4))
    assert figure("mae", *batches) == pytest.approx((1 + 0 + 2 + 3) / 4)


def test_numbers_are_never_spread_over_targets_of_another_shape():
    with pytest.raises(qir.QirError, match=r"of shape \[3,2\] for outputs \[3,2\], got \[3\]"):
        figure("rmse", (np.zeros((3, 2), np.float32), [0, 0, 0]))


@pytest.mark.parametrize("name", ["rmse", "mae"])
def test_errors_of_nan_are_nan(name):
    assert np.isnan(figure(name, (floats([1, np.nan]), [1, 2])))


def test_perplexity_is_of_all_tokens_but_padding():
    probabilities = np.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.6, 0.2], [1, 0, 0]]])
    with np.errstate(divide="ignore"):
        logits = (np.log(probabilities) + np.array([[[5], [-3]], [[0], [0]]])).astype(np.float32)
    targets = np.array([[0, 2], [1, -100]])
    expected = (0.5 * 0.8 * 0.6) ** (-1 / 3)
    assert figure("perplexity", (logits, targets)) == pytest.approx(expected, rel=1e-6)
    split = figure("perplexity", (logits[:1], targets[:1]), (logits[1:], targets[1:]))
    assert split == pytest.approx(expected, rel=1e-6)
    other = np.where(targets == -100, 9, targets)
    assert figure("perplexity(ignore=9)", (logits, other)) == pytest.approx(expected, rel=1e-6)
    whole = figure("perplexity(probabilities=true)", (probabilities, targets))
    assert whole == pytest.approx(expected)
    # A token that can't be: no number is great enough.
    assert figure("perplexity", (logits, np.array([[0, 2], [1, 1]]))) == np.inf


def test_logits_may_be_for_the_token_behind():
    logits = np.log([[[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]]])
    assert figure("perplexity(shift=true)", (logits, [[1, 0, 1]])) == pytest.approx(
        (0.5 * 0.75) ** -0.5
    )


def test_probabilities_are_not_taken_for_logits():
    rows = np.full((4, 8), 1 / 8)
    with pytest.raises(qir.QirError, match=r"got probabilities.*probabilities=true"):
        figure("perplexity", (rows, [0, 1, 2, 3]))


def test_perplexity_of_nan_is_nan_where_it_counts():
    logits = floats([[0, 0], [np.nan, 0]])
    assert np.isnan(figure("perplexity", (logits, [0, 1])))
    assert figure("perplexity", (logits, [0, -100])) == pytest.approx(2)
    assert np.isnan(figure("perplexity", (logits, [-100, -100])))


def test_signal_to_noise_is_of_all_numbers():
    exact, found = floats([3, 4]), floats([3, 4.5])
    # 25 + 75 of signal, 0.25 of noise.
    silent = floats([5, np.sqrt(50)])
    assert compared("sqnr", (found, exact), (silent, silent)) == pytest.approx(
        10 * np.log10(100 / 0.25), rel=1e-6
    )
    assert compared("sqnr", (exact, exact)) == np.inf
    assert compared("sqnr", (floats([3, np.nan]), exact)) == -np.inf
    assert compared("sqnr", (exact, floats([3, np.nan]))) == np.inf
    assert np.isnan(compared("sqnr", (exact, floats([np.nan, np.nan]))))
    assert compared("sqnr", (exact, floats([0, 0]))) == -np.inf


def test_signal_to_noise_is_that_of_the_accuracy_of_a_quantized_program():
    generator = np.random.default_rng(0)
    near = generator.normal(size=(40, 3))
    for exact in (near, near + 1000):  # The middle of a range far from 0 is no signal.
        exact = exact.astype(np.float32)
        found = exact + floats(generator.normal(0, 0.01, exact.shape))
        batches = (found[:7], exact[:7]), (found[7:], exact[7:])
        whole = compared("sqnr", *batches)
        assert whole == pytest.approx(figures_of(exact, found)[0], abs=1e-6)
        assert 35 < whole < 45


def test_cosine_is_the_mean_over_samples():
    exact = floats([[1, 0], [0, 2], [0, 0], [0, 0]])
    found = floats([[2, 0], [3, 3], [0, 0], [1, 0]])
    batches = (found[:1], exact[:1]), (found[1:], exact[1:])
    assert compared("cosine", *batches) == pytest.approx((1 + np.sqrt(0.5) + 1 + 0) / 4)
    assert np.isnan(compared("cosine", (found * np.nan, exact)))


def test_outputs_of_another_shape_than_the_float_programs_are_told():
    with pytest.raises(qir.QirError, match=r"expected an output \[2,1\] as the float program's"):
        compared("sqnr", (np.zeros(2), np.zeros((2, 1))))
