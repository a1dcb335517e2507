"""Calibration: which ranges and statistics come of which data, and what is said of bad data."""

import itertools
import weakref

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run_all
from qir.backends.xla.executor import XlaExecutor
from qir.errors import QirError
from qir.observe.histograms import BINS, Histogram, merge, observe
from qir.observe.methods import METHODS
from qir.observe.methods.histogram_method import HistogramMethod
from qir.passes.shared import segments
from qir.pipeline import Context, PassManager, Pipeline

SOLVERS = {name: kind for name, kind in METHODS.items() if issubclass(kind, HistogramMethod)}
"""Methods that look at histograms alone."""

# Small integers and halves: sums are exact, so that every executor computes the same.
NET = """
graph @net(%x: f32[B,4,4,2]) {
  %k = const [[[[0.5, -1.0, 2.0], [1.0, 0.5, -0.5]]]] : f32[1,1,2,3]
  %c = conv(%x, %k) : f32[B,4,4,3]
  %r = relu(%c) : f32[B,4,4,3]
  %t = transpose(%r) {permutation = [0, 3, 1, 2]} : f32[B,3,4,4]
  %f = reshape(%t) : f32[B,48]
  %i = argmax(%f) {axis = 1} : i32[B]
  return %f, %i
}
"""
BRANCHES = """
graph @branches(%x: f32[B,4,4,2], %ids: i32[B]) {
  %k = const [[[[0.5, -1.0], [1.0, 0.5]]]] : f32[1,1,2,2]
  %n = neg(%x) : f32[B,4,4,2]
  %c = conv(%n, %k) : f32[B,4,4,2]
  %p, %q = split(%c) {axis = 1, sizes = [1, 3]} : f32[B,1,4,2], f32[B,3,4,2]
  %t = transpose(%q) {permutation = [0, 2, 1, 3]} : f32[B,4,3,2]
  %g = greater(%n, %c) : bool[B,4,4,2]
  %r = relu(%p) : f32[B,1,4,2]
  %s = select(%g, %n, %c) : f32[B,4,4,2]
  %a = add(%s, %r) : f32[B,4,4,2]
  %m = reduce_max(%t) {axes = [1, 2]} : f32[B,2]
  return %a, %m, %ids
}
"""
PAIR = """
graph @pair(%a: f32[B,2], %ids: i32[B,2]) {
  %y = mul(%a, %a) : f32[B,2]
  return %y, %ids
}
"""
ONE = """
graph @one(%x: f32[2,2]) {
  %y = exp(%x) : f32[2,2] loc("model.py:7 (head)")
  return %y
}
"""


class ReferenceExecutor:
    """Runs graphs in the reference interpreter, and remembers what was probed."""

    def __init__(self):
        self.probed = []

    def probe(self, graph, values, reduce=None):
        self.probed = [value.name for value in values]

        def compute(*inputs):
            computed = run_all(graph, *inputs)
            return [
                computed[value] if reduce is None else reduce(computed[value], np)
                for value in values
            ]

        return compute

    def as_jax(self, graph):
        raise NotImplementedError


def calibrated(source, data, pipeline="calibrate", context=None):
    context = context or Context(executor=ReferenceExecutor())
    context.data = data
    return PassManager(Pipeline.parse(pipeline)).run(qir.parse(source), context)


def ranges(graph):
    return {value.name: value.range.bounds for value in graph.values() if value.range is not None}


def histograms(context):
    return {name: seen.histogram for name, seen in context.statistics.items()}


def batches(count, size=3, seed=0):
    drawn = np.random.default_rng(seed).integers(-20, 21, (count, size, 4, 4, 2))
    return list(drawn.astype(np.float32) / 2)


def message(source, data, pipeline="calibrate"):
    with pytest.raises(QirError) as raised:
        calibrated(source, data, pipeline)
    return str(raised.value)


def test_minmax_is_what_the_values_reach():
    data = batches(3)
    graph = calibrated(NET, data)
    computed = run_all(graph, np.concatenate(data))
    floats = [value for value in computed if value.type.is_float and not value.is_constant]
    assert ranges(graph) == {
        value.name: (computed[value].min(), computed[value].max()) for value in floats
    }
    assert set(ranges(graph)) == {"x", "c", "r", "t", "f"}


@pytest.mark.parametrize(
    ("method", "options", "bins", "levels"),
    [
        ("minmax", "", BINS, 256),
        ("percentile", ", bins=256", 256, 256),
        ("entropy", ", bits=4, bins=256", 256, 16),
        ("mse", ", bits=4, bins=256", 256, 16),
    ],
)
def test_methods_solve_the_statistic_of_all_data(method, options, bins, levels):
    data = batches(5)
    graph = calibrated(NET, data, f"calibrate(method={method}{options})")
    whole = observe(run_all(graph, np.concatenate(data))[graph.value("c")], bins=bins)
    expected = SOLVERS[method]().solve(whole, levels, include_zero=False)
    assert ranges(graph)["c"] == expected


