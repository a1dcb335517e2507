"""What XLA's numbers may be is the same for every seed, where floats lie on a tie or cancel."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run_all
from qir.backends.xla.expected import difference
from qir.ir import Graph
from qir.types import Array

SEEDS = range(20)
ROWS = 64


def steps_behind(op: str) -> Graph:
    """A program that finds scales for the rows of a float op's result."""
    steps = f"i8[{ROWS},3]{{scale=1.0, bounds=[-7, 7]}}"
    return qir.parse(f"""
graph @behind(%x: f32[{ROWS},3]) {{
  %y = {op} : f32[{ROWS},3]
  %q, %s = quantize_dynamic(%y) {{axes = [1]}} : {steps}, f32[{ROWS},1]
  return %q
}}""")


def wrong(graph: Graph, x: Array, q: Array) -> list[int]:
    """How many steps each seed finds wrong."""
    (value,) = graph.outputs
    found = [difference(graph, [x], {value: q.astype(np.int8)}, seed) for seed in SEEDS]
    return [0 if one is None else one.count for one in found]


@pytest.mark.parametrize("op", ["layer_norm(%x) {axes = [1]}", "add(%x, %x)"])
def test_a_tie_of_two_floats_of_a_row_may_round_either_way(op: str) -> None:
    """A norm of [2, -1, -1] is [√2, -√½, -√½], which is [7, -3.5, -3.5] steps, and so is the row.

    The bound of a sum is a part of it, so that moves to one side keep the ratio.
    """
    graph = steps_behind(op)
    factors = np.random.default_rng(0).uniform(0.5, 2, (ROWS, 1))
    x = (factors * [2, -1, -1]).astype(np.float32)
    for steps in ([7, -3, -3], [7, -4, -4], [7, -3, -4], [7, -4, -3]):
        assert wrong(graph, x, np.tile(steps, (ROWS, 1))) == [0] * len(SEEDS)
    for steps in ([7, -2, -3], [7, -4, -5], [6, -3, -4], [-7, 3, 3]):
        assert min(wrong(graph, x, np.tile(steps, (ROWS, 1)))) >= ROWS


def test_a_step_off_is_found_where_nothing_is_near_a_tie() -> None:
    graph = steps_behind("layer_norm(%x) {axes = [1]}")
    factors = np.random.default_rng(0).uniform(0.5, 2, (ROWS, 1))
    x = (factors * [1, 0.3, -1.1]).astype(np.float32)
    right = run_all(graph, x)[graph.outputs[0]].astype(int)
    assert wrong(graph, x, right) == [0] * len(SEEDS)
    for place in range(3):
        one_off = right - np.sign(right) * (np.arange(3) == place)
        assert wrong(graph, x, one_off) == [ROWS] * len(SEEDS)


def test_a_row_of_nothing_but_roundings_has_any_steps() -> None:
    """Gelu far below 0 is 0 but for roundings, of which any may be the greatest of its row."""
    graph = steps_behind("gelu(%x)")
    x = -np.random.default_rng(0).uniform(9, 12, (ROWS, 3)).astype(np.float32)
    for steps in ([-7, 0, 0], [0, -7, 0], [-5, -7, -1], [0, 0, 0]):
        assert wrong(graph, x, np.tile(steps, (ROWS, 1))) == [0] * len(SEEDS)


def test_a_difference_has_the_room_of_both_floats() -> None:
    """Each difference is off by a step of its terms, which are much larger than what is left.

    A product of size p may be moved by `LOOSE` * 3 * 2^-23 p, a difference by twice that, each in
    two terms of the last one: 144 steps of at least 2^-24 p.
    """
    graph = qir.parse(f"""
graph @cancels(%x: f32[{ROWS}], %y: f32[{ROWS}]) {{
  %c = const [1.001] : f32[1]
  %p = mul(%x, %c) : f32[{ROWS}]
  %r = mul(%y, %c) : f32[{ROWS}]
  %a = sub(%p, %x) : f32[{ROWS}]
  %b = sub(%r, %y) : f32[{ROWS}]
  %d = sub(%a, %b) : f32[{ROWS}]
  return %d
}}""")
    x = np.random.default_rng(0).uniform(1e5, 2e5, ROWS).astype(np.float32)
    (d,) = graph.outputs
    step = np.spacing(np.float32(1.001) * x)
    for sign in (-1, 1):
        for seed in SEEDS:
            assert difference(graph, [x, x], {d: sign * 2 * step}, seed) is None
            found = difference(graph, [x, x], {d: sign * 200 * step}, seed)
            assert found is not None
            assert found.count == ROWS
