"""The word error rate of what a recognizer's outputs spell."""

import numpy as np
import pytest

import qir
from qir.metrics import Answers, WordErrorRate
from qir.metrics.asked import asked
from tests.metrics.figures import figure, floats

pytest.importorskip("jiwer")

GREEDY = WordErrorRate(vocabulary="_ ab", blank=0)


def rate(metric, *batches):
    return figure(metric, *(Answers((outputs,), texts) for outputs, texts in batches))


def scores(*texts):
    """Scores whose best ids spell texts of one length, a character each."""
    return floats([[np.eye(4)["_ ab".index(letter)] for letter in text] for text in texts])


def test_equal_ids_side_by_side_are_one_and_blanks_nothing():
    assert rate(GREEDY, (scores("aa_a b"), ["aa b"])) == 0
    assert rate(WordErrorRate("_ ab"), (scores("aa_a b"), ["aa_a b"])) == 0
    ids = np.argmax(scores("aa_a b"), -1)
    assert rate(GREEDY, (ids, ["aa b"])) == 0


def test_it_is_of_all_words_of_all_batches():
    # Of 1 word none is wrong; of 4 one is another, one is left out, and one is put in.
    batches = (scores("a__"), ["a"]), (scores("a b a b a"), ["a a a b"]), (scores("b"), ["b a"])
    assert rate(GREEDY, *batches[:1]) == 0
    assert rate(GREEDY, *batches) == pytest.approx((0 + 2 + 1) / (1 + 4 + 2))


def test_a_function_may_decode_instead():
    metric = WordErrorRate(decode=lambda output: ["a b"] * len(output))
    assert rate(metric, (np.zeros((2, 9)), ["a b", "a a"])) == 0.25


def test_what_is_nan_is_no_word():
    outputs = scores("a b")
    outputs[0, 2, 1] = np.nan
    assert rate(GREEDY, (outputs, ["a b"])) == 0.5


def test_options_and_targets_that_do_not_fit_are_told():
    with pytest.raises(qir.QirError, match=r"wer: expected a vocabulary.* got neither"):
        asked("wer")
    (metric,) = asked('wer(vocabulary="_ ab", blank=0)').values()
    assert metric == GREEDY
    with pytest.raises(qir.QirError, match="expected a text for each of 1 samples"):
        rate(GREEDY, (scores("a"), ["a", "b"]))
    with pytest.raises(qir.QirError, match="got an int among them"):
        rate(GREEDY, (scores("a"), [1]))
    with pytest.raises(qir.QirError, match="expected scores of 4 tokens, as the vocabulary has"):
        rate(GREEDY, (np.zeros((1, 2, 3)), ["a"]))
