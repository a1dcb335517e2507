"""defer-division: the same numbers, softmax divided behind the product."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.ir import Graph
from qir.text import parse
from qir.types import Array, DType

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
    "shares that a broadcast repeats": """graph @g(%s: f32[2,1,4,6], %v: f32[2,3,6,5]) {
  %p = softmax(%s) {axis = 3} : f32[2,1,4,6]
  %r = broadcast(%p) : f32[2,3,4,6]
  %y = dot(%r, %v) {batch = 2} : f32[2,3,4,5]
  return %y
}""",
    "long rows": """graph @g(%s: f32[2,4,512], %v: f32[2,512,3]) {
  %p = softmax(%s) {axis = 2} : f32[2,4,512]
  %y = dot(%p, %v) {batch = 1} : f32[2,4,3]
  return %y
}""",
    "long rows, right operand, moved": """graph @g(%s: f32[3,4,600], %v: f32[7,5,600]) {
  %p = softmax(%s) {axis = 2} : f32[3,4,600]
  %t = transpose(%p) {permutation = [2, 0, 1]} : f32[600,3,4]
  %r = reshape(%t) : f32[600,12]
  %y = dot(%v, %r) : f32[7,5,12]
  return %y
}""",
}

REFUSED = {
    "the summed axis is repeated": """graph @g(%s: f32[2,4,1], %v: f32[2,6,3]) {
  %p = softmax(%s) {axis = 2} : f32[2,4,1]
  %r = broadcast(%p) : f32[2,4,6]
  %y = dot(%r, %v) {batch = 1} : f32[2,4,3]
  return %y
}""",
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
    assert {"reduce_sum", "div"} <= set(found)
    parts = ["exp_below_max_high", "exp_below_max_low"] if "long" in name else ["exp_below_max"]
    assert [op for op in found if op.startswith("exp")] == parts
    assert found.index("dot") < found.index("div")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 2, value.type.known_shape).astype("f") for value in graph.inputs]
    (wanted,), (got,) = qir.evaluate(graph, *arrays), qir.evaluate(deferred, *arrays)
    # A few roundings of float32 for each term.
    terms = graph.inputs[0].type.known_shape[-1] * (4 if "two axes" in name else 1)
    np.testing.assert_allclose(got, wanted, atol=(terms + 10) * 2.0**-23 * np.abs(arrays[1]).max())


@pytest.mark.parametrize("name", REFUSED)
def test_other_products_stay(name: str) -> None:
    assert ops(qir.optimize(parse(REFUSED[name]), "defer-division")) == ops(parse(REFUSED[name]))


def test_a_softmax_that_is_returned_too_stays_beside() -> None:
    text = CASES["left operand"].replace("return %y", "return %y, %p")
    assert {"softmax", "exp_below_max"} <= set(ops(qir.optimize(parse(text), "defer-division")))


@pytest.mark.parametrize("name", CASES)
def test_what_is_divided_are_exact_sums(name: str) -> None:
    graph = parse(CASES[name])

    def batch(seed: int) -> tuple[Array, ...]:
        rng = np.random.default_rng(seed)
        shapes = (value.type.known_shape for value in graph.inputs)
        return tuple(rng.normal(0, 2, shape).astype("f") for shape in shapes)

    integer = qir.quantize(graph, [batch(seed) for seed in range(4)])
    (quotient,) = (node for node in integer.nodes if node.op.name == "div")
    codes = [value.type.quant for value in quotient.inputs]
    assert [code.storage for code in codes if code is not None] == [DType.I32, DType.I32]
    (wanted,), (got,) = qir.evaluate(graph, *batch(0)), qir.evaluate(integer, *batch(0))
    assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()) >= 30
    for backend_found in qir.compile(integer)(*batch(0)):
        np.testing.assert_array_equal(np.asarray(backend_found), got)


def test_sums_of_flat_and_of_peaked_rows_keep_their_bits_side_by_side() -> None:
    graph = parse(CASES["long rows"])
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (2, 4, 512)).astype("f") * np.array([0, 1, 3, 30], "f")[:, None]
    values = (1 + 0.1 * rng.normal(0, 1, (2, 512, 3))).astype("f")
    integer = qir.quantize(graph, [(scores, values)])
    (wanted,), (got,) = qir.evaluate(graph, scores, values), qir.evaluate(integer, scores, values)
    # Half a step each of the values and of the result, whose ranges are at most 1.4 wide, and half
    # a step of scores of a range of 250 in 4096 as a part of what they weigh, which sums to 0.
    np.testing.assert_allclose(got, wanted, atol=2 * 0.5 * 1.4 / 255 + 0.03 * 0.2)
