"""The XLA arithmetic against its numpy definitions, integer for integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from qir.backends.xla import arithmetic
from qir.errors import QirError
from qir.numbers import int32, rounding
from qir.numbers.rounding import Multiplier
from qir.types import Affine, DType

Ints = NDArray[np.int32]

RESULTS = [
    (np.int8, -128, 127, 0),
    (np.int8, -127, 95, -77),
    (np.uint8, 0, 255, 131),
    (np.int16, -(2**15), 2**15 - 1, 12345),
    (np.int32, -(2**31), 2**31 - 1, 0),
    (np.int32, -(2**31), 2**31 - 1, -1234567),
]
NARROW_RESULTS = RESULTS[:4]


def run(function: Callable[..., jax.Array], *arguments: NDArray[Any]) -> NDArray[Any]:
    """Runs a function in one program and checks that the program holds nothing of 64 bits."""
    lowered = jax.jit(function).lower(*arguments)
    text = lowered.as_text()
    assert not any(wide in text for wide in ("i64>", "ui64", "f64", "custom_call"))
    return np.asarray(lowered.compile()(*arguments))


def accumulators(channels: int, rows: int = 1024) -> Ints:
    """All of int32, small values as real models have them, and the edges, in every channel."""
    rng = np.random.default_rng(channels)
    anywhere = rng.integers(-(2**31), 2**31, (rows, channels))
    small = anywhere >> rng.integers(0, 32, (rows, channels))
    edges = np.array([-(2**31), -(2**31) + 1, -(2**16), -1, 0, 1, 2**16 - 1, 2**24 + 1, 2**31 - 1])
    edges = edges.repeat(channels).reshape(-1, channels)
    return np.concatenate([anywhere, small, edges]).astype(np.int32)


def fixed31_cases() -> dict[str, Multiplier]:
    every_shift = np.arange(1, 63, dtype=np.int32)
    random = np.random.default_rng(0).integers(2**30, 2**31, 62, np.int32)
    constants = [np.full(62, value, np.int32) for value in (0, 2**30, 2**31 - 1)]
    return {
        "every shift": Multiplier(np.concatenate([random, *constants]), np.tile(every_shift, 4)),
        "shifts from 33": Multiplier(random[:30], every_shift[32:]),
        "shifts to 32": Multiplier(random[:32], every_shift[:32]),
        "shifts 32 and 33": Multiplier(random[:2], every_shift[31:33]),
        "per tensor": Multiplier(random[0], np.array(38, np.int32)),
        "identity": rounding.Fixed31().multipliers(0.37, 0.37),
    }


@pytest.mark.parametrize(("dtype", "low", "high", "zero_point"), RESULTS)
@pytest.mark.parametrize("case", fixed31_cases())
def test_fixed31(case: str, dtype: type[np.integer], low: int, high: int, zero_point: int) -> None:
    multiplier = fixed31_cases()[case]
    value, shift = multiplier.value, multiplier.shift
    acc = accumulators(channels=value.size)
    expected = rounding.requantize(acc, multiplier, zero_point, low, high)

    def constant(acc: jax.Array) -> jax.Array:
        return arithmetic.requantize_scaled(acc, value, shift, zero_point, low, high, dtype)

    def traced(acc: jax.Array, value: jax.Array, shift: jax.Array) -> jax.Array:
        return arithmetic.requantize_scaled(acc, value, shift, zero_point, low, high, dtype)

    def ranged(acc: jax.Array, value: jax.Array, places: jax.Array) -> jax.Array:
        known = (int(shift.min()), int(shift.max()))
        return arithmetic.requantize_scaled(
            acc, value, places, zero_point, low, high, dtype, shift_range=known
        )

    for result in (
        run(constant, acc),
        run(traced, acc, value, shift),
        run(ranged, acc, value, shift),
    ):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)


def test_fixed31_ties() -> None:
    places = np.arange(1, 25, dtype=np.int32)
    acc = ((2 * np.arange(-64, 64)[:, None] + 1) << (places - 1)).astype(np.int32)
    value, shift = np.full(24, 2**30, np.int32), 30 + places

    result = run(
        lambda acc: arithmetic.requantize_scaled(acc, value, shift, 3, -128, 127, np.int8), acc
    )
    np.testing.assert_array_equal(result[:, 0], np.arange(-64, 64) + 4)
    expected = rounding.requantize(acc, Multiplier(value, shift), 3, -128, 127)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_fixed31_zero_points_per_channel(dtype: type[np.signedinteger]) -> None:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    acc = accumulators(channels=5)
    multiplier = rounding.Fixed31().multipliers(np.geomspace(1e-9, 2, 5), 1.0)
    zero_point = np.array([low, low // 3, 0, high // 3, high])
    result = run(
        lambda acc: arithmetic.requantize_scaled(
            acc, multiplier.value, multiplier.shift, zero_point, low, high, dtype
        ),
        acc,
    )
    expected = rounding.requantize(acc, multiplier, zero_point, low, high)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("values", "shifts", "multiplies"),
    [([2**30, 2**31 - 1], [33, 50], 4), ([2**30, 0], [40, 31], 4), ([2**30, 2**30], [40, 32], 5)],
)
def test_fixed31_multiplies(values: list[int], shifts: list[int], multiplies: int) -> None:
    def requantize(acc: jax.Array) -> jax.Array:
        value, shift = np.array(values), np.array(shifts)
        return arithmetic.requantize_scaled(acc, value, shift, 0, -128, 127, np.int8)

    text = jax.jit(requantize).lower(np.zeros((3, 2), np.int32)).as_text()
    assert text.count("stablehlo.multiply") == multiplies


def test_fixed31_refuses_a_zero_point_out_of_reach() -> None:
    message = r"zero point: expected within 2\^31 of \[5, 2147483647\], got -2147483648"
    with pytest.raises(QirError, match=message):
        arithmetic.requantize_scaled(
            jnp.zeros(1, jnp.int32), 2**30, 30, -(2**31), 5, 2**31 - 1, np.int32
        )


FLOAT_MULTIPLIERS = {
    "spread": np.geomspace(2.0**-40, 2.0**4, 45),
    "round": 1 / np.array([400, 3, 10, 7, 2, 1, 0.5]),
    "denormal": np.array([2.0**-149, 2.0**-127, 2.0**-126]),
    "overflowing": np.array([2.0**127, 1e38]),
    "zero": np.array(0),
    "per tensor": np.array(2.4e-4),
}


@pytest.mark.parametrize(("dtype", "low", "high", "zero_point"), NARROW_RESULTS)
@pytest.mark.parametrize("case", FLOAT_MULTIPLIERS)
def test_f32_rne(case: str, dtype: type[np.integer], low: int, high: int, zero_point: int) -> None:
    value = FLOAT_MULTIPLIERS[case].astype(np.float32)
    acc = accumulators(channels=value.size)
    multiplier = Multiplier(value, np.zeros(value.shape, np.int32))
    expected = rounding.requantize(acc, multiplier, zero_point, low, high, "f32_rne")

    def constant(acc: jax.Array) -> jax.Array:
        return arithmetic.requantize_float32(acc, value, zero_point, low, high, dtype)

    def traced(acc: jax.Array, value: jax.Array) -> jax.Array:
        return arithmetic.requantize_float32(acc, value, zero_point, low, high, dtype)

    for result in (run(constant, acc), run(traced, acc, value)):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)


def test_f32_rne_ties() -> None:
    acc = np.arange(-(2**15), 2**15, dtype=np.int32)[:, None]
    value = (2.0 ** -np.arange(1, 9)).astype(np.float32)
    result = run(
        lambda acc: arithmetic.requantize_float32(acc, value, 3, -(2**15), 2**15 - 1, np.int16), acc
    )
    expected = np.clip(np.rint(acc * value.astype(np.float64)) + 3, -(2**15), 2**15 - 1)
    np.testing.assert_array_equal(result, expected)


def test_rounding_shift() -> None:
    acc, shift = accumulators(channels=31), np.arange(1, 32, dtype=np.int32)
    expected = int32.rounding_shift(acc, shift)
    np.testing.assert_array_equal(
        run(lambda acc: arithmetic.rounding_shift(acc, shift), acc), expected
    )
    np.testing.assert_array_equal(run(arithmetic.rounding_shift, acc, shift), expected)


CODES = {
    "i8": Affine.of(DType.I8, 0.0478, -7),
    "narrow": Affine.of(DType.I8, 0.1, 0, bounds=(-127, 127)),
    "u8": Affine.of(DType.U8, 1 / 3, 131),
    "i16": Affine.of(DType.I16, 2.0**-9, 11),
    "per channel": Affine.of(DType.I8, np.geomspace(2.0**-125, 2.0**118, 8).reshape(1, 8)),
    "zero points": Affine.of(
        DType.I8, np.linspace(0.1, 0.4, 8).reshape(1, 8), np.arange(-4, 4).reshape(1, 8)
    ),
}


def quantize(x: jax.Array, code: Affine) -> jax.Array:
    low, high = code.range
    return arithmetic.quantize(
        x, code.inverse_scale, code.zero_points, low, high, code.storage.numpy
    )


def floats(code: Affine) -> NDArray[np.float32]:
    """Values across the code's range, ties, denormals, infinities and NaN, in every channel."""
    rng = np.random.default_rng(1)
    scale = np.broadcast_to(code.scale.array, (1, 8)).astype(np.float64)
    steps = np.concatenate([rng.uniform(-300, 300, 4096), np.arange(-300, 300) / 2])
    specials = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1.1e-38, 3e38, -3e38])
    with np.errstate(over="ignore"):
        scaled = (steps[:, None] * scale).astype(np.float32)
    return np.concatenate([scaled, np.repeat(specials[:, None], 8, 1)]).astype(np.float32)


