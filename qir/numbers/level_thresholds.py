"""Real numbers to codes that are a table, as comparisons with float32 numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qir.numbers.quantize_mode import in_order, ordered
from qir.types import LevelCode, expand


def level_thresholds(code: LevelCode) -> NDArray[np.int32]:
    """Returns the least float32 number that a code takes to each level but the least.

    They are found by bisection over `Code.encode`, which is monotone, so that a backend that
    compares with them is exact.

    Args:
        code: A code that is a table.

    Returns:
        Places in the order of float32 numbers, as `ordered` gives them, of shape [step sizes,
        levels - 1]; the step sizes are those of `Code.step_sizes` in row-major order.
    """
    rows = code.map_arrays(lambda factors: np.reshape(_on(factors, code.grid), (-1, 1)))
    rank = np.full(len(code.levels), -1)
    rank[code.order] = np.arange(len(code.order))
    wanted = np.arange(1, len(code.order))
    wanted = np.broadcast_to(wanted, (code.step_sizes.size, len(wanted)))
    ends = ordered(np.array([-np.inf, np.inf], np.float32)).astype(np.int64)
    below, reached = (np.full(wanted.shape, end) for end in ends)
    while np.any(reached - below > 1):
        middle = (below + reached) >> 1
        stored = rows.encode(in_order(middle.astype(np.int32)))
        enough = rank[stored.astype(np.int64) - code.storage.bounds[0]] >= wanted
        below, reached = np.where(enough, below, middle), np.where(enough, middle, reached)
    return reached.astype(np.int32)


def _on(factors: NDArray[np.generic], grid: tuple[int, ...]) -> NDArray[np.generic]:
    return np.broadcast_to(expand(factors, grid), grid)
