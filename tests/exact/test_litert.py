"""Rounding modes give the integers of LiteRT's kernels: reference, optimized and XNNPACK's."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pytest

from qir.numbers.rounding import Multiplier, requantize, rounding_mode
from qir.types import Affine, Array, DType
from tests.exact.tflite_models import RESOLVERS, Tensor, constant, model, run

SIZE = 1_000_000
LOW, HIGH = -128, 127
RATIOS = (0.5, 2.0**-2, 2.0**-6, 1 / 400, 0.214, 0.31, 0.00125, 0.0131, 0.75, 1.3)
"""Multipliers: powers of two, which make ties of every second product, large ones, which round
twice in one result of eight, and those of real layers."""

Expected: TypeAlias = dict[str, tuple[str, Multiplier]]
"""The rounding mode of each resolver, with its multiplier."""


def stored(seed: int, *shape: int) -> Array:
    """Every stored number, at random; half of them small, for sums that are not clamped."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(LOW, HIGH, shape, endpoint=True)
    return np.where(rng.random(shape) < 0.5, numbers >> 4, numbers).astype(np.int8)


def wide(value: float) -> np.float64:
    """A scale as files store it, in float64."""
    return np.float64(np.float32(value))


def check(content: bytes, inputs: list[Array], acc: Array, zero_point: int, modes: Expected) -> int:
    """Holds each resolver to its mode; returns how many results there are.

    Args:
        content: A model.
        inputs: Its inputs.
        acc: The accumulators that are rescaled, int64 of the result's shape.
        zero_point: The zero point of the result.
        modes: The modes.
    """
    found = run(content, *inputs)
    assert set(found) == set(modes) == set(RESOLVERS)
    for resolver, (mode, multiplier) in modes.items():
        expected = requantize(acc, multiplier, zero_point, LOW, HIGH, mode)
        # A test of clamped numbers would show nothing.
        assert np.mean((expected > LOW) & (expected < HIGH)) > 0.1
        assert np.count_nonzero(found[resolver] != expected) == 0, (resolver, mode)
    return acc.size


def in_vectors(acc: Array, ratio: float | np.floating, zero_point: int) -> Array:
    """What optimized kernels for x86 make of sums: by `srdhm_up` in whole vectors of 16 along the
    last axis, by `tflite_double` in what is left."""
    whole = acc.shape[-1] // 16 * 16
    parts = [("srdhm_up", acc[..., :whole]), ("tflite_double", acc[..., whole:])]
    return np.concatenate(
        [
            requantize(
                part, rounding_mode(mode).multipliers(ratio, 1.0), zero_point, LOW, HIGH, mode
            )
            for mode, part in parts
        ],
        axis=-1,
    )


