"""What can be asked for, and how outputs are measured."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qir.errors import QirError
from qir.search.budget import BUDGETS, Budget
from qir.types import Array


def worst(exact, found):
    return -float(np.max(np.abs(exact[0] - found[0])))


def test_a_budget_is_a_name_and_a_bound():
    budget = Budget.of("sqnr 30")
    assert (budget.name, budget.bound, str(budget)) == ("sqnr", 30, "sqnr 30")
    own = Budget.of("largest -0.5", worst)
    assert (own.name, own.bound) == ("largest", -0.5)
    assert Budget.of(-0.5, worst).name == "worst"


@pytest.mark.parametrize(
    ("given", "metric", "message"),
    [
        ("snqr 30", None, "expected a measure among sqnr, cosine, accuracy, got 'snqr'; did you"),
        ("sqnr", None, "expected a measure and the least that it is to be, such as 'sqnr 30'"),
        ("sqnr much", None, "such as 'sqnr 30', got 'sqnr much'"),
        ("sqnr 30 dB", None, "such as 'sqnr 30', got 'sqnr 30 dB'"),
        ("sqnr nan", None, "such as 'sqnr 30'"),
        (30, None, "such as 'sqnr 30', got 30"),
        ("", None, "such as 'sqnr 30'"),
        (True, worst, "such as 'sqnr 30'"),
        ("cosine 99", None, "expected cosine of at most 1, got 'cosine 99'"),
        ("sqnr 30", "cosine", "expected metric to be a function .* got a str"),
    ],
)
def test_what_is_no_budget_says_what_is(given, metric, message):
    with pytest.raises(QirError, match=message):
        Budget.of(given, metric)


def test_measures_are_greater_where_outputs_are_nearer():
    exact = [np.array([[1.0, 2, 3], [3, 2, 1]], np.float32)]
    near, far = exact[0] + 0.1, exact[0][::-1]
    for name, measure in BUDGETS.items():
        assert measure(exact, [near]) > measure(exact, [far]), name
    assert BUDGETS["sqnr"](exact, [near]) == pytest.approx(10 * np.log10(28 / 0.06), abs=1e-4)
    assert BUDGETS["accuracy"](exact, [near]) == 1
    assert BUDGETS["cosine"](exact, exact) == pytest.approx(1)


def test_outputs_of_any_number_are_measured():
    exact = np.array([[1.0, 2, 3], [3, 2, 1]], np.float32)
    narrow = exact.astype(ml_dtypes.bfloat16)
    off = (exact * np.float32(1.125)).astype(ml_dtypes.bfloat16)
    assert BUDGETS["sqnr"]([narrow], [off]) == pytest.approx(20 * np.log10(8), abs=0.1)
    # Integers are classes, and no signal.
    ids = np.array([0, 1, 2, -2], np.int32)
    assert BUDGETS["accuracy"]([ids], [np.array([0, 1, 2, 1], np.int32)]) == 0.75
    assert BUDGETS["sqnr"]([ids, exact], [ids, exact + 0.1]) < 30
    for name in ("sqnr", "cosine"):
        with pytest.raises(QirError, match=f"real numbers for {name} to measure, got i32; 'acc"):
            BUDGETS[name]([ids], [ids])


@pytest.mark.parametrize("number", [np.float32(2), np.array(2.0), jnp.float32(2), 2])
def test_a_metric_may_give_any_kind_of_number(number):
    assert Budget.of(1, lambda exact, found: number).measure([], []) == 2


def test_a_metric_can_not_change_what_others_measure():
    def centred(exact: Sequence[Array], found: Sequence[Array]) -> float:
        exact[0][:] -= found[0]
        return float(np.abs(exact[0]).sum())

    exact, found = np.ones(3), np.zeros(3)
    budget = Budget.of(1, centred)
    assert budget.measure([exact], [found]) == budget.measure([exact], [found]) == 3


def test_a_metric_that_fails_is_named():
    with pytest.raises(ZeroDivisionError) as caught:
        Budget.of(1, lambda exact, found: 1 / 0).measure([], [])
    assert caught.value.__notes__ == ["qir.quantize: in the metric <lambda> of the budget"]


def test_a_metric_that_gives_no_number_is_told():
    wrong: Any = lambda exact, found: "good"  # noqa: E731
    budget = Budget.of(1, wrong)
    with pytest.raises(QirError, match="expected <lambda> to return a number, got 'good'"):
        budget.measure([], [])
