"""Accuracy of programs with loops and branches: whole, and of the ops inside over all trips."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run_all
from qir.report.accuracy import measure, warning_of
from qir.report.trips import Trips, of_all_trips

# %small is a thousandth of %p: together in one code nothing is left of it.
CELL = """
graph @cell(%x: f32[T,B,8], %h: f32[B,8]) {
  %last, %all = scan(%h, %x) {carries = 1, stacked = 1} with (%c: f32[B,8], %p: f32[B,8]) {
    %k = const 0.001 : f32[8]
    %small = mul(%p, %k) : f32[B,8]
    %both = concat(%p, %small) {axis = 1} : f32[B,16]
    %w = const : f32[16,8]
    %d = dot(%both, %w) : f32[B,8]
    %s = add(%d, %c) : f32[B,8]
    %t = tanh(%s) : f32[B,8]
    return %t, %t
  } : f32[B,8], f32[T,B,8]
  return %all
}
"""
HALVES = """
graph @halves(%x: f32[2,4], %i: i32[]) {
  %y = while(%x) {carries = 1} with (%c: f32[2,4]) {
    %most = reduce_max(%c) {axes = [0, 1]} : f32[]
    %one = const 1.0 : f32[]
    %go = less(%one, %most) : bool[]
    return %go
  } with (%c: f32[2,4]) {
    %by = const 0.7 : f32[4]
    %d = mul(%c, %by) : f32[2,4]
    return %d
  } : f32[2,4]
  %z = cond(%i, %y) with (%a: f32[2,4]) {
    %e = exp(%a) : f32[2,4]
    return %e
  } with (%a: f32[2,4]) {
    %e = neg(%a) : f32[2,4]
    return %e
  } : f32[2,4]
  return %z
}
"""


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def cell():
    weights = draw(16, 8) * np.float32(0.3)
    weights[8:] *= 1000
    return qir.parse(CELL, {"w": weights})


def test_the_worst_op_inside_of_a_loop_is_named():
    data = [(draw(12, 3, 8, seed=seed), draw(3, 8, seed=9 + seed)) for seed in range(2)]
    # The unequal parts share a code where the sum of dots stays one.
    program = qir.optimize(cell(), "calibrate, propagate-ranges(share=true), quantize", data=data)
    accuracy = measure(cell(), program, data[0], run_all)
    assert accuracy is not None
    (output,) = accuracy.outputs
    exact = qir.evaluate(cell(), *data[0])[0]
    found = qir.evaluate(program, *data[0])[0]
    noise = 10 * np.log10(np.sum(exact**2) / np.sum((exact - found) ** 2))
    assert np.isclose(output.sqnr, noise, atol=0.01)
    names = {one.value for one in accuracy.worst}
    assert {"small", "both", "d"} & names
    assert "all" not in names
    assert all(np.isfinite(one.sqnr) for one in accuracy.worst)


def test_figures_are_of_whole_sequences_of_a_few_samples():
    data = [(draw(12, 40, 8, seed=1), draw(40, 8, seed=2))]
    program = qir.quantize(cell(), data, accuracy_check=0)
    assert program.accuracy is not None
    assert "of the first batch" in program.accuracy.samples
    assert "samples" in program.accuracy.samples


def test_loops_that_end_at_another_trip_and_branches_are_measured():
    graph = qir.parse(HALVES)
    data = [(np.abs(draw(2, 4, seed=seed)) * 8, np.int32(seed % 2)) for seed in range(3)]
    program = qir.quantize(graph, data, accuracy_check=-100)
    assert program.accuracy is not None
    assert [one.name for one in program.accuracy.outputs] == ["z"]
    assert str(qir.explain(program))


# Steps towards the root of %a, until its square is right to 4 digits.
ROOTS = """
graph @roots(%a: f32[4]) {
  %y = while(%a, %a) {carries = 1} with (%a: f32[4], %s: f32[4]) {
    %q = square(%s) : f32[4]
    %d = sub(%q, %a) : f32[4]
    %m = abs(%d) : f32[4]
    %most = reduce_max(%m) {axes = [0]} : f32[]
    %little = const 0.0001 : f32[]
    %above = sub(%most, %little) : f32[]
    %zero = const 0.0 : f32[]
    %go = greater(%above, %zero) : bool[]
    return %go
  } with (%a: f32[4], %s: f32[4]) {
    %t = div(%a, %s) : f32[4]
    %u = add(%s, %t) : f32[4]
    %half = const 0.5 : f32[]
    %v = mul(%u, %half) : f32[4]
    return %v
  } : f32[4]
  return %y
}
"""


def test_a_loop_that_ends_in_floating_point_alone_is_warned_of(monkeypatch):
    monkeypatch.setattr("qir.report.endless.MOST_TRIPS", 40)
    program = qir.parse(ROOTS.replace("const 0.0001", "const -1.0"))
    found = measure(
        qir.parse(ROOTS), program, [np.array([1.1, 2.3, 3.2, 4.7], np.float32)], run_all
    )
    assert found is not None
    assert [output.sqnr for output in found.outputs] == [-np.inf]
    warning = warning_of(found)
    assert warning is not None
    assert "no end at %y: the float program's comes to its end" in warning
    assert "after 40 trips" in warning


def test_a_loop_that_is_too_long_to_be_computed_again_is_told(monkeypatch):
    monkeypatch.setattr("qir.report.endless.MOST_TRIPS", 2)
    data = [(np.abs(draw(2, 4, seed=seed)) + 8, np.int32(seed)) for seed in range(2)]
    program = qir.quantize(qir.parse(HALVES), data)
    assert program.accuracy is None
    assert "more than 500 trips" in program.diagnostics[-1]


def test_a_branch_that_no_data_took_is_warned_of_where_it_has_codes():
    graph = qir.parse(HALVES)
    data = [(np.abs(draw(2, 4, seed=seed)) * 8, np.int32(1)) for seed in range(2)]
    with pytest.warns(qir.QirAccuracyWarning, match="no data ran region 0 of cond %z: .*use"):
        program = qir.quantize(graph, data, accuracy_check=-100)
    assert any("no data ran" in told for told in program.diagnostics)
    qir.quantize(graph, data, "w8", accuracy_check=-100)  # Nothing there is clamped.


def test_numbers_inside_are_those_of_each_trip():
    graph, trips = cell(), Trips()
    x, h = draw(5, 2, 8), draw(2, 8)
    values = run_all(graph, x, h, inside=trips.note)
    inner = next(value for value in trips.numbers if value.name == "t")
    assert trips.counts[inner] == 5
    found = of_all_trips(trips.numbers[inner])
    assert np.array_equal(found, values[graph.outputs[0]].reshape(10, 8))
    taken = next(value for value in trips.numbers if value.name == "c")
    assert np.array_equal(trips.numbers[taken][0], h)
    zeroed = run_all(
        graph, x, h, inside=lambda value, array: 0 * array if value is inner else array
    )
    assert not zeroed[graph.outputs[0]].any()
