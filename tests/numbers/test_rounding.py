"""The rounding modes against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qir.errors import QirError
from qir.numbers.common_shift import common_shift_multipliers
from qir.numbers.int32 import rounding_shift
from qir.numbers.rounding import (
    ROUNDINGS,
    Fixed31,
    Float32NearestEven,
    Multiplier,
    requantize,
    rounding_mode,
)
from tests.roundings import ANY_RATIO, near_multipliers

INT32 = st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**10), 2**10)
MANTISSA = st.just(0) | st.integers(2**30, 2**31 - 1)
SHIFT = st.integers(1, 62)
SCALE = st.floats(2.0**-60, 2.0**60, width=32)
NEAR_ONE = st.floats(2.0**-10, 2.0**5, width=32)


def one(value: int) -> np.ndarray[tuple[()], np.dtype[np.int64]]:
    return np.array(value, np.int64)


def fixed(value: int, shift: int) -> Multiplier:
    return Multiplier(np.array(value, np.int32), np.array(shift, np.int32))


def saturate(value: int, low: int = -(2**31), high: int = 2**31 - 1) -> int:
    return max(low, min(value, high))


def round_half_up(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


@given(INT32, MANTISSA, SHIFT)
@example(-(2**31), 2**31 - 1, 1)
@example(2**31 - 1, 2**31 - 1, 62)
@example(2**31 - 1, 2**30, 30)
@example(-(2**31), 2**30, 62)
def test_fixed31_rounds_the_exact_product_once(acc: int, value: int, shift: int) -> None:
    expected = saturate(round_half_up(Fraction(acc * value, 2**shift)))
    assert Fixed31().apply(one(acc), fixed(value, shift)) == expected


@given(INT32, MANTISSA, SHIFT, st.integers(-128, 127))
def test_saturation_cannot_be_seen_in_a_narrow_result(
    acc: int, value: int, shift: int, zero_point: int
) -> None:
    exact = round_half_up(Fraction(acc * value, 2**shift))
    result = requantize(one(acc), fixed(value, shift), zero_point, -128, 127)
    assert result == saturate(exact + zero_point, -128, 127)


@given(st.integers(-(2**20), 2**20), st.integers(1, 31), st.integers(-128, 127))
def test_fixed31_ties_go_up(half_steps: int, places: int, zero_point: int) -> None:
    tie = (2 * half_steps + 1) * 2 ** (places - 1)
    assume(abs(tie) < 2**31)
    result = requantize(one(tie), fixed(2**30, 30 + places), zero_point, -(2**31), 2**31 - 1)
    assert result == half_steps + 1 + zero_point


@given(SCALE, SCALE)
@example(2.0**-32, 1.0)
@example(1.0, 1.0)
@example(2.0**30 * (1 - 2.0**-24), 1.0)
def test_fixed31_multiplier_holds_31_bits_of_the_ratio(scale: float, output_scale: float) -> None:
    ratio = Fraction(scale) / Fraction(output_scale)
    assume(ratio < 2**30 * (1 - Fraction(1, 2**32)))
    multiplier = Fixed31().multipliers(scale, output_scale)
    Fixed31().check(multiplier)
    value, shift = int(multiplier.value), int(multiplier.shift)
    if value == 0:
        assert shift == 31
        assert ratio < Fraction(1, 2**32)
    else:
        # Half a unit of a value of at least 2^30, and the rounding of the float64 quotient.
        assert abs(Fraction(value, 2**shift) - ratio) <= ratio * Fraction(2**22 + 1, 2**53)


@given(INT32, SCALE, SCALE)
def test_fixed31_is_the_real_product_rounded(acc: int, scale: float, output_scale: float) -> None:
    ratio = Fraction(scale) / Fraction(output_scale)
    assume(ratio <= 1)
    multiplier = Fixed31().multipliers(scale, output_scale)
    result = int(Fixed31().apply(one(acc), multiplier))
    error = abs(acc) * ratio * Fraction(2**22 + 1, 2**53)
    if multiplier.value == 0:
        error = abs(acc) * ratio
    assert abs(result - acc * ratio) <= Fraction(1, 2) + error


def test_fixed31_multiplier_at_the_edges() -> None:
    scales = np.array(
        [2.0**-33, np.nextafter(2.0**-32, 0), 2.0**-32, 1.5 * 2.0**-32, 0.5, 1, 2.0**29]
    )
    multiplier = Fixed31().multipliers(scales, 1.0)
    # The float64 just below 2^-32 rounds up to it.
    half = 2**30
    assert multiplier.value.tolist() == [0, half, half, 3 * 2**29, half, half, half]
    assert multiplier.shift.tolist() == [31, 62, 62, 62, 31, 30, 1]
    assert Fixed31().apply(one(2**31 - 1), fixed(3 * 2**29, 62)) == 1


def test_multipliers_broadcast_per_channel() -> None:
    acc = np.arange(-12, 12).reshape(6, 4)
    scales = np.array([0.5, 0.25, 1.0, 2.0])
    multiplier = Fixed31().multipliers(scales, np.float64(0.5))
    assert multiplier.value.shape == multiplier.shift.shape == (4,)
    expected = np.clip(np.floor(acc * scales / 0.5 + 0.5) + 3, -8, 7)
    np.testing.assert_array_equal(requantize(acc, multiplier, 3, -8, 7), expected)


@given(INT32, st.floats(0, 2.0**90, width=32), st.integers(-128, 127))
@example(2**24 + 1, 1.0, 0)
@example(-(2**31), 2.0**90, 3)
@example(5, 0.5, 7)
@example(-5, 0.5, 7)
@example(2**31 - 1, 2.0**-149, 1)
def test_f32_rne_is_one_float32_multiply(acc: int, value: float, zero_point: int) -> None:
    # float64 holds acc and the product of two float32 values, so each np.float32 rounds once.
    product = np.float32(float(np.float32(float(acc))) * value)
    expected = saturate(round(float(product)) + zero_point, -128, 127)
    multiplier = Multiplier(np.array(value, np.float32), np.array(0, np.int32))
    assert requantize(one(acc), multiplier, zero_point, -128, 127, "f32_rne") == expected


def test_f32_rne_multiplier_is_formed_in_float32() -> None:
    rng = np.random.default_rng(0)
    x, w, out = rng.uniform(1e-3, 1e-1, (3, 4096)).astype(np.float32)
    multiplier = Float32NearestEven().multipliers(x.astype(np.float64) * w, out.astype(np.float64))
    np.testing.assert_array_equal(multiplier.value, x * w / out)
    assert multiplier.value.dtype == np.float32
    ratio = x.astype(np.float64) * w / out
    assert 0.2 < np.mean(multiplier.value != ratio.astype(np.float32)) < 0.3


@given(st.integers(-(2**62), 2**62), SHIFT)
def test_rounding_shift_rounds_half_up(acc: int, shift: int) -> None:
    assert rounding_shift(one(acc), shift) == round_half_up(Fraction(acc, 2**shift))


@given(st.data(), st.lists(NEAR_ONE, min_size=1, max_size=6), NEAR_ONE)
def test_common_shift_adds_with_one_rounding(
    data: st.DataObject, scales: list[float], output_scale: float
) -> None:
    assume(max(scales) < 512 * output_scale)
    magnitudes = data.draw(
        st.lists(st.integers(1, 255), min_size=len(scales), max_size=len(scales))
    )
    values = [data.draw(st.integers(-bound, bound)) for bound in magnitudes]
    multipliers, shift = common_shift_multipliers(scales, output_scale, magnitudes)

    guard = sum(m * bound for m, bound in zip(multipliers, magnitudes, strict=True))
    assert guard + 2 ** (shift - 1) < 2**31
    assert 1 <= shift <= 30

    total = sum(v * m for v, m in zip(values, multipliers, strict=True))
    real = sum(
        v * Fraction(s) / Fraction(output_scale) for v, s in zip(values, scales, strict=True)
    )
    error = Fraction(sum(magnitudes), 2 ** (shift + 1))
    assert abs(Fraction(total, 2**shift) - real) <= error < Fraction(1, 2)
    result = int(rounding_shift(one(total), shift))
    assert round_half_up(real - error) <= result <= round_half_up(real + error)


def test_common_shift_is_the_largest_that_int32_holds() -> None:
    assert common_shift_multipliers([1.0, 1.0], 1.0) == ([2**22, 2**22], 22)
    assert common_shift_multipliers([1.0, 1.0], 1.0, 1) == ([2**29, 2**29], 29)
    assert common_shift_multipliers([2.0**-40], 1.0) == ([0], 30)
    assert common_shift_multipliers([1.0, 0.5], 4.0, [255, 0]) == ([2**22, 2**21], 24)


def test_common_shift_refuses_a_ratio_out_of_reach() -> None:
    common_shift_multipliers([0.5, 8000.0], 1.0)
    message = (
        "scale ratio: expected one that an int32 sum resolves to half an output step, "
        "got operand 1 of 2 at 40000 times the output scale"
    )
    with pytest.raises(QirError) as caught:
        common_shift_multipliers([0.5, 20000.0], 0.5)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ROUNDINGS)
@given(
    accs=st.lists(INT32, min_size=2),
    scale=SCALE,
    output_scale=SCALE,
    zero_point=st.integers(0, 255),
)
def test_every_mode_keeps_what_its_class_promises(
    name: str, accs: list[int], scale: float, output_scale: float, zero_point: int
) -> None:
    mode, ratio = rounding_mode(name), Fraction(scale) / Fraction(output_scale)
    assert mode.name == name
    assume(ratio < 2**29)
    if name in ANY_RATIO:
        multiplier = mode.multipliers(scale, output_scale)
    else:
        multiplier = near_multipliers(name, float(ratio))
        value = Fraction(int(multiplier.value))
        ratio = 1 / value if name == "half_away" else value / 2 ** int(multiplier.shift)
    mode.check(multiplier)
    assert multiplier.value.dtype == mode.multiplier_type
    assert mode.has_shift or not np.any(multiplier.shift)
    sorted_accs = np.array(sorted(accs), np.int64)
    steps = mode.apply(sorted_accs, multiplier)
    assert np.all(np.diff(steps) >= 0), "monotone"
    assert steps.min() >= -(2**31)
    assert steps.max() < 2**31
    stored = mode.requantize(sorted_accs, multiplier, zero_point, 0, 255)
    assert np.array_equal(stored, np.clip(steps + zero_point, 0, 255))
    if mode.nearest:
        for acc, step in zip(sorted_accs.tolist(), steps.tolist(), strict=True):
            if abs(step) < 2**16:
                # Of acc, the ratio and their product; the scales are float32 already.
                assert abs(step - acc * ratio) <= Fraction(1, 2) + abs(acc * ratio) / 2**22


def test_misspelt_rounding_names_the_nearest() -> None:
    with pytest.raises(QirError) as caught:
        rounding_mode("fixed13")
    expected = (
        "rounding: expected dbl_away or f32_rne or fixed31 or half_away or pow2 or q8 or srdhm_up "
        "or tflite_double, got 'fixed13'; did you mean 'fixed31'?"
    )
    assert str(caught.value) == expected


BAD_SCALES = [
    ("fixed31", [1.0, 0.0], 1.0, "scale: expected finite and positive, got 0 at [1]"),
    ("f32_rne", 1.0, np.nan, "scale: expected finite and positive, got nan"),
    ("fixed31", [0.5, 2.0**30], 1.0, "scale ratio: expected below 2^30, got 1.07374e+09 at [1]"),
    ("fixed31", np.nextafter(2.0**30, 0), 1.0, "scale ratio: expected below 2^30, got 1.07374e+09"),
    ("fixed31", 1e300, 1e-300, "scale ratio: expected below 2^30, got inf"),
    ("f32_rne", 1e30, 1e-30, "scale ratio: expected finite in float32, got inf"),
    ("dbl_away", 1e300, 1e-300, "scale ratio: expected finite, got inf"),
    ("tflite_double", 2.0**30, 1.0, "scale ratio: expected below 2^30, got 1.07374e+09"),
    ("q8", [0.5, 127.999], 1.0, "scale ratio: expected below 128, got 127.999 at [1]"),
    (
        "pow2",
        [0.5, 0.75],
        1.0,
        "pow2: expected a scale ratio that is a power of two, got 0.75 at [1]",
    ),
    ("half_away", 2.0, 5.0, "half_away: expected a scale ratio of 1/n for a whole n, got 0.4"),
    ("half_away", 2.0, 1.0, "half_away: expected a scale ratio of 1/n for a whole n, got 2"),
]


@pytest.mark.parametrize(("rounding", "scale", "output_scale", "message"), BAD_SCALES)
def test_bad_scales_are_errors(
    rounding: str, scale: float | list[float], output_scale: float, message: str
) -> None:
    with pytest.raises(QirError) as caught:
        rounding_mode(rounding).multipliers(scale, output_scale)
    assert str(caught.value) == message


BAD_MULTIPLIERS = [
    ("fixed31", np.int32(5), 31, "fixed31: expected a multiplier of 0 or in [2^30, 2^31), got 5"),
    (
        "fixed31",
        np.array([0, 2**30], np.int32),
        [1, 63],
        "fixed31: expected a shift in [1, 62], got 63 at [1]",
    ),
    ("fixed31", np.float32(1), 31, "fixed31: expected an i32 multiplier, got float32"),
    ("f32_rne", np.float32(-1), 0, "f32_rne: expected a finite multiplier of at least 0, got -1"),
    ("f32_rne", np.float32(1), 3, "f32_rne: expected a shift of 0, got 3"),
    ("f32_rne", np.int32(1), 0, "f32_rne: expected an f32 multiplier, got int32"),
    (
        "tflite_double",
        np.int32(-1),
        31,
        "tflite_double: expected a multiplier of at least 0, got -1",
    ),
    ("srdhm_up", np.int32(1), 0, "srdhm_up: expected a shift in [1, 62], got 0"),
    ("dbl_away", np.float32(1), 0, "dbl_away: expected an f64 multiplier, got float32"),
    ("dbl_away", np.float64(-1), 0, "dbl_away: expected a finite multiplier of at least 0, got -1"),
    ("dbl_away", np.float64(1), 1, "dbl_away: expected a shift of 0, got 1"),
    ("q8", np.int32(2**15), 8, "q8: expected a multiplier in [0, 2^15), got 32768"),
    ("q8", np.int32(1), 9, "q8: expected a shift of 8, got 9"),
    ("pow2", np.int32(2**30 + 1), 31, "pow2: expected a multiplier of 0 or 2^30, got 1073741825"),
    ("half_away", np.int32(0), 0, "half_away: expected a divisor of at least 1, got 0"),
    ("half_away", np.int32(1), 1, "half_away: expected a shift of 0, got 1"),
    ("half_away", np.float64(1), 0, "half_away: expected an i32 divisor, got float64"),
]


@pytest.mark.parametrize(("rounding", "value", "shift", "message"), BAD_MULTIPLIERS)
def test_bad_multipliers_are_errors(
    rounding: str, value: np.ndarray[tuple[int], np.dtype[np.int32]], shift: int, message: str
) -> None:
    with pytest.raises(QirError) as caught:
        rounding_mode(rounding).check(Multiplier(np.asarray(value), np.asarray(shift, np.int32)))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ROUNDINGS)
def test_accumulators_beyond_int32_are_errors(name: str) -> None:
    multiplier = rounding_mode(name).multipliers(0.25, 1.0)
    with pytest.raises(QirError, match=r"expected the int32 range, got 2147483648 at \[1\]"):
        requantize(np.array([0, 2**31]), multiplier, 0, -128, 127, name)


def test_f32_rne_refuses_bounds_that_float32_rounds() -> None:
    multiplier = Float32NearestEven().multipliers(1.0, 1.0)
    requantize(one(0), multiplier, 0, -(2**24), 2**24, "f32_rne")
    with pytest.raises(QirError, match=r"expected bounds within 2\^24 of the zero point, got 2147"):
        requantize(one(0), multiplier, 0, -(2**31), 2**31 - 1, "f32_rne")


def high_mul(acc: int, value: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul as it is written, with C's division."""
    product = acc * value
    nudge = 2**30 if product >= 0 else 1 - 2**30
    quotient = abs(product + nudge) // 2**31
    return saturate(quotient if product + nudge >= 0 else -quotient)


