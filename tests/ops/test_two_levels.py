"""Scales of two levels: multipliers move with their numbers, and sums over them are exact."""

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ops import Broadcast, Reshape, Reverse, Slice, Tile, Transpose
from qir.ops.op import Op, infer
from qir.types import Affine, Codebook, DType, TensorType

RNG = np.random.default_rng(5)
BLOCKS = RNG.integers(1, 9, (2, 1, 4))
CODES = {
    "scalar": Affine.of(DType.I4, 0.5, 1, multipliers=BLOCKS),
    "channels": Affine.of(DType.I4, [[[0.5, 0.25, 2.0, 1.0]]], multipliers=BLOCKS),
    "blocks": Affine.of(DType.I4, [[[0.5]], [[2.0]], [[0.25]], [[1.0]]], multipliers=BLOCKS),
    "levels": Codebook.of(DType.U4, 0.5, np.arange(-20, 12, 2), multipliers=BLOCKS),
}
MOVES = [
    Reshape((4, 3, 2, 2)),
    Reshape((12, 4)),
    Transpose((2, 0, 1)),
    Reverse((0, 2)),
    Tile((2, 1, 3)),
    Slice((0, 2), (2, 1), (4, 3)),
    Broadcast((5, 4, 3, 4)),
]


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@pytest.mark.parametrize("op", MOVES, ids=lambda op: op.name)
def test_multipliers_move_with_their_numbers(op: Op, code: Affine) -> None:
    low, high = code.range
    stored = RNG.integers(low, high, (4, 3, 4), endpoint=True)
    x = TensorType(stored.shape, code)
    (result,) = infer(op, [x])
    moved = op.evaluate(stored)
    real = op.evaluate(code.decode(stored))
    assert np.array_equal(result.code.decode(moved), real)


DOT = """graph @dot(%x: i8[B,4]{scale=0.1, zp=5}) {
  %w = const [[1, -1], [0, 1], [-1, 1], [3, -3]] : i4[4,2]{CODE}
  %a = dot(%x, %w) : i32[B,2]{scale=%x*%w, axis=1}
  return %a
}"""


@pytest.mark.parametrize("most", [15, 255])
def test_a_dot_over_blocks_of_two_levels_is_exact(most: int) -> None:
    code = f"{{scale=[0.5, 0.25], axis=1, multipliers=[[1, 2], [3, {most}]]}}"
    graph = qir.parse(DOT.replace("{CODE}", code))
    stored = RNG.integers(-128, 128, (9, 4)).astype(np.int8)
    weights = np.array([[1, -1], [0, 1], [-1, 1], [3, -3]]) * [[1, 2], [1, 2], [3, most], [3, most]]
    (found,) = qir.evaluate(graph, stored)
    assert np.array_equal(found, (stored.astype(int) - 5) @ weights)
    assert np.array_equal(qir.compile(graph)(stored)[0], found)


def test_float_scales_along_the_summed_axis_are_refused_with_the_remedy() -> None:
    code = "{scale=[0.5, 0.25], blocks=[2, 2]}"
    with pytest.raises(QirError, match=r"along the summed axis are multipliers of the steps, or"):
        qir.parse(DOT.replace("{CODE}", code))


def test_float_levels_are_refused_in_a_dot_with_the_remedy() -> None:
    code = "{kind=codebook, scale=0.5, levels=nf4}"
    with pytest.raises(QirError, match=r"are no integers times a scale; dequantize it"):
        qir.parse(DOT.replace("{CODE}", code))
