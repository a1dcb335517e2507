"""Calibration inside of loops and branches: statistics of all trips, and what is said of them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pytest

import qir
from qir.analysis.properties import RANGED
from qir.backends.reference.interpreter import run_all
from qir.backends.xla.executor import XlaExecutor
from qir.errors import QirError
from qir.observe.channels import observe_channels, observe_moments
from qir.observe.histograms import merge, observe
from qir.ops import Const, Return
from qir.ops.regions import RegionOp
from qir.passes.shared import segments
from qir.passes.shared.tally import sources
from qir.pipeline import Context, PassManager, Pipeline
from qir.report.trips import Trips
from tests.drawing import drawn
from tests.passes.ranges.test_calibrate import ReferenceExecutor
from tests.strategies.nested_programs import Setting, nested_programs

T = TypeVar("T")

# Small integers and halves: sums are exact, so that every executor computes the same.
NESTED = """
graph @nested(%x: f32[T,B,2], %h: f32[B,2], %k: i32[T]) {
  %two = const [2.0, 0.5] : f32[2]
  %last, %ys, %zs = scan(%two, %h, %k, %x) {carries = 1, stacked = 2, reverse = true} with REGION
    %w = const [[1.0, 0.5], [0.5, -1.0]] : f32[2,2]
    %s = add(%c, %p) : f32[B,2]
    %r = relu(%s) : f32[B,2]
    %d = dot(%r, %w) : f32[B,2]
    %t = transpose(%d) {permutation = [1, 0]} : f32[2,B]
    %a = reduce_max(%t) {axes = [0, 1]} : f32[]
    %e = cond(%i, %a) with (%n: f32[]) {
      %f = broadcast(%n) : f32[B,2]
      return %f
    } with (%n: f32[]) {
      %v = while(%n) {carries = 1} with (%m: f32[]) {
        %top = const 8.0 : f32[]
        %go = less(%m, %top) : bool[]
        return %go
      } with (%m: f32[]) {
        %by = const 1.5 : f32[]
        %more = add(%m, %by) : f32[]
        return %more
      } : f32[]
      %f = broadcast(%v) : f32[B,2]
      return %f
    } : f32[B,2]
    %o = mul(%e, %u) : f32[B,2]
    %q = clip(%o) {low = -4.0, high = 4.0} : f32[B,2]
    return %q, %d, %t
  } : f32[B,2], f32[T,B,2], f32[T,2,B]
  %z = neg(%ys) : f32[T,B,2]
  return %last, %z, %zs
}
""".replace("REGION", "(%u: f32[2], %c: f32[B,2], %i: i32[], %p: f32[B,2]) {")
ENDLESS = """
graph @endless(%x: f32[2]) {
  %y = while(%x) {carries = 1, max_trips = 20} with (%c: f32[2]) {
    %go = const true : bool[]
    return %go
  } with (%c: f32[2]) {
    %d = add(%c, %c) : f32[2]
    return %d
  } : f32[2] loc("model.py:7 (solve)")
  return %y
}
"""


def known(fact: T | None) -> T:
    """Returns what calibration must have found."""
    assert fact is not None
    return fact


def batches(seed=0, count=3, size=2, trips=4):
    generator = np.random.default_rng(seed)
    return [
        (
            generator.integers(-6, 7, (trips, size, 2)).astype(np.float32) / 2,
            np.zeros((size, 2), np.float32),
            generator.integers(0, 2, trips).astype(np.int32),
        )
        for _ in range(count)
    ]


def calibrated(source, data, **options):
    context = Context(data=data, executor=XlaExecutor(), **options)
    graph = qir.parse(source)
    return PassManager(Pipeline.parse("calibrate")).run(graph, context), context


def traced(graph, arrays, seen, size):
    """Computes a graph of batches of a size; leaves each value's numbers of each time."""
    values = dict(zip(graph.inputs, map(np.asarray, arrays), strict=True))
    for node in graph.nodes:
        operands = [values[value] for value in node.inputs]
        if isinstance(node.op, Return):
            break
        if isinstance(node.op, RegionOp):
            bodies = [
                lambda *given, region=region: traced(region, given, seen, size)
                for region in node.regions
            ]
            results = node.op.run(bodies, operands, [(0,)] * len(node.outputs))
        elif isinstance(node.op, Const):
            results = [node.output.array]
        elif node.op.name == "broadcast":
            results = [np.broadcast_to(operands[0], (size, 2))]
        else:
            results = [node.op.evaluate(*operands)]
        values.update(zip(node.outputs, map(np.asarray, results), strict=True))
    for value, array in values.items():
        if value.type.is_float and not value.is_constant:
            seen.setdefault(next(iter(value.origin)), []).append(array)
    return [values[value] for value in graph.outputs]


