"""The mode f32_rne gives the integers of ONNX Runtime's QLinear kernels."""

from __future__ import annotations

import numpy as np
import pytest

from qir.numbers.rounding import requantize, rounding_mode
from qir.types import Array
from tests.exact.qlinear_models import MICROSOFT, run

SIZE = 1_000_000
RATIOS = np.array([0.5, 2.0**-2, 2.0**-6, 1 / 400, 0.214, 0.31, 0.00125, 0.0131, 0.75, 1.3])
"""Multipliers: powers of two, which make ties of every second product, and others."""
U8 = np.uint8
X_SCALE, SCALE = np.float32(0.0173), np.float32(0.0911)


def stored(seed: int, *shape: int) -> Array:
    """Unsigned numbers around the zero point 131, half of them close to it."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-128, 125, shape)
    return (np.where(rng.random(shape) < 0.5, numbers >> 4, numbers) + 131).astype(U8)


def weights(rows: int) -> tuple[Array, Array]:
    """Signed weights [rows, channels] and their scales, one channel for each multiplier."""
    scales = (RATIOS * SCALE / X_SCALE).astype(np.float32)
    numbers = np.random.default_rng(1).integers(-127, 128, (rows, len(RATIOS)))
    return np.where(RATIOS > 0.1, numbers >> 5, numbers).astype(np.int8), scales


def expected(acc: Array, scales: Array, zero_point: int) -> Array:
    """What the mode makes of sums whose channels are the last axis."""
    products = np.float64(X_SCALE) * scales.astype(np.float64)
    multiplier = rounding_mode("f32_rne").multipliers(products, np.float64(SCALE))
    found = requantize(acc, multiplier, zero_point, 0, 255, "f32_rne")
    assert np.mean((found > 0) & (found < 255)) > 0.2
    return found


@pytest.mark.parametrize("zero_point", [7, 128])
def test_qlinear_matmul(zero_point: int) -> None:
    x = stored(0, SIZE // len(RATIOS), 16)
    kernel, scales = weights(16)
    rest = {
        "x_scale": X_SCALE,
        "x_zero": U8(131),
        "w": kernel,
        "w_scale": scales,
        "w_zero": np.zeros(len(scales), np.int8),
        "y_scale": SCALE,
        "y_zero": U8(zero_point),
    }
    found = run("QLinearMatMul", x, {name: np.asarray(value) for name, value in rest.items()})
    acc = (x.astype(np.int64) - 131) @ kernel.astype(np.int64)
    assert np.array_equal(found, expected(acc, scales, zero_point))


def test_qlinear_conv() -> None:
    side = int((SIZE / len(RATIOS)) ** 0.5)
    x = stored(0, 1, 2, side, side)
    kernel, scales = weights(2 * 9)
    bias = np.random.default_rng(2).integers(-99, 99, len(scales)).astype(np.int32)
    rest = {
        "x_scale": X_SCALE,
        "x_zero": U8(131),
        "w": kernel.T.reshape(len(scales), 2, 3, 3),
        "w_scale": scales,
        "w_zero": np.zeros(len(scales), np.int8),
        "y_scale": SCALE,
        "y_zero": U8(128),
        "bias": bias,
    }
    constants = {name: np.asarray(value) for name, value in rest.items()}
    found = run("QLinearConv", x, constants, pads=[1, 1, 1, 1])
    framed = np.pad(x.astype(np.int64) - 131, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(framed[0], (3, 3), (1, 2))
    taps = np.moveaxis(windows, 0, 2).reshape(side, side, 18)
    acc = taps @ kernel.astype(np.int64) + bias
    assert np.array_equal(found[0].transpose(1, 2, 0), expected(acc, scales, 128))


@pytest.mark.parametrize("sides", [(4, 4), (7, 7), (5, 3), (8, 8)])
def test_qlinear_global_average_pool(sides: tuple[int, int]) -> None:
    for scale, zero_point in [(0.0173, 128), (0.0211, 7), (0.00865, 120)]:
        x, count = stored(0, 20, 500, *sides), sides[0] * sides[1]
        rest = {
            "x_scale": X_SCALE,
            "x_zero": U8(131),
            "y_scale": np.float32(scale),
            "y_zero": U8(zero_point),
        }
        constants = {name: np.asarray(value) for name, value in rest.items()}
        found = run("QLinearGlobalAveragePool", x, constants, MICROSOFT, channels_last=0)
        acc = (x.astype(np.int64) - 131).sum((2, 3), keepdims=True)
        divided = np.float64(np.float32(scale)) * count
        multiplier = rounding_mode("f32_rne").multipliers(np.float64(X_SCALE), divided)
        assert np.array_equal(found, requantize(acc, multiplier, zero_point, 0, 255, "f32_rne"))