def test_a_percentile_can_be_chosen():
    half = calibrated(NET, batches(2), "calibrate(method=percentile, percentile=50)")
    whole = calibrated(NET, batches(2), "calibrate(method=percentile, percentile=100)")
    assert ranges(half)["x"][1] < 7 < ranges(whole)["x"][1] == 10


def test_the_moving_average_follows_the_batches():
    data = [np.full((1, 4, 4, 2), number, np.float32) for number in (8, 4, 0)]
    graph = calibrated(NET, data, "calibrate(method=moving_average, momentum=0.5)")
    assert ranges(graph)["x"] == (3, 3)


@pytest.mark.parametrize("method", SOLVERS)
def test_order_and_cut_of_the_data_make_no_difference(method):
    whole = np.concatenate(batches(4))
    outcomes = []
    for cut in ([whole], np.split(whole, 6), np.split(whole[::-1], 4), np.split(whole, [1, 8])):
        context = Context(executor=ReferenceExecutor())
        graph = calibrated(NET, list(cut), f"calibrate(method={method})", context)
        outcomes.append((ranges(graph), histograms(context)))
    for one, other in itertools.pairwise(outcomes):
        assert one == other


@pytest.mark.parametrize(
    "method", ["minmax", "percentile", "entropy, bits=6", "mse, bits=6", "moving_average"]
)
def test_statistics_are_solved_again_without_data(method):
    wanted = f"calibrate(method={method})"
    context = Context(executor=ReferenceExecutor())
    calibrated(NET, batches(3), "calibrate(method=minmax)", context)
    again = Context(statistics=context.statistics)
    solved = calibrated(NET, None, wanted, again)
    assert ranges(solved) == ranges(calibrated(NET, batches(3), wanted))


def test_statistics_of_moved_values_follow_from_their_source():
    context = Context(executor=ReferenceExecutor())
    first = calibrated(NET, batches(1), context=context)
    for name in ("t", "f"):
        del context.statistics[name]
    assert ranges(calibrated(NET, None, context=context)) == ranges(first)


def test_missing_statistics_are_listed():
    context = Context(executor=ReferenceExecutor())
    calibrated(NET, batches(1), context=context)
    for name in ("c", "x"):
        del context.statistics[name]
    with pytest.raises(QirError, match="expected data, or statistics of %x, %c; those given are"):
        calibrated(NET, None, context=context)
    assert message(NET, None).startswith(
        "calibrate: expected data, or statistics of the model, got"
    )


def test_averages_of_another_momentum_need_no_data():
    context = Context(executor=ReferenceExecutor())
    calibrated(NET, batches(3), context=context)
    wanted = "calibrate(method=moving_average, momentum=0.5)"
    again = calibrated(NET, None, wanted, context)
    assert ranges(again) == ranges(calibrated(NET, batches(3), wanted))
    assert ranges(again) != ranges(
        calibrated(NET, None, "calibrate(method=moving_average)", context)
    )


def test_a_value_that_stands_for_two_has_the_statistic_of_both_names():
    source = NET.replace(
        "%c = conv(%x, %k) : f32[B,4,4,3]", '%c = conv(%x, %k) : f32[B,4,4,3] of ["a", "b"]'
    )
    context = Context(executor=ReferenceExecutor())
    calibrated(source, batches(1), context=context)
    assert context.statistics["a"].parts == context.statistics["b"].parts
    assert {"x", "a", "b", "r"} <= context.statistics.keys()
    assert calibrated(source.replace('"a", ', ""), None, context=context).value("c").range


def test_new_data_replaces_old_statistics_and_bad_data_does_not():
    context = Context(executor=ReferenceExecutor())
    calibrated(NET, batches(2), context=context)
    before = context.statistics.copy()
    with pytest.raises(QirError):
        calibrated(NET, [*batches(1), np.zeros(3)], context=context)
    assert context.statistics == before
    calibrated(NET, batches(1), context=context)
    seen = context.statistics["x"]
    assert seen.histogram == observe(batches(1)[0])
    assert seen.histogram is not None
    assert seen.extremes is not None
    assert seen.extremes.averages(0.9) == (seen.histogram.minimum, seen.histogram.maximum)


def test_moved_values_clipped_ones_and_integers_are_not_probed():
    executor = ReferenceExecutor()
    calibrated(NET, batches(1), context=Context(executor=executor))
    assert executor.probed == ["c"]


