"""Products of stacked inputs, computed for all trips at once: the same numbers."""

import numpy as np
import pytest

import qir
from qir.ops import Dot, Scan

CELL = """
graph @cell(%x: f32[T,3,4], %h: f32[3,2], %k: f32[1,2]) {
  %last, %ys, %zs = scan(%k, %h, %x) {carries = 1, stacked = 1, reverse = REVERSE} with (
    %k: f32[1,2],
    %h: f32[3,2],
    %x: f32[3,4]
  ) {
    %w = const [[1.0, 0.5], [-0.25, 2.0], [0.1, 0.2], [0.3, -0.7]] : f32[4,2]
    %u = const [[0.3, 0.1], [-0.2, 0.4]] : f32[2,2]
    %row = reduce_max(%x) {axes = [0]} : f32[4]
    %one = reshape(%row) : f32[1,4]
    %g = dot(%one, %w) : f32[1,2]
    %i = dot(%x, %w) : f32[3,2]
    %s = reshape(%g) : f32[2]
    %j = mul(%i, %s) : f32[3,2]
    %l = add(%j, %k) : f32[3,2]
    %r = dot(%h, %u) : f32[3,2]
    %a = add(%l, %r) : f32[3,2]
    %y = tanh(%a) : f32[3,2]
    return %y, %y, %i
  } : f32[3,2], f32[T,3,2], f32[T,3,2]
  return %last, %ys, %zs
}"""


@pytest.mark.parametrize("reverse", ["false", "true"])
def test_numbers_are_the_same(reverse: str) -> None:
    graph = qir.parse(CELL.replace("REVERSE", reverse))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=size).astype(np.float32) for size in ((5, 3, 4), (3, 2), (1, 2))]
    hoisted = qir.optimize(graph, "hoist-projections, canonicalize", check=inputs)
    assert sum(isinstance(node.op, Dot) for node in hoisted.nodes) == 1
    (loop,) = [node for node in hoisted.nodes if isinstance(node.op, Scan)]
    (body,) = loop.regions
    assert sum(isinstance(node.op, Dot) for node in body.nodes) == 2
    for old, new in zip(qir.evaluate(graph, *inputs), qir.evaluate(hoisted, *inputs), strict=True):
        np.testing.assert_allclose(old, new, rtol=0, atol=1e-5)


def test_nothing_is_hoisted_twice() -> None:
    graph = qir.optimize(qir.parse(CELL.replace("REVERSE", "false")), "hoist-projections")
    assert qir.optimize(graph, "hoist-projections") == graph
