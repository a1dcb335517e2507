"""Codes against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qir.types import SMALLEST_SCALE, Affine, Codebook, DType

SCALES = st.floats(SMALLEST_SCALE, 1 / SMALLEST_SCALE, width=32) | st.floats(
    2.0**-10, 2.0**10, width=32
)
REALS = st.floats(width=32, allow_nan=False)


@st.composite
def codes(draw):
    """Affine codes per tensor of at most 16 bits."""
    storage = draw(st.sampled_from([dtype for dtype in DType if dtype.is_integer]))
    if storage.bits > 16:
        return Affine.of(storage, draw(SCALES))
    low, high = storage.bounds
    low = draw(st.just(low) | st.integers(low, high - 1))
    high = draw(st.just(high) | st.integers(low + 1, high))
    zero_point = draw(st.integers(low, high))
    return Affine.of(storage, draw(SCALES), zero_point, bounds=(low, high))


FEW_BITS = codes().filter(lambda code: code.storage.bits <= 16)


def exact_steps(code: Affine, real: float) -> Fraction:
    return Fraction(real) / Fraction(float(code.scale.array))


@given(codes(), REALS)
def test_encode_rounds_to_the_nearest_code(code, real):
    low, high = code.range
    high = min(high, 2**63 - 1024)  # the greatest float64 that i64 holds
    stored = int(code.encode(real))
    assert low <= stored <= high
    if not np.isfinite(real):
        assert stored == (high if real > 0 else low)
        return
    steps = exact_steps(code, real)
    # The float32 reciprocal and the float32 product are each off by 2^-24 of the result.
    slack = abs(steps) * Fraction(2) ** (-23 if code.storage.bits <= 16 else -52)
    nearest = Fraction(stored - int(code.zero_points))
    if low < stored < high:
        assert abs(nearest - steps) <= Fraction(1, 2) + slack
    elif stored == low:
        assert nearest - steps >= -Fraction(1, 2) - slack
    else:
        assert steps - nearest >= -Fraction(1, 2) - slack


@given(codes(), REALS, REALS)
def test_encode_never_decreases(code, a, b):
    least, greatest = code.encode(sorted([a, b]))
    assert least <= greatest


@given(FEW_BITS, st.data())
def test_decode_and_encode_give_the_code_back(code, data):
    stored = data.draw(st.integers(*code.range))
    real = code.decode(stored)
    assume(np.isfinite(real))
    assert int(code.encode(real)) == stored


@given(FEW_BITS, st.data())
@example(Affine.of(DType.U16, 0.1), None)
def test_decode_is_within_half_a_unit_in_the_last_place(code, data):
    stored = data.draw(st.integers(*code.range)) if data else 65535
    exact = (stored - int(code.zero_points)) * Fraction(float(code.scale.array))
    real = code.decode(stored)
    if np.isfinite(real):
        assert abs(Fraction(float(real)) - exact) <= abs(exact) * Fraction(2) ** -24
    else:
        assert abs(exact) > Fraction(float(np.finfo(np.float32).max))


@given(codes(), st.lists(st.sampled_from([np.nan, 0.0, -0.0, 1e-45, -1e-45]), min_size=1))
def test_nothing_and_no_number_are_the_zero_point(code, reals):
    stored = code.encode(np.array(reals, np.float32))
    wide = code.storage.bits > 16  # whose scale may be as small as a denormal number
    assert wide or set(stored.tolist()) == {int(code.zero_points)}


@given(
    st.lists(st.integers(-300, 300), min_size=2, max_size=16, unique=True),
    st.integers(1, 300),
    st.floats(2.0**-10, 2.0**10, width=32),
    st.floats(-(2.0**20), 2.0**20, width=32),
)
def test_codebooks_take_the_nearest_level(levels, denominator, scale, real):
    table = [np.float32(level / denominator) for level in sorted(levels)]
    code = Codebook.of(DType.U4, scale, table)
    reals = [Fraction(float(level)) * Fraction(scale) for level in table]
    chosen = abs(reals[int(code.encode(real))] - Fraction(real))
    # The float64 quotient is off by 2^-53 of itself, of which there are at most 2^30 steps.
    assert chosen <= min(abs(level - Fraction(real)) for level in reals) + Fraction(scale) / 2**21


@given(
    st.lists(SCALES, min_size=2, max_size=4),
    st.lists(st.integers(-128, 127), min_size=4, max_size=4),
    st.integers(0, 2),
    st.integers(1, 2),
    st.data(),
)
def test_channels_and_blocks_are_codes_of_their_own(scales, points, axis, block, data):
    along = [-1 if place == axis else 1 for place in range(3)]
    zero_points = points[: len(scales)]
    code = Affine.of(DType.I8, np.reshape(scales, along), np.reshape(zero_points, along))
    shape = [2, 2, 2]
    shape[axis] = block * len(scales)
    numbers = st.lists(REALS, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
    real = np.array(data.draw(numbers), np.float32).reshape(shape)
    for channel, (scale, point) in enumerate(zip(scales, zero_points, strict=True)):
        part = np.arange(channel * block, (channel + 1) * block)
        alone, stored = Affine.of(DType.I8, scale, point), code.encode(real).take(part, axis)
        assert np.array_equal(stored, alone.encode(real.take(part, axis)))
        assert np.array_equal(code.decode(code.encode(real)).take(part, axis), alone.decode(stored))


@pytest.mark.parametrize("varying", [(), (0,), (1,), (0, 1)])
def test_many_numbers_are_encoded_as_few_are(varying: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(0, 30, (700, 800)).astype(np.float32)
    sizes = [real.shape[axis] if axis in varying else 1 for axis in range(2)]
    scale = rng.uniform(0.1, 1, sizes).astype(np.float32)
    points = rng.integers(-9, 9, sizes).astype(np.int32)
    stored = Affine.of(DType.I8, scale, points).encode(real)
    for row in range(0, 700, 50):
        own = slice(row, row + 1) if 0 in varying else slice(None)
        few = Affine.of(DType.I8, scale[own], points[own]).encode(real[row : row + 1])
        assert np.array_equal(stored[row : row + 1], few)