def test_memory_does_not_grow_with_the_data():
    def size(data):
        context = Context(executor=ReferenceExecutor())
        calibrated(NET, data, context=context)
        found = histograms(context).values()
        return [histogram.counts.nbytes for histogram in found if histogram is not None]

    assert size(batches(2) * 20) == size(batches(2))
    assert max(size(batches(40))) <= BINS * 8


def test_batches_are_let_go():
    alive = []

    def stream():
        for _ in range(6):
            batch = np.zeros((1, 4, 4, 2), np.float32)
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(reference() is not None for reference in alive) <= 2

    calibrated(NET, stream())
    assert len(alive) == 6


SEGMENTS = pytest.mark.parametrize("size", [0, 1000, 2**27])


@SEGMENTS
@pytest.mark.parametrize("executor", [ReferenceExecutor, XlaExecutor])
def test_executors_and_segments_agree(executor, size, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
    data = [(x, np.zeros(len(x), np.int32)) for x in [*batches(2), *batches(1, size=1)]]
    context = Context(executor=executor())
    calibrated(BRANCHES, data, context=context)
    expected: dict[str, list[Histogram]] = {}
    for batch in data:
        for value, array in run_all(qir.parse(BRANCHES), *batch).items():
            if value.type.is_float and not value.is_constant:
                expected.setdefault(value.name, []).append(observe(array))
    assert histograms(context) == {name: merge(parts) for name, parts in expected.items()}


CLIPS = """
graph @clips(%x: TYPE[B,4,4,2]) {
  %a = clip(%x) {low = -0.1, high = 2.7} : TYPE[B,4,4,2]
  %r = relu(%a) : TYPE[B,4,4,2]
  %b = clip(%x) {low = 1, high = 1} : TYPE[B,4,4,2]
  %s = relu(%x) : TYPE[B,4,4,2]
  %t = transpose(%s) {permutation = [0, 2, 1, 3]} : TYPE[B,4,4,2]
  %u = relu(%t) : TYPE[B,4,4,2]
  return %r, %b, %u
}
"""


@pytest.mark.parametrize("element", ["f32", "f16", "bf16"])
def test_clipped_values_have_the_statistics_of_their_numbers(element):
    source = CLIPS.replace("TYPE", element)
    context = Context(executor=XlaExecutor())
    calibrated(source, data := batches(2), context=context)
    for name, seen in context.statistics.items():
        graph = qir.parse(source)
        arrays = [x.astype(graph.inputs[0].type.dtype.numpy) for x in data]
        assert seen.histogram == merge(
            observe(run_all(graph, x)[graph.value(name)]) for x in arrays
        )


def test_the_public_words_calibrate_and_solve_again():
    context = Context()
    graph = qir.optimize(qir.parse(NET), "calibrate", data=batches(2), context=context)
    assert ranges(graph) == ranges(calibrated(NET, batches(2)))
    again = qir.optimize(qir.parse(NET), "calibrate(method=mse)", statistics=context.statistics)
    assert ranges(again) == ranges(calibrated(NET, batches(2), "calibrate(method=mse)"))


A = np.array([[1, -2], [3, 4]], np.float32)
IDS = np.array([[0, 1], [2, 3]], np.int32)


@pytest.mark.parametrize(
    "batch",
    [
        (A, IDS),
        [A, IDS],
        {"ids": IDS, "a": A},
        {"%a": A, "%ids": IDS},
        (A.astype(np.float64), IDS.astype(np.int64)),
    ],
    ids=["tuple", "list", "dict", "percent", "wide"],
)
def test_kinds_of_batches(batch):
    assert ranges(calibrated(PAIR, [batch])) == {"a": (-2, 4), "y": (1, 16)}
    assert ranges(calibrated(PAIR, iter([batch]))) == {"a": (-2, 4), "y": (1, 16)}


def test_a_program_may_be_of_inputs_alone():
    source = "graph @same(%x: f32[2]) {\n  return %x\n}"
    assert ranges(calibrated(source, [np.array([-1.0, 2.0])])) == {"x": (-1, 2)}
    graph = qir.optimize(qir.parse(source), "calibrate", data=[np.array([-1.0, 2.0])])
    assert ranges(graph) == {"x": (-1, 2)}


def test_data_may_be_nested_numbers():
    assert ranges(calibrated(ONE, [[[0.0, -1.0], [0.0, 0.0]]]))["x"] == (-1, 0)


ITERABLE = "calibrate: expected data to be an iterable of batches, got "


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([], "calibrate: expected at least one batch of data, got none"),
        (iter(()), "got none; an iterator can be read only once, a list again"),
        (batches(1)[0], ITERABLE + "an array; a single batch goes into a list"),
        ({"x": batches(1)[0]}, ITERABLE + "a dict"),
        (7, ITERABLE + "an int"),
        ("w4", ITERABLE + "a str; a pipeline is the third argument, pipeline='w4'"),
        (
            [*batches(1), batches(1)[0][0]],
            "calibrate: batch 1: expected f32[B,4,4,2] for input %x, got f32[4,4,2]\n"
            "  a batch has one dimension more than a sample",
        ),
        (
            [np.zeros((1, 4, 4, 2), np.uint8)],
            "calibrate: batch 0: expected f32[B,4,4,2] for input %x, got u8[1,4,4,2]\n"
            "  convert and scale the data as for the model itself",
        ),
        ([np.zeros((0, 4, 4, 2))], "expected batches with samples, got empty ones only"),
        ([(batches(1)[0], 0)], "batch 0: expected 1 array (%x), got 2; leave labels out"),
        (["cat"], "batch 0: expected an array of numbers for input %x, got a str; a batch is"),
    ],
)
def test_data_that_does_not_fit(data, expected):
    assert expected in message(NET, data)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((A,), "batch 0: expected 2 arrays (%a, %ids), got 1"),
        ({"a": A}, "batch 0: expected an array for input %ids, got none"),
        ({"a": A, "idx": IDS}, "batch 0: the graph has no input %idx; did you mean 'ids'?"),
        (
            (A, IDS[:1]),
            "batch 0: expected i32[B,2] for input %ids, got i32[1,2]\n"
            "  the dimension B is 2 in another input",
        ),
        ((A, IDS.astype(np.int64) << 40), "expected i32[B,2] for input %ids, got i64[2,2]"),
    ],
)
def test_batches_of_two_inputs_that_do_not_fit(batch, expected):
    assert expected in message(PAIR, [batch])


