"""The arrays that a program holds, each once."""

import ml_dtypes
import numpy as np
import pytest

from qir.ir.held import HeldArrays, are_transposed
from qir.types import DType, FrozenArray


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_a_transposed_matrix_is_found_by_the_first_one():
    stored = HeldArrays()
    one, two = FrozenArray(matrix(3, 5)), FrozenArray(matrix(3, 5).T)
    assert stored.find(DType.F32, one) == (DType.F32, one, False)
    assert stored.find(DType.F32, two) == (DType.F32, one, True)
    assert stored.find(DType.F32, FrozenArray(matrix(3, 5))) == (DType.F32, one, False)


@pytest.mark.parametrize(
    "other",
    [
        matrix(5, 3, seed=1),
        matrix(3, 5).T + np.float32(1),
        matrix(15, 1),
        matrix(3, 5).reshape(5, 3),
    ],
)
def test_other_matrices_are_stored_apart(other):
    stored = HeldArrays()
    stored.find(DType.F32, FrozenArray(matrix(3, 5)))
    assert not stored.find(DType.F32, FrozenArray(other)).is_transposed


def test_plain_types_of_one_carrier_are_stored_apart():
    stored, numbers = HeldArrays(), np.arange(15, dtype=np.int8).reshape(3, 5) % 7
    stored.find(DType.I8, FrozenArray(numbers))
    assert not stored.find(DType.I4, FrozenArray(numbers.T)).is_transposed


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.bool_])
def test_bits_are_compared(dtype):
    zeros = np.zeros((3, 5), dtype)
    other = np.zeros((5, 3), dtype)
    assert are_transposed(zeros, other)
    other[4, 2] = True if dtype is np.bool_ else -0.0
    assert not are_transposed(zeros, other)


def test_matrices_of_other_shapes_and_types_differ():
    assert not are_transposed(np.zeros((3, 5)), np.zeros((3, 5)))
    assert not are_transposed(np.zeros((3, 5), np.int8), np.zeros((5, 3), np.uint8))
    assert not are_transposed(np.zeros((0, 5)), np.zeros((5, 0)))
