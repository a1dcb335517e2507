"""Thresholds of codes that are a table: at each of them the level changes, in XLA too."""

from dataclasses import dataclass

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.numbers.level_thresholds import level_thresholds
from qir.numbers.quantize_mode import in_order
from qir.ops import MaxPool, Quantize
from qir.ops.op import infer
from qir.types import Array, Codebook, DType, FrozenArray, LevelCode, TensorType


@dataclass(frozen=True)
class SignMagnitude(LevelCode):
    """E2M1 with its two zeros and an infinity, whose stored numbers are not in order."""

    @property
    def levels(self) -> Array:
        magnitudes = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, np.inf])
        return np.concatenate([magnitudes, -magnitudes])

    @property
    def ties_up(self) -> Array:
        """Ties to even, and beyond the greatest to infinity."""
        even = self.order[1:-1] % 2 == 0
        return np.concatenate([[False], even[1:], [True]])


CODES: dict[str, LevelCode] = {
    "sign and magnitude": SignMagnitude(DType.U4, FrozenArray([[0.25, 1.0, 3.0]])),
    "two levels": Codebook.of(DType.I2, 0.1, [-1, 1]),
    "nf4": Codebook.named("nf4", 0.37),
    "no zero": Codebook.of(DType.I4, 1.0, [3, 5, 100]),
    "256 levels": Codebook.of(DType.U8, 1 / 3, np.cumsum(np.arange(1, 257)) - 9000),
    "by channel": Codebook.of(DType.I4, [[0.5, 0.3]], np.linspace(-1, 1, 15)),
    "multipliers": Codebook.of(DType.I4, [[0.5, 0.3]], [-7, 0, 9], multipliers=[[2], [1], [255]]),
}


def around(code: LevelCode) -> Array:
    """Returns numbers at, below and above each threshold, and special ones, for each step size."""
    places = level_thresholds(code)
    near = [in_order((places + shift).astype(np.int32)) for shift in (-1, 0, 1)]
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 3e38, 0.0, -0.0, 1e-45], np.float32)
    special = np.broadcast_to(special, (len(places), special.size))
    return np.concatenate([*near, special], axis=1)


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_the_level_grows_by_one_at_each(code: LevelCode) -> None:
    places = level_thresholds(code)
    rows = code.map_arrays(lambda factors: np.broadcast_to(factors, code.grid).reshape(-1, 1))
    for shift, first in ((-1, 0), (0, 1)):
        stored = rows.encode(in_order((places + shift).astype(np.int32)))
        expected = code.order[first : first + places.shape[1]] + code.storage.bounds[0]
        assert np.array_equal(stored, np.broadcast_to(expected, stored.shape))


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_xla_gives_the_numbers_of_the_definition(code: LevelCode) -> None:
    columns = around(code)  # [step sizes, numbers]
    grid = code.grid or (1, 1)
    x = np.moveaxis(columns.reshape(*grid, -1), -1, 0).reshape(-1, *grid)
    wide = code.map_arrays(lambda factors: factors[None])
    graph = qir.Graph("quantize")
    real = graph.add_input("x", TensorType(x.shape, DType.F32))
    graph.set_outputs([graph.at_end().emit(Quantize(wide), real)])
    assert np.array_equal(qir.compile(graph)(x)[0], qir.evaluate(graph, x)[0])


def test_stored_numbers_out_of_order_are_not_compared() -> None:
    code = SignMagnitude(DType.U4, FrozenArray(0.5))
    with pytest.raises(QirError, match="whose stored numbers have the order of the real ones"):
        infer(MaxPool((2, 2)), [TensorType((1, 4, 4, 3), code)])


def test_zeros_keep_their_sign() -> None:
    code = SignMagnitude(DType.U4, FrozenArray(0.5))
    stored = code.encode([0.0, -0.0, -1e-9, 1e-9, np.nan, np.inf, -np.inf])
    assert stored.tolist() == [0, 8, 8, 0, 0, 7, 15]
    assert np.array_equal(np.signbit(code.decode(stored)), stored >= 8)
