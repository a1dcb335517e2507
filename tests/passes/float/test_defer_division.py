"""defer-division: the same numbers, softmax divided behind the product."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.ir import Graph
from qir.text import parse

CASES = {
    "left operand": """graph @g(%s: f32[2,4,6], %v: f32[2,6,3]) {
  %p = softmax(%s) {axis = 2} : f32[2,4,6]
  %y = dot(%p, %v) {batch = 1} : f32[2,4,3]
  return %y
}""",
    "right operand, moved": """graph @g(%s: f32[1,2,3,4,6], %v: f32[2,3,5,6]) {
  %p = softmax(%s) {axis = 4} : f32[1,2,3,4,6]
  %t = transpose(%p) {permutation = [1, 2, 4, 0, 3]} : f32[2,3,6,1,4]
  %r = reshape(%t) : f32[2,3,6,4]
  %y = dot(%v, %r) {batch = 2} : f32[2,3,5,4]
  return %y
}""",
    "two axes that a reshape joins": """graph @g(%s: f32[2,3,4,5], %v: f32[2,20,7]) {
  %p = softmax(%s) {axis = [2, 3]} : f32[2,3,4,5]
  %r = reshape(%p) : f32[2,3,20]
  %y = dot(%r, %v) {batch = 1} : f32[2,3,7]
  return %y
}""",
}

REFUSED = {
    "another axis is summed": """graph @g(%s: f32[2,4,4], %v: f32[2,4,3]) {
  %p = softmax(%s) {axis = 1} : f32[2,4,4]
  %y = dot(%p, %v) {batch = 1} : f32[2,4,3]
  return %y
}""",
    "the axis is joined with another": """graph @g(%s: f32[2,4,6], %v: f32[24,3]) {
  %p = softmax(%s) {axis = 2} : f32[2,4,6]
  %r = reshape(%p) : f32[2,24]
  %y = dot(%r, %v) : f32[2,3]
  return %y
}""",
    "there is a bias": """graph @g(%s: f32[4,6], %v: f32[6,3], %b: f32[3]) {
  %p = softmax(%s) {axis = 1} : f32[4,6]
  %y = dot(%p, %v, %b) : f32[4,3]
  return %y
}""",
}


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


@pytest.mark.parametrize("name", CASES)
def test_the_division_comes_behind_the_product(name: str) -> None:
    graph = parse(CASES[name])
    deferred = qir.optimize(graph, "defer-division")
    found = ops(deferred)
    assert "softmax" not in found
    assert {"exp_below_max", "reduce_sum", "div"} <= set(found)
    assert found.index("dot") < found.index("div")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 2, value.type.known_shape).astype("f") for value in graph.inputs]
    (wanted,), (got,) = qir.evaluate(graph, *arrays), qir.evaluate(deferred, *arrays)
    # A few roundings of float32 for each of at most 20 terms.
    np.testing.assert_allclose(got, wanted, atol=30 * 2.0**-23 * np.abs(arrays[1]).max())


@pytest.mark.parametrize("name", REFUSED)
def test_other_products_stay(name: str) -> None:
    assert ops(qir.optimize(parse(REFUSED[name]), "defer-division")) == ops(parse(REFUSED[name]))


def test_a_softmax_that_is_returned_too_stays_beside() -> None:
    text = CASES["left operand"].replace("return %y", "return %y, %p")
    assert {"softmax", "exp_below_max"} <= set(ops(qir.optimize(parse(text), "defer-division")))
