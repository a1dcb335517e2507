"""Integers behind floats are bounded by what their op makes of floats within their bounds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import qir
from qir.backends.xla.cut_bounds import Bounds, cut_bounds
from qir.ir import Node, Value
from qir.types import Array

ROWS = 400


def node_of(text: str) -> Node:
    """The only node of a program that computes something."""
    (node,) = (each for each in qir.parse(text).nodes if each.outputs)
    return node


def dynamic(axes: str = "[1]", more: str = "", scale: str = f"{ROWS},1") -> Node:
    steps = f"i8[{ROWS},3]{{scale=1.0, bounds=[-7, 7]}}"
    return node_of(f"""
graph @dynamic(%x: f32[{ROWS},3]) {{
  %q, %s = quantize_dynamic(%x) {{axes = {axes}{more}}} : {steps}, f32[{scale}]
  return %q, %s
}}""")


def boxes(seed: int = 0) -> Bounds:
    """Numbers of either sign, some exact, some all but unknown, and some near a tie of steps."""
    generator = np.random.default_rng(seed)
    middle = generator.standard_normal((ROWS, 3))
    middle[::4] = np.round(2 * middle[::4]) / 2
    room = 10.0 ** generator.integers(-8, 1, (ROWS, 3)) * generator.integers(0, 2, (ROWS, 3))
    return (middle - room).astype(np.float32), (middle + room).astype(np.float32)


def bounds_of(
    node: Node, *operands: Bounds, found: dict[Value, Array] | None = None
) -> list[Bounds]:
    wide = {
        value: (low.astype(np.float64), high.astype(np.float64))
        for value, (low, high) in zip(node.inputs, operands, strict=True)
    }
    every = cut_bounds(node, wide, found or {}, np.random.default_rng(0))
    return [every[value] for value in node.outputs if value in every]


def computed(node: Node, array: Array) -> Array:
    found = node.op.evaluate(array)
    return found[0] if isinstance(found, tuple) else found


def test_steps_of_a_scale_found_at_run_time_are_bounded_exactly() -> None:
    """A row's extremes lie where each of its numbers is at an end or nearest to 0."""
    node, (low, high) = dynamic(), boxes()
    ((least, most),) = bounds_of(node, (low, high))
    ends = np.stack([low, high, np.clip(np.float32(0), low, high)])
    every = [
        computed(node, np.stack([ends[end, :, place] for place, end in enumerate(picked)], axis=1))
        for picked in product(range(3), repeat=3)
    ]
    assert np.array_equal(least, np.min(every, axis=0))
    assert np.array_equal(most, np.max(every, axis=0))
    assert 0.05 < np.mean(least == most) < 0.95


@pytest.mark.parametrize(
    "node",
    [
        dynamic("[0, 1]", scale="1,1"),
        dynamic("[1]", ", block = 3"),
        dynamic("[0, 1]", ", block = 1", scale="1,3"),
        node_of(f"""
graph @onnx(%x: f32[{ROWS},3]) {{
  %q, %s, %z = quantize_dynamic(%x) {{axes = [0, 1], mode = onnx}} : u8[{ROWS},3], f32[], u8[]
  return %q, %s, %z
}}"""),
    ],
    ids=["tensor", "row block", "column", "onnx"],
)
def test_steps_within_the_box_are_within_their_bounds(node: Node) -> None:
    generator = np.random.default_rng(1)
    low, high = boxes(2)
    if len(node.outputs) == 3:
        low, high = (np.clip(end, np.float32(-1), np.float32(2)) for end in (low, high))
    (least, most), *_ = bounds_of(node, (low, high))
    for _ in range(20):
        share = generator.choice((0.0, 1.0, 0.5), low.shape).astype(np.float32)
        steps = computed(node, np.clip(low + share * (high - low), low, high))
        assert np.all(least <= steps)
        assert np.all(steps <= most)
    ((least, most), *rest) = bounds_of(node, (low, low))
    assert np.array_equal(least, computed(node, low))
    assert np.array_equal(most, least)
    assert all(np.array_equal(*bounds) for bounds in rest)


def test_only_places_that_may_be_the_greatest_are_right() -> None:
    node = node_of("""
graph @argmax(%x: f32[4]) {
  %m = argmax(%x) {axis = 0} : i32[]
  return %m
}""")
    low, high = np.array([1.0, 0.9, 0.2, 0.8]), np.array([1.1, 1.0, 0.3, 1.05])

    def right(place: int) -> bool:
        array = np.array(place, np.int32)
        ((least, most),) = bounds_of(node, (low, high), found={node.output: array})
        return bool(least <= place <= most)

    assert [place for place in range(-1, 5) if right(place)] == [0, 1, 3]


@pytest.mark.parametrize(("name", "truth"), [("equal", True), ("not_equal", False)])
def test_floats_may_be_equal_where_their_bounds_overlap(name: str, truth: bool) -> None:
    node = node_of(f"""
graph @compare(%x: f32[4], %y: f32[1]) {{
  %m = {name}(%x, %y) : bool[4]
  return %m
}}""")
    low, high = np.array([0.5, 1.5, 2.5, 2.0]), np.array([0.9, 2.5, 3.0, 2.0])
    y = np.array([2.0])
    ((least, most),) = bounds_of(node, (low, high), (y, y))
    assert np.array_equal(least, [not truth, False, not truth, truth])
    assert np.array_equal(most, [not truth, True, not truth, truth])


def test_a_number_is_equal_to_itself() -> None:
    node = node_of("""
graph @same(%x: f32[1]) {
  %m = equal(%x, %x) : bool[1]
  return %m
}""")
    every = cut_bounds(
        node,
        {node.inputs[0]: (np.array([1.0]), np.array([2.0]))},
        {},
        np.random.default_rng(0),
    )
    assert every == {node.output: (np.array([1.0]), np.array([1.0]))}


def test_a_float_may_be_zero_within_its_bounds() -> None:
    node = node_of("""
graph @mask(%x: f32[3]) {
  %m = cast(%x) : bool[3]
  return %m
}""")
    ((least, most),) = bounds_of(node, (np.array([-1.0, 1, 0]), np.array([1.0, 2, 0])))
    assert np.array_equal(least, [0, 1, 0])
    assert np.array_equal(most, [1, 1, 0])
