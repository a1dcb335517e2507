"""`qir.score`: programs on data, its figures as a table and as JSON."""

import json
import sys
from typing import Any

import numpy as np
import pytest

import qir
from qir.bench.timing import Times
from qir.metrics import CostMetric
from tests.registries import restored

GRAPH = qir.parse("""
graph @float(%x: f32[B,3]) {
  %w = const [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]] : f32[3,2]
  %y = dot(%x, %w) : f32[B,2]
  return %y
}""")
CODED = qir.parse("""
graph @coded(%x: i8[B,3]{scale=0.5, zp=1}) {
  %w = const [[2, 0], [0, 2], [1, 1]] : i8[3,2]{scale=0.5}
  %a = dot(%x, %w) : i32[B,2]{scale=%x*%w}
  %y = requantize(%a) : i8[B,2]{scale=1.0}
  return %y
}""")
PAIR = qir.parse("""
graph @pair(%a: f32[B,2], %b: f32[B,2]) {
  %sum = add(%a, %b) : f32[B,2]
  %difference = sub(%a, %b) : f32[B,2]
  return %sum, %difference
}""")
X = np.random.default_rng(0).normal(0, 4, (10, 3)).astype(np.float32)
Y = np.argmax(qir.evaluate(GRAPH, X)[0], -1)
Y[:3] = 1 - Y[:3]
DATA = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]
FAST: dict[str, Any] = {"backend": "reference"}


def refusal(*arguments, **options):
    with pytest.raises(qir.QirError) as caught:
        qir.score(*arguments, **{**FAST, **options})
    return str(caught.value)


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_programs_stand_side_by_side_on_data_that_is_read_once(backend):
    read = []

    def loader():
        for number, batch in enumerate(DATA):
            read.append(number)
            yield batch

    metrics = ["accuracy", "sqnr", "cosine", "size"]
    scores = qir.score({"float": GRAPH, "coded": CODED}, loader(), metrics, backend=backend)
    assert read == [0, 1, 2]
    exact = qir.evaluate(GRAPH, X)[0].astype(np.float64)
    code, result = CODED.inputs[0].type.code, CODED.outputs[0].type.code
    real = result.decode(qir.evaluate(CODED, code.encode(X))[0])
    right = (np.argmax(real, -1) == Y).mean()
    assert scores["float", "accuracy"] == 0.7
    assert scores["coded", "accuracy"] == pytest.approx(right)
    noise = 10 * np.log10(np.square(exact).sum() / np.square(real - exact).sum())
    assert scores["coded", "sqnr"] == pytest.approx(noise, abs=1e-4)
    assert scores["float", "sqnr"] == np.inf
    assert 0.9 < scores["coded", "cosine"] < scores["float", "cosine"] == pytest.approx(1)
    assert (scores.samples, scores.batches, scores.reference) == (10, 3, "float")


def test_the_size_is_that_of_the_files(tmp_path):
    qir.save(GRAPH, tmp_path / "graph.qir")
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert qir.score(GRAPH, None, "size")["size"] == total


def test_any_function_of_outputs_and_targets_is_a_metric():
    def least(outputs, targets):
        assert outputs.shape == (10, 2)
        return outputs[np.arange(10), targets].min()

    metrics = [least, "accuracy"]
    scores = qir.score(GRAPH, DATA, metrics, **FAST)
    assert scores["least"] == qir.evaluate(GRAPH, X)[0][np.arange(10), Y].min()
    named = qir.score(GRAPH, DATA, {"mine": lambda y, t: len(t), "top": "top-2"}, **FAST)
    assert (named["mine"], named["top"]) == (10, 1)


def test_a_loader_may_give_every_batch_in_the_same_buffers():
    def loader():
        inputs, targets = np.empty((2, 3), np.float32), np.empty(2, np.int64)
        for start in range(0, 10, 2):
            inputs[:], targets[:] = X[start : start + 2], Y[start : start + 2]
            yield inputs, targets

    metrics = {"accuracy": "accuracy", "mine": lambda y, t: (np.argmax(y, -1) == t).mean()}
    scores = qir.score(GRAPH, loader(), metrics, **FAST)
    assert scores["accuracy"] == scores["mine"] == 0.7