def test_a_fixed_batch_size_has_to_be_kept():
    assert message(ONE, [np.zeros((3, 2))]).splitlines()[:2] == [
        "calibrate: batch 0: expected f32[2,2] for input %x, got f32[3,2]",
        "  the batch size of the model is fixed at 2: cut the data so, "
        "or import the model with a named batch dimension",
    ]


def test_data_that_is_not_finite_is_located():
    data = batches(3)
    data[2][1, 0, 3, 1] = np.nan
    data[2][2, 0, 0, 0] = -np.inf
    assert message(NET, data).startswith(
        "calibrate: input %x in batch 2: expected finite values, got 1 NaN and 1 infinite, "
        "the first at [1, 0, 3, 1]\n"
    )


@SEGMENTS
def test_the_op_that_overflows_is_named(size, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
    assert message(ONE, [np.array([[0.0, 1.0], [99.0, -1.0]])]).splitlines()[:3] == [
        "calibrate: %y in batch 0: expected finite values, got 1 infinite, the first at [1, 0]",
        "  at %y, model.py:7 (head)",
        "  exp made it of finite operands: %x in [-1, 99]",
    ]


def test_a_constant_that_is_not_finite_is_named():
    source = """
    graph @bad(%x: f32[2]) {
      %k = const [1.0, inf] : f32[2]
      %y = mul(%x, %k) : f32[2]
      return %y
    }
    """
    assert "a constant with 1 infinite, the first at [1]; for a mask, take a finite" in message(
        source, [A[0]]
    )


def test_data_needs_an_executor():
    with pytest.raises(QirError, match="expected an executor to run the program on data, got none"):
        calibrated(NET, batches(1), context=Context())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("method=min_max", "octav, percentile, got min_max; did you mean 'minmax'?"),
        (
            "percentile=99.9",
            "expected no percentile with minmax, which does without, got 99.9; "
            "add method=entropy or mse or percentile",
        ),
        ("momentum=0.5", "no momentum with minmax, which does without, got 0.5; add method=moving"),
        ("method=mse, momentum=0.5", "expected no momentum with mse"),
        (
            "bins=64",
            "no bins with minmax, which does without, got 64; add method=entropy or mse or",
        ),
        ("method=moving_average, bins=64", "expected no bins with moving_average"),
        ("method=percentile, bits=4", "got 4; add method=entropy or mse"),
        ("symmetric=true", "expected no symmetric with minmax"),
        ("method=percentile, percentile=0", "expected percentile in (0, 100], got 0.0"),
        ("method=moving_average, percentile=9", "no percentile with moving_average"),
        ("momentum=1", "expected momentum in [0, 1), got 1.0"),
        ("bits=1", "expected 2 to 16 bits, got 1"),
        ("bins=8", "expected 16 to 1048576 bins, got 8"),
    ],
)
def test_options_that_do_not_fit(options, expected):
    assert expected in message(NET, batches(1), f"calibrate({options})")


def test_the_bar_shows_when_asked_for(capsys):
    calibrated(NET, batches(2))
    assert capsys.readouterr().err == ""
    calibrated(NET, batches(2), context=Context(executor=ReferenceExecutor(), progress=True))
    assert "2/2" in capsys.readouterr().err