def test_conv_2d_per_channel() -> None:
    ratios, points = np.array(RATIOS), (-5, 7)
    x_scale, scale = wide(0.0173), wide(0.0911)
    scales = (ratios * scale / x_scale).astype(np.float32).astype(np.float64)
    x = stored(0, 1, 1, SIZE // len(ratios), 4)
    kernel = stored(1, len(ratios), 1, 1, 4)
    kernel[ratios > 0.1] >>= 5
    bias = np.random.default_rng(2).integers(-99, 99, len(ratios)).astype(np.int32)
    operands = [
        Tensor(x.shape, np.int8, x_scale, points[0]),
        constant(kernel, scales.tolist()),
        constant(bias, (x_scale * scales).tolist()),
    ]
    result = Tensor((*x.shape[:-1], len(ratios)), np.int8, scale, points[1])
    content = model(
        "CONV_2D", operands, result, 3, table="Conv2DOptions", padding=1, strideW=1, strideH=1
    )
    acc = (x.astype(np.int64) - points[0]) @ kernel[:, 0, 0].T.astype(np.int64) + bias
    product = x_scale * scales
    modes = {
        "reference": ("tflite_double", rounding_mode("tflite_double").multipliers(product, scale)),
        "optimized": ("srdhm_up", rounding_mode("srdhm_up").multipliers(product, scale)),
        "xnnpack": ("f32_rne", rounding_mode("f32_rne").multipliers(product, scale)),
    }
    assert check(content, [x], acc, points[1], modes) == SIZE


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "plain"])
def test_fully_connected(biased: bool) -> None:
    points, scale, x_scale, count = (-5, 7), wide(0.0911), wide(0.0173), 0
    for ratio in RATIOS:
        kernel_scale = wide(ratio * scale / x_scale)
        x, kernel = stored(0, SIZE // len(RATIOS) // 8, 16), stored(1, 8, 16)
        if ratio > 0.1:
            kernel >>= 5
        bias = np.random.default_rng(2).integers(-99, 99, 8).astype(np.int32) * biased
        operands = [Tensor(x.shape, np.int8, x_scale, points[0]), constant(kernel, kernel_scale)]
        if biased:
            operands.append(constant(bias, x_scale * kernel_scale))
        result = Tensor((len(x), 8), np.int8, scale, points[1])
        content = model("FULLY_CONNECTED", operands, result, 4, table="FullyConnectedOptions")
        acc = (x.astype(np.int64) - points[0]) @ kernel.T.astype(np.int64) + bias
        product = x_scale * kernel_scale
        modes = {
            "reference": ("dbl_away", rounding_mode("dbl_away").multipliers(product, scale)),
            # What is prepared for all kernels rounds the product of scales to float32.
            "optimized": ("srdhm_up", rounding_mode("srdhm_up").multipliers(wide(product), scale)),
            "xnnpack": ("f32_rne", rounding_mode("f32_rne").multipliers(product, scale)),
        }
        count += check(content, [x], acc, points[1], modes)
    assert count == SIZE // 80 * 80


def test_mul() -> None:
    points, scale, x_scale = (3, -4, 5), wide(0.0311), wide(0.0573)
    for ratio in RATIOS:
        y_scale = wide(ratio * scale / x_scale)
        x, y = stored(0, SIZE // len(RATIOS)), stored(1, SIZE // len(RATIOS))
        operands = [
            Tensor(x.shape, np.int8, x_scale, points[0]),
            Tensor(y.shape, np.int8, y_scale, points[1]),
        ]
        result = Tensor(x.shape, np.int8, scale, points[2])
        acc = (x.astype(np.int64) - points[0]) * (y.astype(np.int64) - points[1])
        # The ratio is formed in float32.
        real = np.float32(x_scale) * np.float32(y_scale) / np.float32(scale)
        double = "tflite_double", rounding_mode("tflite_double").multipliers(real, 1.0)
        float32 = "f32_rne", rounding_mode("f32_rne").multipliers(real, 1.0)
        modes = {"reference": double, "optimized": double, "xnnpack": float32}
        check(model("MUL", operands, result, table="MulOptions"), [x, y], acc, points[2], modes)


@pytest.mark.parametrize("window", [(4, 4), (7, 7), (5, 3), (8, 8), (2, 1)])
@pytest.mark.parametrize("points", [(0, 0), (0, 5), (3, 5), (-128, -7)])
def test_mean(window: tuple[int, int], points: tuple[int, int]) -> None:
    count = window[0] * window[1]
    for x_scale, scale in [(0.05, 0.02), (0.0173, 0.0173), (0.03, 0.011), (0.0173, 0.0211)]:
        x = stored(0, 10, *window, 200)
        x_scale, scale = wide(x_scale), wide(scale)
        axes = constant(np.array([1, 2], np.int32))
        result = Tensor((10, 1, 1, 200), np.int8, scale, points[1])
        operands = [Tensor(x.shape, np.int8, x_scale, points[0]), axes]
        content = model("MEAN", operands, result, table="ReducerOptions", keepDims=True)
        found = run(content, x)
        raw = x.astype(np.int64).sum((1, 2), keepdims=True)
        acc = raw - points[0] * count

        # The integer multiplier is divided by the count, which may leave fewer than 31 bits.
        whole = rounding_mode("tflite_double").multipliers(x_scale, scale)
        places = min(count.bit_length() - 1, 62 - int(whole.shift))
        divided = Multiplier(
            np.array((int(whole.value) << places) // count, np.int32),
            (whole.shift + places).astype(np.int32),
        )
        expected = requantize(acc, divided, points[1], LOW, HIGH, "tflite_double")
        assert np.array_equal(found["reference"], expected)

        # The sum of what is stored is rescaled, and the zero point by itself, half away.
        real = np.float32(x_scale) / (np.float32(count) * np.float32(scale))
        shift = np.float32(points[0]) * np.float32(x_scale) / np.float32(scale)
        point = points[1] - int(shift + np.copysign(np.float32(0.5), shift))
        assert np.array_equal(found["optimized"], in_vectors(raw, real, point))

        # XNNPACK adds zero points in float32, the result's before the rounding.
        if points[0] == 0:
            real = np.float32(x_scale) / np.float32(scale) * (np.float32(1) / np.float32(count))
            scaled = np.rint(acc.astype(np.float32) * real + np.float32(points[1]))
            assert np.array_equal(found["xnnpack"], scaled.clip(LOW, HIGH))
        if points == (0, 0):
            float32 = rounding_mode("f32_rne").multipliers(real, 1.0)
            expected = requantize(acc, float32, 0, LOW, HIGH, "f32_rne")
            assert np.array_equal(found["xnnpack"], expected)


@pytest.mark.parametrize("window", [(4, 4), (7, 7), (5, 3), (2, 2), (1, 6)])
@pytest.mark.parametrize("size", [10_000, pytest.param(SIZE, marks=pytest.mark.slow)])
def test_average_pool_2d(size: int, window: tuple[int, int]) -> None:
    height, width = window
    x = stored(0, size // 100, height, width, 100)
    result = Tensor((len(x), 1, 1, 100), np.int8, 0.05, 3)
    content = model(
        "AVERAGE_POOL_2D",
        [Tensor(x.shape, np.int8, 0.05, 3)],
        result,
        table="Pool2DOptions",
        padding=1,
        strideW=1,
        strideH=1,
        filterWidth=width,
        filterHeight=height,
    )
    # Sums of what is stored: the zero point is not subtracted.
    acc = x.astype(np.int64).sum((1, 2), keepdims=True)
    away = "half_away", rounding_mode("half_away").multipliers(1.0, height * width)
    assert check(content, [x], acc, 0, dict.fromkeys(RESOLVERS, away)) == size


@pytest.mark.parametrize("points", [(3, 5), (0, 0), (-128, 127)])
def test_quantize_of_bytes(points: tuple[int, int]) -> None:
    # Vectors of 16, and eleven more.
    x = np.concatenate([np.arange(LOW, HIGH + 1), np.arange(-5, 6)]).astype(np.int8)
    ratios = [2.0**power for power in range(-7, 3)]
    ratios += np.random.default_rng(0).uniform(0.01, 3, 200).tolist()
    for ratio in ratios:
        scale = wide(0.1)
        x_scale = wide(ratio * scale)
        content = model(
            "QUANTIZE",
            [Tensor(x.shape, np.int8, x_scale, points[0])],
            Tensor(x.shape, np.int8, scale, points[1]),
            table="QuantizeOptions",
        )
        found = run(content, x)
        acc = x.astype(np.int64) - points[0]
        assert np.array_equal(found["optimized"], in_vectors(acc, x_scale / scale, points[1]))
        for resolver, mode in {"reference": "tflite_double", "xnnpack": "q8"}.items():
            multiplier = rounding_mode(mode).multipliers(x_scale, scale)
            expected = requantize(acc, multiplier, points[1], LOW, HIGH, mode)
            assert np.array_equal(found[resolver], expected), (resolver, ratio)


def test_quantize_of_floats() -> None:
    scale, rng = np.float32(0.0911), np.random.default_rng(0)
    ties = ((np.arange(-300, 300) + 0.5) * scale).astype(np.float32)
    near = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
    x = np.concatenate([ties, *near, rng.normal(0, 5, SIZE).astype(np.float32)])
    result = Tensor(x.shape, np.int8, float(scale), 5)
    content = model("QUANTIZE", [Tensor(x.shape, np.float32)], result, table="QuantizeOptions")
    found = run(content, x)
    quotient = x / scale
    whole = np.trunc(quotient)
    away = whole + np.copysign(np.abs(quotient - whole) >= 0.5, quotient)
    assert np.array_equal(found["reference"], np.clip(away + 5, LOW, HIGH))
    encoded = Affine.of(DType.I8, float(scale), 5).encode(x)
    assert np.array_equal(found["optimized"], encoded)
    assert np.array_equal(found["xnnpack"], encoded)


def test_add_is_made_of_rescalings() -> None:
    grid = np.meshgrid(np.arange(LOW, HIGH + 1), np.arange(LOW, HIGH + 1))
    x, y = (axis.reshape(-1).astype(np.int8) for axis in grid)
    mode = rounding_mode("tflite_double")
    for scales in [(0.05, 0.02, 0.06), (0.1, 0.05, 0.2), (0.0173, 0.9, 0.5), (0.3, 0.02, 0.017)]:
        x_scale, y_scale, scale = map(wide, scales)
        operands = [Tensor(x.shape, np.int8, x_scale, 3), Tensor(x.shape, np.int8, y_scale, -4)]
        content = model("ADD", operands, Tensor(x.shape, np.int8, scale, 5), table="AddOptions")
        found = run(content, x, y)
        steps = x.astype(np.int64) - 3, y.astype(np.int64) + 4
        twice = 2 * max(x_scale, y_scale)
        parts = [
            mode.apply(each << 20, mode.multipliers(one, twice))
            for each, one in zip(steps, (x_scale, y_scale), strict=True)
        ]
        out = mode.multipliers(twice, 2**20 * scale)
        expected = mode.requantize(parts[0] + parts[1], out, 5, LOW, HIGH)
        assert np.array_equal(found["reference"], expected)

        ratios = [np.float32(one) / np.float32(scale) for one in (x_scale, y_scale)]
        shift = 21 - int(np.frexp(max(ratios))[1])
        factors = [int(np.rint(np.ldexp(np.float64(ratio), shift))) for ratio in ratios]
        total = sum(each * factor for each, factor in zip(steps, factors, strict=True))
        once = ((total + (1 << (shift - 1))) >> shift) + 5
        assert np.array_equal(found["xnnpack"], np.clip(once, LOW, HIGH))