def test_targets_of_functions_may_be_texts_dicts_and_tuples():
    a, b = X[:, :2], X[:, 1:]
    data = [
        ((a[:4], b[:4]), {"ids": Y[:4], "names": ["a"] * 4, "two": (Y[:4], Y[:4])}),
        ({"b": b[4:], "a": a[4:]}, {"ids": Y[4:], "names": ["b"] * 6, "two": (Y[4:], Y[4:])}),
    ]
    seen: dict[str, Any] = {}

    def look(outputs, targets):
        seen.update(outputs=outputs, targets=targets)
        return 1

    qir.score(PAIR, data, look, **FAST)
    np.testing.assert_array_equal(seen["outputs"][0], a + b)
    np.testing.assert_array_equal(seen["outputs"][1], a - b)
    np.testing.assert_array_equal(seen["targets"]["ids"], Y)
    np.testing.assert_array_equal(seen["targets"]["two"][1], Y)
    assert seen["targets"]["names"] == ["a"] * 4 + ["b"] * 6


def test_one_of_several_outputs_is_named():
    data = [((X[:, :2], X[:, 1:]), X[:, :2] - X[:, 1:])]
    assert qir.score(PAIR, data, "mae", output="difference", **FAST)["mae"] == 0
    assert qir.score(PAIR, data, "mae", output=1, **FAST)["mae"] == 0
    assert "mae: expected one output, got %sum, %difference of pair; say which by" in refusal(
        PAIR, data, "mae"
    )
    assert "did you mean 'sum'?" in refusal(PAIR, data, "mae", output="sun")
    assert "expected one of %sum, %difference" in refusal(PAIR, data, "mae", output=2)
    assert "expected more than 1 output of float" in refusal(
        {"pair": PAIR, "float": GRAPH}, data, "mae", output=1
    )


def test_inputs_alone_will_do_where_no_metric_reads_targets():
    both = {"float": GRAPH, "coded": CODED}
    with_targets = qir.score(both, DATA, "sqnr", **FAST)
    assert qir.score(both, [X[:4], X[4:]], "sqnr", **FAST)["coded", "sqnr"] == pytest.approx(
        with_targets["coded", "sqnr"]
    )
    two = [(X[:, :2], X[:, 1:])]
    assert qir.score(PAIR, two, "cosine", output=0, **FAST)["cosine"] == pytest.approx(1)
    assert "expected inputs and targets, which mae reads, got a tuple of 2; a batch is" in refusal(
        PAIR, two, "mae", output=0
    )


def test_the_program_to_compare_with_may_be_given():
    by_graph = qir.score(CODED, DATA, "sqnr", reference=GRAPH, **FAST)
    both = {"coded": CODED, "float": GRAPH}
    assert by_graph["sqnr"] == qir.score(both, DATA, "sqnr", **FAST)["coded", "sqnr"]
    assert by_graph.reference == "float"
    turned = qir.score(both, DATA, "sqnr", reference="coded", **FAST)
    assert turned["coded", "sqnr"] == np.inf
    assert "sqnr: expected a float program to compare with, got none" in refusal(
        CODED, DATA, "sqnr"
    )
    assert "did you mean 'coded'?" in refusal(both, DATA, "sqnr", reference="code")


def test_outputs_that_are_nan_are_told():
    data = [(np.where(np.arange(10)[:, None] == 2, np.nan, X), Y)]
    scores = qir.score(GRAPH, data, "accuracy", **FAST)
    assert np.isnan(scores["accuracy"])
    assert scores.notes == ("float: 1 of 10 rows of %y have NaN in them",)
    assert str(scores).splitlines()[1].split() == ["float", "nan"]
    assert json.loads(scores.to_json())["programs"] == {"float": {"accuracy": None}}


class Ticking(CostMetric):
    """The number of the rounds that the program was timed in."""

    meaning = "rounds"

    def cost(self, program):
        return len(program.times(3).seconds)


