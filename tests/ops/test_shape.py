"""Reshapes of numbers whose scales vary in blocks."""

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ops import Dequantize, Reshape, Transpose
from qir.ops.op import infer
from qir.types import MXFP4, NVFP4, Affine, Array, Code, TensorType

WEIGHTS: Array = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
CODES = [
    MXFP4.fit(WEIGHTS, (2, 6)),
    NVFP4.fit(WEIGHTS, (4, 6)),
    Affine.fit(WEIGHTS, (2, 6), 4),
    Affine.fit(WEIGHTS, (2, 6), 4).in_two_levels((1, 6)),
]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.kind)
@pytest.mark.parametrize("shape", [(64, 2, 3), (1, 64, 6), (64, 6, 1)], ids=str)
def test_blocks_stay_blocks_and_both_backends_agree(code: Code, shape: tuple[int, ...]) -> None:
    graph = qir.Graph("moves")
    build = graph.at_end()
    stored = build.const(code.encode(WEIGHTS), "w", code)
    moved = build.emit(Reshape(shape), stored)
    turned = build.emit(Transpose((2, 0, 1)), moved)
    graph.set_outputs([turned, build.emit(Dequantize(), turned)])
    expected = code.decode(code.encode(WEIGHTS)).reshape(shape).transpose(2, 0, 1)
    for backend in ("reference", "xla"):
        numbers, real = qir.compile(graph, backend=backend)()
        assert np.array_equal(real, expected)
        assert np.array_equal(numbers.shape, expected.shape)
    held = moved.type.code
    assert np.prod(held.grid) == np.prod(code.grid)


@pytest.mark.parametrize("code", CODES[:2], ids=lambda code: code.kind)
def test_blocks_that_would_be_cut_are_refused(code: Code) -> None:
    with pytest.raises(QirError, match=r"C1[34]: expected a scale for each (32|16) numbers along"):
        infer(Reshape((8, 8, 6)), [TensorType((64, 6), code)])
