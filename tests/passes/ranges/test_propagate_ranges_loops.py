"""Ranges inside of loops and branches: numbers cut off at them give the same outputs."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run_all
from qir.ir.passages import passing

GATED = """
graph @gated(%x: f32[T,3], %h: f32[3], %i: i32[T]) {
  %last, %all = scan(%h, %i, %x) {carries = 1, stacked = 2} with REGION
    %r = relu(%p) : f32[3]
    %m = clip(%c) {low = -0.5, high = 1.0} : f32[3]
    %s = add(%r, %m) : f32[3]
    %b = cond(%n, %s) with (%a: f32[3]) {
      %e = neg(%a) : f32[3]
      return %e
    } with (%a: f32[3]) {
      %f = clip(%a) {low = 0.25, high = 2.0} : f32[3]
      return %f
    } : f32[3]
    return %b, %m
  } : f32[3], f32[T,3]
  return %all
}
""".replace("REGION", "(%c: f32[3], %n: i32[], %p: f32[3]) {")
SHRINKS = """
graph @shrinks(%x: f32[4], %by: f32[4]) {
  %y, %z = while(%by, %x, %x) {carries = 2} with (%b: f32[4], %c: f32[4], %d: f32[4]) {
    %most = reduce_max(%c) {axes = [0]} : f32[]
    %one = const 1.0 : f32[]
    %go = less(%one, %most) : bool[]
    return %go
  } with (%b: f32[4], %c: f32[4], %d: f32[4]) {
    %q = relu(%b) : f32[4]
    %half = clip(%q) {low = 0.0, high = 0.5} : f32[4]
    %e = mul(%c, %half) : f32[4]
    %t = relu(%d) : f32[4]
    %f = sub(%t, %e) : f32[4]
    return %e, %f
  } : f32[4], f32[4]
  %r = relu(%z) : f32[4]
  return %y, %r
}
"""


def draw(*shape, seed):
    return (np.random.default_rng(seed).normal(0, 2, shape)).astype(np.float32)


def batches(name, count=4):
    if name == "gated":
        return [
            (draw(5, 3, seed=seed), draw(3, seed=50 + seed), np.arange(5, dtype=np.int32) % 2)
            for seed in range(count)
        ]
    return [(draw(4, seed=seed), draw(4, seed=50 + seed)) for seed in range(count)]


@pytest.mark.parametrize(("name", "source"), [("gated", GATED), ("shrinks", SHRINKS)])
def test_numbers_cut_off_at_their_ranges_give_the_same_outputs(name, source):
    data = batches(name)
    graph = qir.optimize(qir.parse(source), "calibrate, propagate-ranges", data=data)
    assert not graph.diagnostics

    def cut(value, array):
        if value.range is None:
            return array
        return np.clip(array, *value.range.bounds).astype(array.dtype)

    for batch in data:
        given = [cut(value, array) for value, array in zip(graph.inputs, batch, strict=True)]
        exact = run_all(graph, *batch)
        found = run_all(graph, *given, hook=cut, inside=cut)
        for value in graph.outputs:
            assert np.allclose(exact[value], found[value], atol=1e-6)
    narrowed = [
        value
        for value in graph.values_inside()
        if value.observed is not None and value.range != value.observed
    ]
    assert {value.name for value in narrowed} >= {"gated": {"x", "p"}, "shrinks": {"by", "b"}}[name]


@pytest.mark.parametrize(("name", "source"), [("gated", GATED), ("shrinks", SHRINKS)])
def test_what_is_on_its_way_has_one_range(name, source):
    graph = qir.optimize(qir.parse(source), "calibrate, propagate-ranges", data=batches(name))
    for node in graph.walk():
        for port in passing(node):
            inside = [*port.inputs, *port.returned]
            if port.passage.kind != "carried" and port.operand is not None:
                inside.append(port.operand)
            if port.result is not None:
                inside.append(port.result)
            assert len({value.range for value in inside if value.type.is_float}) <= 1