def test_programs_that_are_timed_take_turns(monkeypatch):
    turns = []

    def interleave(contenders, rounds):
        turns.append(rounds)
        for contender in contenders:
            contender.call()
        return [
            Times(each.name, tuple(range(1, rounds + place + 1)))
            for place, each in enumerate(contenders)
        ]

    monkeypatch.setattr("qir.api.scoring.interleave", interleave)
    both = {"float": GRAPH, "coded": CODED}
    metrics: list[Any] = ["latency(rounds=3)", "throughput(rounds=3)"]
    with restored():
        metrics.append(qir.metric("ticking")(Ticking)())
        scores = qir.score(both, iter(DATA), metrics, **FAST)
    assert turns == [3]
    assert scores["float", "latency(rounds=3)"] == 2000
    assert scores["coded", "throughput(rounds=3)"] == 4 / 2.5
    assert scores["coded", "ticking"] == 4
    assert "a call: 4 samples" in str(scores)
    assert "data:" not in str(scores)


def test_memory_is_told_by_xla():
    scores = qir.score(GRAPH, [X], ["peak-memory", "latency(rounds=1)"])
    # 10 inputs of 3, 3 x 2 weights, 10 outputs of 2, in 4 bytes; and what XLA keeps between.
    planned = qir.compile(GRAPH).memory({"B": 10})
    assert (planned.arguments, planned.outputs) == (4 * (30 + 6), 4 * 20)
    assert scores["peak-memory"] == planned.total
    assert scores["latency(rounds=1)"] > 0
    assert "expected a backend that plans memory, such as xla, got reference" in refusal(
        GRAPH, [X], "peak-memory"
    )


def test_costs_need_no_data_and_read_no_more_than_a_batch():
    assert qir.score(CODED, None, "latency(rounds=1)", **FAST).batch_size == 1
    data = iter(DATA)
    scores = qir.score(GRAPH, data, "throughput(rounds=1)", **FAST)
    assert (scores.batch_size, scores.samples) == (4, 0)
    assert next(data) is DATA[1]


def test_the_table_and_json():
    metrics = ["accuracy", "precision(average=none)", "confusion", "size"]
    scores = qir.score({"a": GRAPH, "b": GRAPH}, DATA, metrics, **FAST)
    lines = str(scores).splitlines()
    size = f"{scores['a', 'size']:,}"
    assert lines[:2] == ["program  accuracy  size bytes", f"a          0.7000  {size:>10}"]
    assert repr(scores) == str(scores)
    assert "confusion, b:" in lines
    assert "data: 10 samples in 3 batches" in lines
    found = json.loads(scores.to_json())
    assert list(found) == [
        "programs",
        "units",
        "samples",
        "batches",
        "batch_size",
        "reference",
        "notes",
    ]
    assert list(found["programs"]["a"]) == metrics
    assert np.sum(found["programs"]["a"]["confusion"]) == 10
    assert found["units"]["size"] == "bytes"
    assert found["programs"]["b"]["size"] == scores["b", "size"]


def test_arrays_of_many_classes_are_not_printed():
    wide = qir.parse("graph @wide(%x: f32[B,30]) { %y = neg(%x) : f32[B,30] return %y }")
    scores = qir.score(wide, [(np.eye(30, dtype=np.float32), np.arange(30))], "confusion", **FAST)
    assert scores["confusion"].shape == (30, 30)
    assert str(scores).splitlines()[1] == "30 by 30 numbers; to_json has them"