def divide_by_power(value: int, places: int) -> int:
    """gemmlowp's RoundingDivideByPOT as it is written."""
    mask = (1 << places) - 1
    carries = (value & mask) > (mask >> 1) + (value < 0)
    return (value >> places) + int(carries)


@given(INT32, MANTISSA | st.integers(1, 2**30), SHIFT)
@example(-3 * 2**30, 2**30, 32)
@example(-(2**31), 2**31 - 1, 62)
def test_tflite_double_is_what_gemmlowp_does(acc: int, value: int, shift: int) -> None:
    left = max(31 - shift, 0)
    assume(abs(acc) << left < 2**31)
    expected = divide_by_power(high_mul(acc << left, value), max(shift - 31, 0))
    assert rounding_mode("tflite_double").apply(one(acc), fixed(value, shift)) == expected


@given(INT32, MANTISSA | st.integers(1, 2**30), SHIFT)
def test_srdhm_up_rounds_twice_and_up(acc: int, value: int, shift: int) -> None:
    left, places = max(31 - shift, 0), max(shift - 31, 0)
    assume(abs(acc) << left < 2**31)
    expected = round_half_up(Fraction(high_mul(acc << left, value), 2**places))
    assert rounding_mode("srdhm_up").apply(one(acc), fixed(value, shift)) == expected