@pytest.mark.parametrize("name", CODES)
def test_quantize(name: str) -> None:
    code, x = CODES[name], floats(CODES[name])
    result = run(lambda x: quantize(x, code), x)
    assert result.dtype == code.storage.numpy
    np.testing.assert_array_equal(result, code.encode(x))


def dequantize(q: jax.Array, zero_point: int, scale: float | NDArray[np.float32]) -> jax.Array:
    return (q.astype(jnp.int32) - zero_point).astype(jnp.float32) * scale


def test_quantize_is_the_same_inside_another_program() -> None:
    coarse = Affine.of(DType.I8, 0.0478, -7)
    # Every odd number is a tie up to the rounding of each multiply, so folding the two shows.
    fine = Affine.of(DType.I16, coarse.scale.array / 2)
    q = np.arange(-250, 250, dtype=np.int16)

    def round_trip(q: jax.Array) -> jax.Array:
        return quantize(dequantize(q, 0, fine.scale.array), coarse)

    np.testing.assert_array_equal(run(round_trip, q), coarse.encode(fine.decode(q)))


def test_x64_flag_changes_nothing() -> None:
    acc = accumulators(channels=30)
    multiplier = fixed31_cases()["shifts from 33"]

    def program(acc: jax.Array, value: jax.Array, shift: jax.Array) -> jax.Array:
        q = arithmetic.requantize_scaled(acc, value, shift, 5, -128, 127, np.int8)
        x = dequantize(q, 5, 0.25)
        y = quantize(x, CODES["u8"])
        z = arithmetic.requantize_float32(y.astype(jnp.int32), 0.7, 3, -128, 127, np.int8)
        return arithmetic.rounding_shift(z.astype(jnp.int32), 2)

    narrow = run(program, acc, multiplier.value, multiplier.shift)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(run(program, acc, multiplier.value, multiplier.shift), narrow)


def test_vmap_over_the_batch() -> None:
    x = floats(CODES["u8"])
    result = run(jax.vmap(lambda row: quantize(row, CODES["u8"])), x)
    np.testing.assert_array_equal(result, CODES["u8"].encode(x))
