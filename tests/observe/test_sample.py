"""The rows of a batch that are kept to compare programs on."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.observe.sample import few_rows


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("width", [0, 3])
def test_the_rows_of_a_sample_stay_together(factor: int, width: int) -> None:
    graph = qir.parse(f"graph @g(%x: f32[{factor}*B,{width}]) {{\n  return %x\n}}")
    batch = np.arange(8 * factor * width, dtype=np.float32).reshape(8 * factor, width)
    (kept,) = few_rows(graph, [batch], 3)
    by_sample = batch.reshape(8, factor, width)[[0, 4, 7]]
    assert np.array_equal(kept, by_sample.reshape(3 * factor, width))