@pytest.mark.parametrize("name", ["tflite_double", "srdhm_up"])
@given(INT32, MANTISSA, st.integers(1, 31))
def test_two_roundings_are_one_where_no_shift_is_left(
    name: str, acc: int, value: int, shift: int
) -> None:
    expected = Fixed31().apply(one(acc), fixed(value, shift))
    assert rounding_mode(name).apply(one(acc), fixed(value, shift)) == expected


def test_tflite_multipliers_round_half_away() -> None:
    # 31 bits and a half: to even below, away from zero above.
    ratio = (2**30 + 0.5) / 2**31
    assert int(rounding_mode("tflite_double").multipliers(ratio, 1.0).value) == 2**30 + 1
    assert int(Fixed31().multipliers(ratio, 1.0).value) == 2**30
    for name in ("tflite_double", "srdhm_up"):
        # QuantizeMultiplier takes an exponent of -31 and none below.
        least = rounding_mode(name).multipliers([2.0**-32, np.nextafter(2.0**-32, 0), 2.0**-33], 1)
        assert least.value.tolist() == [2**30, 2**30, 0]
        assert least.shift.tolist() == [62, 62, 31]


def test_ties_go_where_the_modes_say() -> None:
    acc = np.arange(-7, 8)
    halves = {name: near_multipliers(name, 0.5) for name in ROUNDINGS}
    found = {name: ROUNDINGS[name].apply(acc, halves[name]).tolist() for name in ROUNDINGS}
    up = [-3, -3, -2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    away = [-4, -3, -3, -2, -2, -1, -1, 0, 1, 1, 2, 2, 3, 3, 4]
    even = [-4, -3, -2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2, 3, 4]
    assert found == {
        "dbl_away": away,
        "f32_rne": even,
        "fixed31": up,
        "half_away": away,
        "pow2": up,
        "q8": up,
        "srdhm_up": up,
        "tflite_double": up,
    }
    # A quarter of 4k + 2 is a tie of the second rounding; one of 4k + 1 is a tie of the first.
    quarter = near_multipliers("tflite_double", 0.25)
    assert ROUNDINGS["tflite_double"].apply(4 * acc + 2, quarter).tolist() == [
        round_half_away(Fraction(2 * int(value) + 1, 2)) for value in acc
    ]
    assert ROUNDINGS["tflite_double"].apply(4 * acc + 1, quarter).tolist() == [
        round_half_away(Fraction(2 * int(value) + 1, 2)) for value in acc
    ]


def round_half_away(value: Fraction) -> int:
    magnitude = floor(abs(value) + Fraction(1, 2))
    return magnitude if value >= 0 else -magnitude


@given(INT32, st.integers(1, 2**31 - 1) | st.integers(1, 300))
def test_half_away_is_the_quotient_of_integers(acc: int, divisor: int) -> None:
    multiplier = rounding_mode("half_away").multipliers(1.0, divisor)
    expected = round_half_away(Fraction(acc, divisor))
    assert rounding_mode("half_away").apply(one(acc), multiplier) == expected


@given(INT32, st.floats(2.0**-40, 2.0**8))
def test_dbl_away_rounds_the_float64_product(acc: int, ratio: float) -> None:
    expected = saturate(round_half_away(Fraction(acc * ratio)))
    multiplier = rounding_mode("dbl_away").multipliers(ratio, 1.0)
    assert rounding_mode("dbl_away").apply(one(acc), multiplier) == expected