def everything(graph, data):
    found: dict[str, list[np.ndarray]] = {}
    for batch in data:
        traced(graph, batch, found, batch[0].shape[1])
    return found


REPEATED = {"u"}
"""What holds the same numbers in each trip: counted outside, once."""


@pytest.mark.parametrize("size", [2**27, 3000, 1])
def test_values_inside_have_the_statistics_of_all_trips(size, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
    data = [*batches(), *batches(1, count=1, size=3)]
    graph, context = calibrated(NESTED, data)
    expected = everything(graph, data)
    seen = context.statistics
    assert set(expected) == set(seen)
    for name, arrays in expected.items():
        whole = merge(map(observe, arrays))
        found = known(seen[name].histogram)
        assert (found.minimum, found.maximum) == (whole.minimum, whole.maximum)
        if name not in REPEATED:
            assert found == whole, name
    for value in graph.values_inside():
        if value.origin and value.type.is_float and not value.is_constant:
            whole = known(seen[next(iter(value.origin))].histogram)
            assert known(value.observed).bounds == (whole.minimum, whole.maximum)
    assert RANGED.missing(graph) is None


def test_extremes_of_a_batch_are_those_of_its_trips():
    data = batches()
    graph, context = calibrated(NESTED, data)
    found = known(context.statistics["d"].extremes)
    for number, batch in enumerate(data):
        arrays = everything(graph, [batch])["d"]
        assert found.minimum[number] == np.min(arrays)
        assert found.maximum[number] == np.max(arrays)


def test_channels_and_moments_are_taken_of_all_trips():
    data = batches()
    graph, context = calibrated(NESTED, data)
    arrays = np.concatenate(everything(graph, data)["r"])
    seen = context.statistics["r"]
    channels, moments = observe_channels(arrays, (1,)), observe_moments(arrays)
    found = known(seen.channels)
    assert found.axes == (1,)
    assert np.array_equal(found.peaks, channels.peaks)
    assert np.array_equal(found.mean_square, channels.mean_square)
    assert np.array_equal(known(seen.moments).means, moments.means)


def test_cutting_the_data_into_other_batches_makes_no_difference():
    (x, h, k), *_ = batches(count=1, size=6)
    parts = [(x[:, start : start + 2], h[:2], k) for start in (0, 2, 4)]
    # The while loop inside runs as long as the largest of a batch says.
    (_, whole), (_, cut) = (
        calibrated(NESTED, given)
        for given in ([(x, h, 0 * k)], [(x, h, 0 * k) for x, h, k in parts])
    )
    for name in ("s", "r", "d", "t", "ys"):
        counts = [known(each.statistics[name].histogram).count for each in (whole, cut)]
        assert counts[0] == counts[1]
    assert whole.statistics["p"].histogram == cut.statistics["p"].histogram


def test_statistics_are_read_back(tmp_path):
    graph = qir.parse(NESTED)
    statistics = qir.calibrate(graph, batches(), "calibrate")
    statistics.save(tmp_path / "statistics.npz")
    read = qir.Statistics.load(tmp_path / "statistics.npz")
    assert read == statistics
    again = qir.optimize(graph, "calibrate", statistics=read)
    assert str(again) == str(qir.optimize(graph, "calibrate", data=batches()))


def test_a_checkpoint_goes_on_inside(tmp_path):
    graph, path = qir.parse(NESTED), tmp_path / "checkpoint.npz"
    qir.calibrate(graph, batches()[:2], checkpoint=path)
    assert qir.calibrate(graph, batches(), checkpoint=path) == qir.calibrate(graph, batches())


def test_a_branch_that_no_data_takes_has_no_ranges_and_is_told():
    data = [(x, h, 0 * k) for x, h, k in batches()]
    graph, context = calibrated(NESTED, data)
    (said,) = context.diagnostics
    assert said.startswith("calibrate: no data ran region 1 of cond %e")
    branch = next(node for node in graph.walk() if node.op.name == "cond").regions[1]
    assert all(value.observed is None for value in branch.values_inside())
    loop = next(iter(branch.nodes))
    assert loop.note == "calibration never ran it"
    assert "never ran" in qir.explain(graph).__str__()
    assert RANGED.missing(graph) is None


def test_a_loop_of_no_trips_has_no_ranges_inside():
    data = [(x[:0], h, k[:0]) for x, h, k in batches()]
    with pytest.raises(QirError, match="got empty ones only"):
        calibrated(NESTED, [(x[:, :0], h[:0], k) for x, h, k in data])
    _, context = calibrated(NESTED, data)
    assert context.diagnostics[0].startswith("calibrate: no data ran scan %last")


def test_the_trip_and_the_place_of_what_is_not_finite_are_named():
    source = NESTED.replace("%r = relu(%s)", "%r = exp(%s)").replace(
        "exp(%s) : f32[B,2]", 'exp(%s) : f32[B,2] loc("model.py:9 (cell)")'
    )
    data = batches()
    data[1][0][2, 1, 0] = 99
    with pytest.raises(QirError) as caught:
        calibrated(source, data)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "calibrate: %r in trip 1 of scan %last in batch 1: expected finite values, got 1 infinite, "
        "the first at [1, 0]"
    )
    assert lines[1] == "  at %r, model.py:9 (cell)"
    assert lines[2].startswith("  exp made it of finite operands: %s in [")


