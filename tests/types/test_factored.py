"""Scales that are products of factors: never dense unless asked, and the same numbers then."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from qir.errors import QirError
from qir.types import Affine, DType, FactoredArray, FrozenArray, TensorType, multiplied
from qir.types.factored import MOST_MULTIPLIED_OUT


def ones(*shape: int) -> FrozenArray:
    return FrozenArray(np.ones(shape))


def drawn(*shape: int) -> FrozenArray:
    """Float32 numbers, kept as float64 as accumulators keep them."""
    scales = np.random.default_rng(shape).uniform(0.01, 1, shape).astype(np.float32)
    return FrozenArray(scales, np.float64)


@pytest.mark.parametrize(
    ("shapes", "kept"),
    [
        ([(), ()], [()]),
        ([(), (1, 4)], [(1, 4)]),
        ([(3, 1), ()], [(3, 1)]),
        ([(3, 1), (3, 1)], [(3, 1)]),
        ([(2, 3, 1), (2, 1, 1)], [(2, 3, 1)]),
        ([(2, 1, 1), (2, 3, 1)], [(2, 3, 1)]),
        ([(3, 1), (1, 4)], [(3, 1), (1, 4)]),
        ([(2, 3, 1), (2, 1, 4)], [(2, 3, 1), (2, 1, 4)]),
        ([(2, 1), (3, 1)], [(2, 1), (3, 1)]),
        ([(3, 1), (1, 4), (3, 1)], [(3, 1), (1, 4)]),
    ],
)
def test_factors_stay_apart_where_their_product_is_larger_than_each(
    shapes: list[Any], kept: list[Any]
) -> None:
    arrays = [drawn(*shape) for shape in shapes]
    found = multiplied(*arrays)
    assert [factor.shape for factor in found.factors] == kept
    assert isinstance(found, FactoredArray) == (len(kept) > 1)
    whole = np.ones(found.shape)
    for array in arrays:
        repeats = [
            size // count
            for size, count in zip(whole.shape, array.shape or (1, 1, 1), strict=False)
        ]
        whole = whole * (np.kron(array.array, np.ones(repeats)) if array.shape else array.array)
    # Two products of two float32 numbers are exact, a third factor rounds.
    assert np.allclose(found.array, whole, rtol=0 if len(arrays) == 2 else 2.0**-51, atol=0)


def test_equal_factors_are_equal_scales() -> None:
    rows, columns = drawn(3, 1), drawn(1, 4)
    one, other = multiplied(rows, columns), multiplied(drawn(3, 1), drawn(1, 4))
    assert one == other
    assert hash(one) == hash(other)
    assert one != multiplied(columns, rows)
    assert one != FrozenArray(one.array)
    assert FrozenArray(one.array) != one
    assert len({TensorType((3, 4), Affine(DType.I32, each)) for each in (one, other)}) == 1


def test_a_large_product_is_never_formed_unasked() -> None:
    rows, columns = 2**11, 2**10
    code = Affine(DType.I32, multiplied(ones(rows, 1), ones(1, columns)))
    type = TensorType((rows, columns), code)
    assert (code.grid, code.axis, code.per_tensor) == ((rows, columns), None, False)
    assert code.greatest_scale == 1
    assert "parts=[[2048, 1], [1, 1024]]" in str(type)
    assert hash(type) == hash(TensorType((rows, columns), code))
    with pytest.raises(QirError, match=r"at most 1,048,576 scales .* dequantize the accumulator"):
        _ = code.scale.array
    assert rows * columns > MOST_MULTIPLIED_OUT == 2**10 * columns
    fitting = multiplied(ones(2**10, 1), ones(1, columns))
    assert fitting.array.shape == (2**10, columns)


def test_only_wide_storage_has_factors() -> None:
    with pytest.raises(QirError, match=r"C15: expected one array of scales .* 2 factors in i8"):
        Affine(DType.I8, multiplied(drawn(3, 1), drawn(1, 4)))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_every_factor_is_finite_and_positive(bad: float) -> None:
    with pytest.raises(QirError, match="C1: "):
        Affine(DType.I32, multiplied(drawn(3, 1), FrozenArray([[0.5, bad]])))


def test_every_factor_divides_the_tensor() -> None:
    code = Affine(DType.I32, multiplied(drawn(3, 1), drawn(1, 4)))
    with pytest.raises(QirError, match="C4: "):
        TensorType((3, 6), code)


def test_moves_apply_to_each_factor() -> None:
    code = Affine(DType.I32, multiplied(drawn(3, 1), drawn(1, 4)))
    turned = code.map_arrays(np.transpose)
    assert [factor.shape for factor in turned.scale.factors] == [(1, 3), (4, 1)]
    assert np.array_equal(turned.scale.array, code.scale.array.T)
    row = code.map_arrays(lambda factors: factors[:1])
    assert not isinstance(row.scale, FactoredArray)
    assert np.array_equal(row.scale.array, code.scale.array[:1])


def test_numbers_decode_by_the_scale_rounded_once_to_float32() -> None:
    code = Affine(DType.I32, multiplied(drawn(40, 1), drawn(1, 50)))
    stored = np.random.default_rng(1).integers(-(2**31), 2**31, (40, 50)).astype(np.int32)
    assert np.array_equal(code.decoding_scale, code.scale.array.astype(np.float32))
    assert np.array_equal(
        code.decode(stored), stored.astype(np.float32) * code.scale.array.astype(np.float32)
    )
    (rows, columns), exact = code.scale.factors, code.scale.array
    assert all(
        Fraction(float(exact[r, c]))
        == Fraction(float(rows.array[r, 0])) * Fraction(float(columns.array[0, c]))
        for r, c in np.ndindex(exact.shape)
    )
