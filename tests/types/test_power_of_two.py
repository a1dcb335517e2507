"""Powers of two: constraint C11, rounding in the logarithmic domain, integer steps."""

from fractions import Fraction

import numpy as np
import pytest

from qir.errors import QirError
from qir.types import Array, DType, FrozenArray, PowerOfTwo, TensorType

CODES = [PowerOfTwo.of(bits, 0.375, each) for bits in range(2, 9) for each in (1, 2, 4)]


def test_the_sign_is_the_highest_bit_and_0_has_no_exponent() -> None:
    code = PowerOfTwo.of(4, 0.5)
    stored = np.arange(16, dtype=np.uint8)
    assert code.steps(stored).tolist() == [
        *(0, 1, 2, 4, 8, 16, 32, 64),
        *(0, -1, -2, -4, -8, -16, -32, -64),
    ]
    assert np.array_equal(code.decode(stored), code.steps(stored) * np.float32(0.5))
    assert str(TensorType((3,), PowerOfTwo.of(3, 0.5, 2))) == (
        "u4[3]{kind=power_of_two, scale=0.5, bits=3, per_octave=2}"
    )


@pytest.mark.parametrize("code", CODES, ids=str)
def test_powers_are_nearest_to_those_of_the_base(code: PowerOfTwo) -> None:
    n = code.per_octave
    for exponent, level in enumerate(code.levels[1 : 2 ** (code.width - 1)]):
        assert level == np.float32(level)
        # level^n is 2^exponent within n half units in the last place of float32, and the n - 1
        # roundings of the others.
        exact = Fraction(2) ** exponent
        assert abs(Fraction(float(level)) ** n - exact) <= exact * n * Fraction(1, 2**24) * 2
    assert np.array_equal(code.encode(code.decode(code.order)), code.order)


@pytest.mark.parametrize("code", CODES, ids=str)
def test_numbers_are_rounded_in_the_logarithmic_domain(code: PowerOfTwo) -> None:
    rng, n = np.random.default_rng(0), code.per_octave
    exponents = rng.uniform(-3, min(2 ** (code.width - 1) / n + 2, 127), 4096)
    real = (np.exp2(exponents) * 0.375).astype(np.float32)
    wanted = np.log2(real.astype(np.float64) / 0.375) * n
    safe = np.abs(wanted - np.rint(wanted)) < 0.5 - 1e-9  # what log2 can be wrong about
    index = np.clip(np.rint(wanted) + 1, 0, 2 ** (code.width - 1) - 1)
    assert np.array_equal(code.encode(real)[safe], index[safe])
    assert np.array_equal(code.encode(-real)[safe], index[safe] + 2 ** (code.width - 1))
    assert np.sum(safe) > 4000


def test_what_is_too_small_is_0_and_what_is_too_large_the_greatest_power() -> None:
    code = PowerOfTwo.of(4, 1.0)
    real = [0.0, -0.0, 0.70, -0.70, 0.71, 90.0, 1e30, np.inf, -np.inf, np.nan]
    assert code.encode(real).tolist() == [0, 8, 0, 8, 1, 7, 7, 7, 15, 0]


@pytest.mark.parametrize(
    ("bits", "per_octave", "bounds"),
    [
        *((2, 1, (-1, 1)), (4, 1, (-64, 64)), (5, 1, (-(2**14), 2**14))),
        *((6, 1, None), (8, 1, None), (4, 2, None), (4, 4, None)),
    ],
)
def test_steps_are_integers_of_at_most_16_bits(
    bits: int, per_octave: int, bounds: tuple[int, int] | None
) -> None:
    code = PowerOfTwo.of(bits, 1.0, per_octave)
    assert code.step_bounds == bounds
    if bounds is None:
        with pytest.raises(QirError, match="dequantize it"):
            code.steps(np.zeros(1, np.uint8))


@pytest.mark.parametrize(
    ("storage", "bits", "message"),
    [
        (DType.I4, None, "got 4 in i4"),
        (DType.U4, 5, "got 5 in u4"),
        (DType.U8, 1, "got 1 in u8"),
        (DType.U16, None, "got 16 in u16"),
    ],
)
def test_c11_storage_is_unsigned_and_wide_enough(
    storage: DType, bits: int | None, message: str
) -> None:
    with pytest.raises(QirError, match=f"C11: expected a code of 2 to 8 bits in .*{message}"):
        PowerOfTwo(storage, FrozenArray(1.0), bits)


def test_c11_an_octave_has_1_2_or_4_exponents() -> None:
    with pytest.raises(QirError, match="C11: expected 1, 2 or 4 exponents an octave, got 3"):
        PowerOfTwo.of(4, 1.0, 3)


def test_c7_powers_are_normal_numbers() -> None:
    PowerOfTwo.of(8, 2.0**-125)
    with pytest.raises(QirError, match=r"C7: expected scales between 2.3509887e-38 and 2.0 "):
        PowerOfTwo.of(8, 4.0)


@pytest.mark.parametrize("per_octave", [1, 2, 4])
def test_fit_chooses_powers_of_the_base_with_the_least_error(per_octave: int) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(64, 6)) * np.exp2(np.arange(6) * 3)
    code = PowerOfTwo.fit(weights, (1, 6), 4, per_octave=per_octave)
    assert code.axis == 1
    exponents = np.log2(code.scale.array.astype(np.float64)) * per_octave
    assert np.allclose(exponents, np.rint(exponents), atol=1e-6)

    def error(power: int) -> Array:
        scale = code.scale.array * 2.0 ** (power / per_octave)
        other = PowerOfTwo.of(4, scale, per_octave)
        squares = np.square(other.decode(other.encode(weights)) - weights)
        total: Array = squares.sum(axis=0)
        return total

    assert np.all(error(0) <= np.minimum(error(-1), error(1)) * (1 + 1e-6))
