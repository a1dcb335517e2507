"""Scales that are found at run time: quotients rounded once, and numbers that have no quotient."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from qir.numbers.dynamic_scale import onnx_quantization, symmetric_scale, symmetric_steps
from qir.types import SMALLEST_SCALE, Affine, Array, DType


def nearest(real: Fraction) -> np.float32:
    """Rounds a positive number to float32, ties to even, by comparing neighbours exactly."""
    near = np.float32(float(real))
    below, above = (np.nextafter(near, np.float32(end)) for end in (0, np.inf))
    even = [int(number.view(np.int32)) & 1 for number in (below, near, above)]
    numbers = zip((below, near, above), even, strict=True)
    found = min(numbers, key=lambda pair: (abs(Fraction(float(pair[0])) - real), pair[1]))[0]
    return np.float32(found)


@pytest.mark.parametrize("largest", [1, 7, 127, 32767])
def test_scales_are_quotients_rounded_once(largest: int) -> None:
    rng = np.random.default_rng(largest)
    exponents = rng.integers(-90, 90, 300)
    x = np.ldexp(rng.integers(2**23, 2**24, 300), exponents).astype(np.float32)
    # Products of the largest step and numbers half way between two of float32, as near as can be.
    x[:150] = np.ldexp((rng.integers(2**23, 2**24, 150) + 0.5) * largest, exponents[:150])
    scales = symmetric_scale(x[:, None], (1,), largest)[:, 0]
    wanted = [nearest(Fraction(float(number)) / largest) for number in x]
    assert np.array_equal(scales, np.array(wanted))


def test_steps_are_those_of_the_code_with_that_scale() -> None:
    x = np.random.default_rng(0).normal(0, 3, (50, 40)).astype(np.float32)
    scales = symmetric_scale(x, (1,), 127)
    code = Affine.of(DType.I8, scales, bounds=(-127, 127))
    steps = symmetric_steps(x, scales, 127)
    assert np.array_equal(steps, code.encode(x))
    assert np.array_equal(np.abs(steps).max(axis=1), np.full(50, 127))


ROWS = {
    "zeros": ([0.0, -0.0, 0.0], SMALLEST_SCALE, [0, 0, 0]),
    "denormals": ([1e-40, -1e-44, 0.0], SMALLEST_SCALE, [0, 0, 0]),
    "nan": ([np.nan, 127.0, -1.0], 1.0, [0, 127, -1]),
    "nothing but nan": ([np.nan, np.nan, np.nan], SMALLEST_SCALE, [0, 0, 0]),
    "infinities": (
        [np.inf, -np.inf, 1.0],
        np.finfo(np.float32).max / np.float32(127),
        [127, -127, 0],
    ),
    "ties": ([127.0, 2.5, -3.5], 1.0, [127, 2, -4]),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_row_has_a_scale_and_steps(row: tuple[list[float], float, list[int]]) -> None:
    numbers, scale, steps = row
    x = np.array([numbers], np.float32)
    found = symmetric_scale(x, (1,), 127)
    assert found.dtype == np.float32
    assert found.tolist() == [[scale]]
    assert symmetric_steps(x, found, 127).tolist() == [steps]


def test_a_scale_stays_where_its_reciprocal_is_normal() -> None:
    x = np.array([[np.finfo(np.float32).max]], np.float32)
    assert float(symmetric_scale(x, (1,), 1)[0, 0]) == 1 / SMALLEST_SCALE
    assert symmetric_steps(x, symmetric_scale(x, (1,), 1), 1).tolist() == [[1]]


def test_no_numbers_have_a_scale() -> None:
    empty: Array = np.zeros((3, 0), np.float32)
    assert symmetric_scale(empty, (1,), 127).tolist() == [[SMALLEST_SCALE]] * 3


@pytest.mark.parametrize(
    ("numbers", "stored", "scale", "point"),
    [
        ([0.0, 0.0], [0, 0], 1.0, 0),
        ([255.0, 2.5, 3.5], [255, 2, 4], 1.0, 0),
        ([-255.0, -2.5], [0, 253], 1.0, 255),
        ([np.nan, 255.0], [0, 255], 1.0, 0),
        ([1e-40, 0.0], [0, 0], 1.0, 0),
    ],
)
def test_onnx_numbers(numbers: list[float], stored: list[int], scale: float, point: int) -> None:
    found = onnx_quantization(np.array(numbers, np.float32))
    assert [array.tolist() for array in found] == [stored, scale, point]


def test_onnx_infinities_fill_the_range() -> None:
    stored, scale, point = onnx_quantization(np.array([np.inf, -np.inf, 0.0], np.float32))
    assert np.isfinite(scale)
    assert stored.tolist() == [255, 0, int(point)]
