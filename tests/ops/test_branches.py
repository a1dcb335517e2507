"""cond: which branch runs, against a plain statement of `jax.lax.switch`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from jax import lax

import qir
from qir.ops import Cond
from qir.ops.regions import Passage

BRANCHES = [lambda x, y: [x + y], lambda x, y: [x - y], lambda x, y: [x * y]]
INDICES = [-(2**31), -1, 0, 1, 2, 3, 2**31 - 1]


@pytest.mark.parametrize("index", INDICES)
def test_cond_is_the_switch_of_jax(index: int) -> None:
    x, y = np.arange(3), np.arange(3) + 4
    (found,) = Cond().run(BRANCHES, [np.int32(index), x, y], [(3,)])
    stated = BRANCHES[min(max(index, 0), len(BRANCHES) - 1)](x, y)[0]
    assert np.array_equal(found, stated)
    assert np.array_equal(found, lax.switch(index, BRANCHES, x, y)[0])


def test_one_branch_alone_runs() -> None:
    def never(*_: Any) -> list[Any]:
        raise AssertionError("another branch is meant")

    assert Cond().run([never, lambda x: [x]], [np.int32(1), 7], [()]) == [7]


@pytest.mark.parametrize("dtype", ["i8", "u8", "i16", "u16", "i32", "u32"])
def test_an_index_of_any_integers_means_the_nearest_branch(dtype: str) -> None:
    graph = qir.parse(f"""
graph @g(%n: {dtype}[], %x: f32[2]) {{
  %y = cond(%n, %x) with (%x: f32[2]) {{
    return %x
  }} with (%x: f32[2]) {{
    %z = neg(%x) : f32[2]
    return %z
  }} : f32[2]
  return %y
}}""")
    info = np.iinfo(graph.inputs[0].type.dtype.numpy)
    x = np.array([1, 2], np.float32)
    compiled = qir.compile(graph)
    for index in {info.min, max(info.min, -1), 0, 1, 2, info.max}:
        n = np.asarray(index, info.dtype)
        expected = -x if index > 0 else x
        assert np.array_equal(qir.evaluate(graph, n, x)[0], expected)
        assert np.array_equal(compiled(n, x)[0], expected)


def test_what_goes_through_branches() -> None:
    assert Cond().passages(2, 1, 2) == (
        Passage("invariant", 0),
        Passage("invariant", 1, ((0, 0), (1, 0))),
        Passage("invariant", None, (), ((0, 0), (1, 0)), 0),
    )
