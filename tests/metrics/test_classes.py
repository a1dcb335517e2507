"""Metrics of classes, against figures computed by hand."""

import numpy as np
import pytest

import qir
from qir.metrics import F1, Answers, ClassAccuracy, MeanAveragePrecision, Precision, TopAccuracy
from qir.metrics.asked import asked
from tests.metrics import figures
from tests.metrics.figures import floats

SCORES = floats([[3, 1, 0], [0, 2, 1], [1, 1, 0], [0, 1, 5]])  # 0, 1, 0 (of equals), 2
IDS = np.array([0, 1, 1, 1])


def figure(name, *batches):
    """The figure of batches of outputs and targets."""
    return figures.figure(name, *(Answers((outputs,), targets) for outputs, targets in batches))


def refusal(name, outputs, targets):
    with pytest.raises(qir.QirError) as caught:
        figure(name, (outputs, targets))
    return str(caught.value)


def test_accuracy_is_the_share_of_all_samples_whatever_the_batches():
    assert figure("accuracy", (SCORES, IDS)) == 0.5
    # The mean of the batches' own figures would be (2/3 + 0) / 2.
    assert figure("accuracy", (SCORES[:3], IDS[:3]), (SCORES[3:], IDS[3:])) == 0.5


@pytest.mark.parametrize(
    "targets",
    [
        IDS,
        IDS.astype(np.uint8),
        IDS.astype(np.float64),
        IDS[:, None],
        IDS.tolist(),
        np.eye(3)[IDS],
        np.eye(3, dtype=bool)[IDS],
    ],
    ids=["ids", "bytes", "floats", "column", "list", "one-hot", "flags"],
)
def test_targets_may_have_any_form_of_ids(targets):
    assert figure("accuracy", (SCORES, targets)) == 0.5
    assert figure("top-2", (SCORES, targets)) == 1.0


def test_top_k_counts_equal_scores_in_the_order_of_classes_as_argmax_does():
    assert figure("top-1", (SCORES, IDS)) == figure("accuracy", (SCORES, IDS))
    assert figure("top-1", (SCORES, [0, 1, 0, 2])) == 1.0
    assert figure("top-2", (SCORES, [2, 0, 2, 0])) == 0.0
    assert str(TopAccuracy(3)) == "top-3"
    assert asked("top-3(ignore=9)") == {"top-3(ignore=9)": TopAccuracy(3, 9)}


def test_tokens_have_classes_too_and_those_of_padding_do_not_count():
    tokens, ids = SCORES.reshape(2, 2, 3), np.array([[0, -100], [0, 2]])
    assert figure("accuracy(ignore=-100)", (tokens, ids)) == 1.0
    assert figure("top-1(ignore=-100)", (tokens, ids)) == 1.0
    assert "got -100 at [0, 1]; ignore=ID leaves" in refusal("accuracy", tokens, ids)


def test_integers_are_predictions_themselves():
    assert figure("accuracy", (np.array([0, 1, 0, 2], np.int32), IDS)) == 0.5


def test_a_threshold_makes_answers_of_scores_that_stand_alone():
    logits = floats([[-1], [2], [0.5], [-0.1]])
    assert figure("accuracy(threshold=0)", (logits, [0, 1, 0, 0])) == 0.75
    # Of three that are said to be, two are; of two that are, both are found.
    binary = "(threshold=0, average=binary)"
    targets = [0, 1, 1, 0]
    assert figure(f"precision{binary}", (logits, targets)) == 1.0
    assert figure(f"recall{binary}", (logits, [1, 1, 1, 0])) == pytest.approx(2 / 3)
    assert figure(f"f1{binary}", (logits, [1, 1, 1, 0])) == pytest.approx(0.8)


def test_of_several_labels_all_must_be_right():
    scores, labels = floats([[0.9, 0.8], [0.2, 0.7]]), [[1, 0], [0, 1]]
    assert figure("accuracy(threshold=0.5)", (scores, labels)) == 0.5
    # Label 0: 1 of 1; label 1: 1 of the 2 that are said to be.
    assert figure("precision(threshold=0.5)", (scores, labels)) == 0.75
    assert "got 2 labels" in refusal("f1(threshold=0.5, ignore=7)", scores, labels)


