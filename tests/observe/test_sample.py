"""The rows of a batch that are kept to compare programs on."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.observe.sample import batch_name, few_rows, same_rows


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("width", [0, 3])
def test_the_rows_of_a_sample_stay_together(factor: int, width: int) -> None:
    graph = qir.parse(f"graph @g(%x: f32[{factor}*B,{width}]) {{\n  return %x\n}}")
    batch = np.arange(8 * factor * width, dtype=np.float32).reshape(8 * factor, width)
    (kept,) = few_rows(graph, [batch], 3)
    by_sample = batch.reshape(8, factor, width)[[0, 4, 7]]
    assert np.array_equal(kept, by_sample.reshape(3 * factor, width))


LOOP = """
graph @loop(%x: f32[TRIPS,BATCH,2], %h: f32[BATCH,2]) {
  %last, %all = scan(%h, %x) {carries = 1, stacked = 1} with (%c: f32[BATCH,2], %p: f32[BATCH,2]) {
    %y = add(%c, %p) : f32[BATCH,2]
    return %y, %y
  } : f32[BATCH,2], f32[TRIPS,BATCH,2]
  return %all
}
"""


@pytest.mark.parametrize("trips", ["T", "5"])
def test_a_sample_of_sequences_has_all_their_trips(trips: str) -> None:
    graph = qir.parse(LOOP.replace("TRIPS", trips).replace("BATCH", "B"))
    x = np.arange(80, dtype=np.float32).reshape(5, 8, 2)
    h = np.arange(16, dtype=np.float32).reshape(8, 2)
    kept, begun = few_rows(graph, [x, h], 3)
    assert np.array_equal(kept, x[:, [0, 4, 7]])
    assert np.array_equal(begun, h[[0, 4, 7]])
    (whole,), (cut,) = qir.evaluate(graph, x, h), qir.evaluate(graph, kept, begun)
    same = same_rows(graph, graph.outputs[0], whole, 3)
    assert same is not None
    assert np.array_equal(same, cut)


def test_sequences_are_not_cut_along_their_trips() -> None:
    graph = qir.parse(LOOP.replace("TRIPS", "T").replace("BATCH", "1"))
    assert batch_name(graph) is None
    assert few_rows(graph, [np.zeros((50, 1, 2)), np.zeros((1, 2))], 3)[0].shape == (50, 1, 2)
