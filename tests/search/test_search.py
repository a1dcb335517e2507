"""A search meets what is asked for with few codes of 16 bits, says why, and can be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

import qir
from qir.api import searching
from qir.errors import QirAccuracyWarning, QirError
from qir.ir import Graph
from qir.pipeline import Context
from qir.search import greedy
from qir.search.budget import Budget, OutputMetric
from qir.search.greedy import Found, Greedy
from qir.search.search import SearchResult, search
from qir.search.subject import Prepared, SearchedProgram
from qir.types import Array
from tests.models.random_programs import NumpyExecutor
from tests.models.transformers import Network, Weights, reals


def chain(seed: int = 0, widths: tuple[int, ...] = (12, 16, 8)) -> Network:
    """Dense layers, the first of which has an input of which one number is far larger."""
    draw = Weights(seed)
    layers = [draw.dense(*pair) for pair in pairwise(widths)]

    def function(x: jax.Array) -> jax.Array:
        for layer in layers:
            x = jax.nn.relu(x @ layer) + 0.1
        return x

    def inputs(seed: int) -> tuple[Array, ...]:
        (x,) = (reals(seed, 32, widths[0]),)
        x[:, 0] *= 20
        return (x,)

    return Network(function, inputs)


@contextmanager
def uncompiled() -> Generator[None]:
    """Programs this small take longer to compile than to compute in numpy."""
    with mock.patch("qir.backends.xla.executor.XlaExecutor", NumpyExecutor):
        yield


@cache
def example() -> tuple[Graph, list[tuple[Array, ...]]]:
    network = chain()
    data = [network.inputs(0), network.inputs(1)]
    return qir.from_jax(network.function, *data[0], batch="B"), data


def quantized(**options: Any) -> tuple[Graph, Context]:
    graph, data = example()
    context = Context()
    with uncompiled():
        return qir.quantize(graph, data, context=context, **options), context


def decibels(graph: Graph, integer: Graph, inputs: tuple[Array, ...]) -> float:
    return Budget.of("sqnr 0").measure(
        list(qir.evaluate(graph, *inputs)), list(qir.evaluate(integer, *inputs))
    )


def test_a_budget_is_met_by_a_recipe_with_reasons():
    graph, data = example()
    plain, _ = quantized()
    before = decibels(graph, plain, data[1])
    found, context = quantized(budget=f"sqnr {before + 6}")
    assert decibels(graph, found, data[1]) >= before + 6
    assert context.recipe is not None
    assert context.recipe.pipeline == "w8a8"
    assert all(" → " in rule.reason for rule in context.recipe.rules)
    assert "16 bits: sqnr" in str(qir.explain(found))
    assert any(told.startswith("budget sqnr") for told in found.diagnostics)
    # The rules alone give the same program.
    again, _ = quantized(recipe=qir.Recipe.parse(context.recipe.text))
    assert again == found


def test_what_meets_the_budget_as_it_is_stays_so():
    found, context = quantized(budget="sqnr 10")
    plain, _ = quantized()
    assert found == plain
    assert context.recipe is not None
    assert not context.recipe.rules


def test_auto_gives_bits_to_a_small_share_where_they_gain():
    graph, data = example()
    plain, _ = quantized()
    with mock.patch.object(greedy, "MOST_WIDE", 0.4):
        found, context = quantized(pipeline="auto")
    assert context.recipe is not None
    (rule, *_) = context.recipe.rules
    # The input's one large number takes the bits of the others.
    assert (rule.select, rule.activations) == (("x",), "i16")
    assert decibels(graph, found, data[1]) > decibels(graph, plain, data[1]) + 1
    # A seventh of a handful is none.
    _, context = quantized(pipeline="auto")
    assert context.recipe is not None
    assert not context.recipe.rules
    assert "of so few are none more: a search with budget=" in context.diagnostics[-1]


def test_no_choice_of_many_is_superfluous():
    network = chain(3, (8, 12, 12, 6))
    data = [network.inputs(0), network.inputs(1)]
    graph = qir.from_jax(network.function, *data[0], batch="B")
    searches: list[tuple[Greedy, Found | None]] = []
    meet = Greedy.meet

    def noted(self: Greedy) -> Found | None:
        searches.append((self, meet(self)))
        return searches[-1][1]

    with (
        uncompiled(),
        mock.patch.object(Greedy, "meet", noted),
        mock.patch.object(greedy, "FEW", 0),
    ):
        qir.quantize(graph, data, budget="cosine 0.9999")
        ((search, found),) = searches
        assert found is not None
        assert found.chosen
        for left_out in found.chosen:
            rest = [index for index in found.chosen if index != left_out]
            assert search.real(rest) < 0.9999


def test_a_metric_of_the_users_own_is_met():
    def worst(exact: list[Array], found: list[Array]) -> float:
        return -float(np.abs(exact[0] - found[0]).max())

    graph, data = example()
    plain, _ = quantized()
    exact = list(qir.evaluate(graph, *data[1]))
    before = worst(exact, list(qir.evaluate(plain, *data[1])))
    found, context = quantized(budget=before / 2, metric=worst)
    rows = searching._rows(graph, data)[1]
    exact, got = (list(qir.evaluate(each, *rows)) for each in (graph, found))
    assert worst(exact, got) >= before / 2
    assert context.diagnostics[-1].startswith("budget worst")


def test_what_nothing_reaches_is_an_error_with_the_best_that_was_found():
    with pytest.raises(QirError) as caught:
        quantized(budget="sqnr 200")
    told = str(caught.value)
    assert "budget sqnr 200: nothing that was tried meets it: the best found has" in told
    recipe = qir.Recipe.parse("\n".join(caught.value.places))
    assert len(recipe.rules) > 3
    # Those of the program, of which a rule may select several or none.
    graph, data = example()
    widest = qir.quantize(graph, data, recipe=recipe, accuracy_check=False)
    codes = [
        value.type.dtype.bits
        for value in widest.values()
        if value.type.quant and not value.is_constant and value.type.dtype.bits <= 16
    ]
    assert f"with {codes.count(16)} of {len(codes)} stored activations and" in told


def test_weights_in_blocks_get_a_scale_for_each_channel():
    graph, data = example()
    found, context = quantized(pipeline="w4a8", budget="sqnr 30", accuracy_check=False)
    assert context.recipe is not None
    rules = [rule for rule in context.recipe.rules if rule.weights]
    assert rules
    assert {(rule.weights, rule.per) for rule in rules} == {("i16", "channel")}
    assert decibels(graph, found, data[1]) >= 30


def test_a_program_that_returns_integers_is_measured_by_how_many_are_equal():
    network, data = chain(), example()[1]
    graph = qir.from_jax(lambda x: network.function(x).argmax(-1), *data[0], batch="B")
    with uncompiled():
        with pytest.raises(
            QirError, match=r"real numbers for sqnr .* 'accuracy 0.99' is the share"
        ):
            qir.quantize(graph, data, budget="sqnr 30")
        found = qir.quantize(graph, data, budget="accuracy 0.95")
        auto = qir.quantize(graph, data, "auto")
    (exact,), (got,) = (qir.evaluate(each, *data[1]) for each in (graph, found))
    share = float(np.mean(exact == got))
    assert share >= 0.95
    assert found.diagnostics[-1].startswith(f"budget accuracy 0.95: accuracy {share:.4g} with")
    assert auto.diagnostics[-1].startswith("auto: accuracy ")


def test_a_program_with_nothing_to_choose_is_told_of_at_once():
    with (
        mock.patch("qir.search.subject.find_units", return_value=[]),
        pytest.raises(QirError, match=r"nothing that was tried meets it: .* with 0 of 4 stored"),
    ):
        quantized(budget="sqnr 50")


def test_a_search_goes_on_from_its_checkpoint(tmp_path):
    path = tmp_path / "search.json"
    options = {"budget": "sqnr 45", "checkpoint": path}
    whole, _ = quantized(**options)
    known = path.read_text()
    # Each figure is read: none is measured once more.
    with never_measured():
        assert quantized(**options)[0] == whole
    assert path.read_text() == known
    with pytest.raises(QirError, match="of a search with another program, data, pipeline"):
        quantized(budget="sqnr 44", checkpoint=path)


def test_a_checkpoint_is_of_one_metric(tmp_path):
    path = tmp_path / "search.json"

    def metric(factor: float) -> OutputMetric:
        return lambda exact, found: -factor * float(np.abs(exact[0] - found[0]).max())

    whole, _ = quantized(budget=-0.05, metric=metric(1), checkpoint=path)
    assert quantized(budget=-0.05, metric=metric(1), checkpoint=path)[0] == whole
    with pytest.raises(QirError, match="of a search with another metric: <lambda> is"):
        quantized(budget=-0.05, metric=metric(100), checkpoint=path)


@contextmanager
def never_measured() -> Generator[None]:
    def fail(*_: object) -> None:
        raise AssertionError("expected nothing to be measured")

    with mock.patch("qir.search.staged.StagedSimulation._from", fail):
        yield


def test_an_interrupted_search_finds_what_a_whole_one_does(tmp_path):
    path = tmp_path / "search.json"
    whole, _ = quantized(budget="sqnr 45")
    calls = 0

    def interrupted(self: object, index: int) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return measure(self, index)

    measure: Callable[..., list[float]] = Prepared.noise
    with (
        mock.patch("qir.search.subject.Prepared.noise", interrupted),
        pytest.raises(KeyboardInterrupt),
    ):
        quantized(budget="sqnr 45", checkpoint=path)
    assert path.exists()
    assert quantized(budget="sqnr 45", checkpoint=path)[0] == whole


def test_seconds_bound_a_search():
    with pytest.raises(QirError, match="was not met within 1e-06 seconds; nothing was measured"):
        quantized(budget="sqnr 45", seconds=1e-6)
    with pytest.warns(QirAccuracyWarning, match="the search was ended after 1e-06 seconds"):
        found, _ = quantized(pipeline="auto", seconds=1e-6, accuracy_check=False)
    assert found == quantized()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 3}, "seconds is for a search; give a budget, or the pipeline auto"),
        ({"checkpoint": "a.json"}, "checkpoint is for a search"),
        ({"budget": "sqnr 30", "checkpoint": 3}, "expected checkpoint to be a path, got an int"),
        ({"budget": "sqnr 30", "checkpoint": "/nowhere/at/all"}, "can't write /nowhere/at/all"),
        ({"pipeline": "auto", "metric": max}, "metric is what a budget is measured by"),
        ({"budget": "sqnr 30", "seconds": 0}, "expected seconds above 0, got 0"),
        ({"budget": "sqnr 30", "seconds": "9"}, "expected seconds above 0, got '9'"),
        ({"budget": "sqnr 30", "recipe": []}, "a search takes no recipe"),
        ({"budget": "sqnr 30", "pipeline": "w8a16"}, "codes of 8 bits, such as w8a8, to search"),
        ({"budgets": "sqnr 30"}, "did you mean 'budget'"),
        ({"budget": "sqnr 30", "target": "onnx"}, "of which target onnx accepts i8 or u8 alone"),
        ({"budget": "sqnr 30", "pipeline": "w8"}, "to search from, got 'w8'"),
    ],
)
def test_options_that_make_no_search_say_so(options, message):
    with pytest.raises(QirError, match=message):
        quantized(**options)


def test_a_search_needs_data():
    with pytest.raises(QirError, match="expected data to search with, got none"):
        qir.quantize(example()[0], budget="sqnr 30")


@pytest.mark.parametrize("apart", [True, False])
def test_a_fixed_batch_of_more_than_enough_is_searched_by_a_few_samples(apart):
    network = chain()
    data = [network.inputs(0)]

    def function(x: jax.Array) -> jax.Array:
        y: jax.Array = network.function(x)
        return y if apart else y - y.mean(0)

    graph = qir.from_jax(function, *data[0])
    seen = []

    def noted(subject: SearchedProgram, *rest: Any) -> SearchResult:
        seen.append((len(subject.rows[0]), len(subject.held_out[0])))
        return search(subject, *rest)

    with (
        uncompiled(),
        mock.patch.object(searching, "ENOUGH", 40),
        mock.patch.object(searching, "search", noted),
    ):
        qir.quantize(graph, data, "auto", accuracy_check=False)
    # A mean over the batch is another one of fewer samples.
    assert seen == [(5, 32) if apart else (32, 32)]