def test_averages_are_those_of_scikit_learn():
    # Class 0: 1 of 2 said is right, all found. Class 1: the one said is right, 1 of 3 found.
    # Class 2: the one said is wrong; it does not occur.
    batches = (SCORES[:1], IDS[:1]), (SCORES[1:], IDS[1:])
    np.testing.assert_allclose(figure("precision(average=none)", *batches), [0.5, 1, 0])
    np.testing.assert_allclose(figure("recall(average=none)", *batches), [1, 1 / 3, 0])
    np.testing.assert_allclose(figure("f1(average=none)", *batches), [2 / 3, 0.5, 0])
    assert figure("precision", *batches) == pytest.approx(0.5)
    assert figure("precision(average=micro)", *batches) == 0.5
    assert figure("precision(average=weighted)", *batches) == pytest.approx(0.25 * 0.5 + 0.75)
    assert Precision().average == F1().average == "macro"
    assert "average=macro" in refusal("f1(average=binary)", SCORES, IDS)
    assert "several labels" in refusal("f1(average=samples)", SCORES, IDS)


def test_confusion_counts_what_is_right_by_what_is_said():
    found = figure("confusion", (SCORES[:2], IDS[:2]), (SCORES[2:], IDS[2:]))
    np.testing.assert_array_equal(found, [[1, 0, 0], [1, 1, 1], [0, 0, 0]])


def test_average_precision_is_of_the_ranking_of_all_samples():
    # Label 0: its samples stand 1st and 3rd: (1/1 + 2/3) / 2. Label 1 never occurs.
    scores = floats([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    batches = (scores[:2], labels[:2]), (scores[2:], labels[2:])
    assert figure("map", *batches) == pytest.approx(5 / 6)
    assert np.isnan(figure("map", (scores, np.zeros((3, 2), int))))
    # A score of -inf, as of a mask, is the last one.
    masked = np.where(scores == scores.min(), -np.inf, scores)
    assert figure("map", (masked, labels)) == figure("map", (scores, labels))
    one_hot = figure("map", (SCORES, np.eye(3)[IDS]))
    assert figure("map", (SCORES, IDS)) == one_hot
    assert MeanAveragePrecision().average == "macro"


@pytest.mark.parametrize(
    "name", ["accuracy", "top-2", "f1", "precision(average=none)", "confusion", "map"]
)
def test_of_scores_that_are_nan_there_is_no_figure(name):
    broken = SCORES.copy()
    broken[1, 2] = np.nan
    assert np.isnan(figure(name, (SCORES, IDS), (broken, IDS)))


def test_of_no_target_that_counts_there_is_no_figure():
    assert np.isnan(figure("accuracy(ignore=1)", (SCORES[1:], IDS[1:])))


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ([0, 1, 2], "expected targets of shape [4] for outputs [4,3], got [3]"),
        ([0, 1, 2, 3], "expected ids 0 to 2 as targets, got 3 at [3]"),
        ([0, 1, -1, 2], "expected ids 0 to 2 as targets, got -1 at [2]"),
        ([0, 1, 0.5, 2], "expected ids 0 to 2 as targets, got 0.5 at [2]"),
        ([0, 1, np.nan, 2], "expected ids 0 to 2 as targets, got nan at [2]"),
        (np.full((4, 3), 1 / 3), "that are neither"),
        (np.eye(3)[IDS] * 2 - 1, "that are neither"),
        (["a", "b", "c", "d"], "expected an array of numbers as targets, got a list"),
        (None, "expected an array of numbers as targets, got None"),
        ([[0, 1], [2]], "expected an array of numbers as targets, got a list"),
    ],
)
def test_targets_that_do_not_fit_are_told(targets, told):
    assert told in refusal("accuracy", SCORES, targets)
    assert told in refusal("top-2", SCORES, targets)


def test_scores_that_do_not_fit_are_told():
    assert "say the threshold" in refusal("accuracy", SCORES[:, :1], IDS)
    assert "expected at least 5 classes, got 3" in refusal("top-5", SCORES, IDS)
    with pytest.raises(qir.QirError, match="top-k: expected k to be at least 1, got 0"):
        asked("top-0")
    assert ClassAccuracy(ignore=1).label == "accuracy(ignore=1)"