def test_figures_are_found_by_name():
    scores = qir.score({"a": GRAPH, "b": GRAPH}, DATA, ["accuracy"], **FAST)
    for key, told in (
        ("accuracy", "as scores['a', 'accuracy'], got a metric for 2 programs"),
        (("c", "accuracy"), "no program 'c'"),
        (("a", "acuracy"), "did you mean 'accuracy'?"),
    ):
        with pytest.raises(qir.QirError) as caught:
            scores[key]
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ("acuracy", "score: no metric 'acuracy'; did you mean 'accuracy'?"),
        ("qqqqqqq", "score: no metric 'qqqqqqq'; there are accuracy, coco-map"),
        ([], "score: expected at least one metric of accuracy, coco-map"),
        (["f1", "f1"], "score: expected each metric once, got 'f1' twice"),
        ("f1(averge=micro)", "score: f1 has no option 'averge'; did you mean 'average'?"),
        ("f1(average=mirco)", "did you mean 'micro'?"),
        ("confusion(", "score: expected a metric as name(option=value), got 'confusion('"),
        ("accuracy, f1", "score: expected one metric as name(option=value)"),
        ("size(a=1)", "score: size has no option 'a'; it has none"),
        (3, "got an int"),
        ([3], "or a function of outputs and targets, got an int"),
        ("latency(rounds=0)", "latency: expected rounds to be at least 1, got 0"),
    ],
)
def test_metrics_that_there_are_not(metrics, told):
    assert told in refusal(GRAPH, DATA, metrics)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "score: expected data, which accuracy is computed of, got None"),
        ([], "score: expected at least one batch of data, got none"),
        (iter([]), "an iterator can be read only once, a list again"),
        (X, "a single batch goes into a list: [(inputs, targets)]"),
        ({"x": X}, "expected data to be an iterable of batches, got a dict"),
        (3, "expected data to be an iterable of batches, got an int"),
        ([X], "batch 0: expected inputs and targets, which accuracy reads, got an array"),
        ([(X, Y), (X, Y, Y)], "batch 1: expected inputs and targets"),
        ([(X[:, :2], Y)], "score: batch 0: expected f32[B,3] for input %x, got f32[10,2]"),
        ([({"z": X}, Y)], "score: batch 0: the graph has no input %z"),
        ([(X[:0], Y[:0])], "score: expected batches with samples, got empty ones only"),
        ([(X, Y), (X, Y[:4])], "expected targets of shape [10] for outputs [10,2], got [4]"),
    ],
)
def test_data_that_does_not_fit(data, told):
    assert told in refusal(GRAPH, data, "accuracy")


def test_an_error_says_in_which_batch_and_program():
    message = refusal({"a": GRAPH, "b": GRAPH}, [(X, Y), (X, Y + 1)], "accuracy")
    assert message.startswith("score: accuracy: expected ids 0 to 1 as targets, got 2")
    assert message.splitlines()[1:] == ["  in batch 1", "  in a"]


def test_batches_without_samples_are_passed_over():
    scores = qir.score(GRAPH, [(X[:0], Y[:0]), *DATA], "accuracy", **FAST)
    assert (scores["accuracy"], scores.batches) == (0.7, 3)


@pytest.mark.parametrize(
    ("programs", "told"),
    [
        ([GRAPH], "expected a graph, or graphs by name"),
        ({}, "got no program"),
        ({"a": 3}, "expected a graph as program 'a', got an int"),
    ],
)
def test_programs_that_are_none(programs, told):
    assert told in refusal(programs, DATA, "accuracy")


def test_functions_that_return_no_number_or_fail():
    assert "score: f: expected a number of the function, got a list" in refusal(
        GRAPH, DATA, {"f": lambda y, t: [1, 2]}
    )
    with pytest.raises(ZeroDivisionError) as caught:
        qir.score(GRAPH, DATA, {"f": lambda y, t: 1 / 0}, **FAST)
    assert caught.value.__notes__ == ["qir.score: in the metric f, float"]
    ragged = [(X[:4], np.zeros((4, 2))), (X[4:], np.zeros((6, 3)))]
    assert "expected targets of the same shape in all batches" in refusal(
        GRAPH, ragged, {"f": lambda y, t: 1}
    )


@pytest.mark.parametrize(
    ("metric", "module", "distribution"),
    [
        ("f1", "sklearn.metrics", "scikit-learn"),
        ('wer(vocabulary="ab")', "jiwer", "jiwer"),
        ("coco-map", "pycocotools.cocoeval", "pycocotools"),
    ],
)
def test_what_is_not_installed_is_told_before_anything_runs(
    metric, module, distribution, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    data = iter(DATA)
    assert refusal(GRAPH, data, metric) == (
        f"score: {metric}: expected {distribution}, which is not installed; "
        "pip install 'qir-compiler[score]'"
    )
    assert next(data) is DATA[0]


def test_a_name_that_is_taken_or_can_not_be_asked_for_is_refused():
    class Other(qir.Metric):
        """How many samples there are."""

        reads_targets = False

        def part(self, answers):
            return len(answers.output)

        def total(self, parts):
            return float(sum(parts))

    with pytest.raises(qir.QirError, match="the name is already registered"):
        qir.metric("accuracy")(Other)
    with pytest.raises(qir.QirError, match="expected a name of letters"):
        qir.metric("a b")