def test_what_a_select_leaves_out_is_finite_too():
    source = """qir 2
    graph @rows(%x: f32[3,2]) {
      %start = const 0.0 : f32[2]
      %last = scan(%start, %x) {carries = 1, stacked = 1} with (%h: f32[2], %row: f32[2]) {
        %root = sqrt(%row) : f32[2]
        %zero = const 0.0 : f32[2]
        %some = greater(%row, %zero) : bool[2]
        %kept = select(%some, %root, %zero) : f32[2]
        %s = add(%h, %kept) : f32[2]
        return %s
      } : f32[2]
      return %last
    }"""
    with pytest.raises(QirError) as caught:
        calibrated(source, [np.array([[1, 2], [1, -1], [2, 3]], np.float32)])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("calibrate: %root in trip 1 of scan %last in batch 0: expected fini")
    assert lines[2].startswith("  sqrt made it of finite operands: %row")
    assert lines[3].endswith("numbers that it can take there, as jnp.sqrt(jnp.where(x > 0, x, 1))")


def test_a_loop_without_an_end_is_stopped_with_its_place():
    with pytest.raises(QirError) as caught:
        calibrated(ENDLESS, [np.ones(2, np.float32)])
    assert str(caught.value).splitlines() == [
        "while: expected an end within 20 trips, got none; a loop that needs more has max_trips "
        "set higher",
        "  at %y, model.py:7 (solve)",
        "  in pass calibrate",
    ]


TWICE = """
graph @twice(%x: f32[3,2]) {
  %a = scan(%x) {stacked = 1} with (%p: f32[2]) {
    %y = neg(%p) : f32[2]
    return %y
  } : f32[3,2]
  %b = scan(%a) {stacked = 1} with (%p: f32[2]) {
    %y = add(%p, %p) : f32[2]
    return %y
  } : f32[3,2]
  return %b
}
"""


def test_values_of_one_name_in_two_regions_are_told_apart():
    context = Context(data=[np.ones((3, 2), np.float32)], executor=XlaExecutor())
    graph = PassManager(Pipeline.parse("calibrate")).run(qir.parse(TWICE), context)
    inner = [next(iter(node.regions[0].nodes)).output for node in graph.nodes if node.regions]
    seen = [value.observed.bounds for value in inner if value.observed is not None]
    assert seen == [(-1, -1), (-2, -2)]


def test_made_values_of_one_name_in_two_regions_are_told_apart():
    context = Context(data=[np.ones((3, 2), np.float32)], executor=XlaExecutor())
    graph = qir.parse(TWICE)
    for value in graph.values_inside():
        value.origins = {}
    graph.inputs[0].origins = {"x": None}
    graph = PassManager(Pipeline.parse("calibrate")).run(graph, context)
    inner = [next(iter(node.regions[0].nodes)).output for node in graph.nodes if node.regions]
    seen = [value.observed.bounds for value in inner if value.observed is not None]
    assert seen == [(-1, -1), (-2, -2)]
    assert [value.name for value in inner] == ["y", "y_1"]


@pytest.mark.hypothesis
def test_random_nested_programs_have_the_statistics_of_all_trips():
    for case in drawn(nested_programs(Setting("exact")), 60):
        context = Context(data=[case.inputs], executor=ReferenceExecutor())
        try:
            graph = PassManager(Pipeline.parse("calibrate")).run(case.graph, context)
        except QirError as error:
            assert "got empty ones only" in str(error)  # noqa: PT017
            continue
        trips = Trips()
        outside = run_all(graph, *case.inputs, inside=trips.note)
        for value, source in sources(graph).items():
            arrays = [outside[value]] if value in outside else trips.numbers.get(value, [])
            expected = merge(map(observe, arrays))
            found = context.statistics[value.origin[0]].histogram
            assert found is not None
            if value is source:
                assert found == expected
            elif expected.count:
                assert (found.minimum, found.maximum) == (expected.minimum, expected.maximum)
