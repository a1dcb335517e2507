"""Codes whose scales are chosen from numbers: every kind, per tensor, channel and block."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from qir.errors import QirError
from qir.types import (
    CODES,
    MXFP4,
    NVFP4,
    Affine,
    Array,
    Code,
    Codebook,
    DType,
    Float8E4M3,
    Float8E5M2,
    LevelCode,
    PowerOfTwo,
    TensorType,
)

FREE: tuple[type[Code], ...] = (Affine, Codebook, PowerOfTwo, Float8E4M3, Float8E5M2)
BLOCKED: dict[type[Code], int] = {MXFP4: 32, NVFP4: 16}
PARTS = [(), (1, 6), (64, 1), (2, 6), (4, 2)]


def weights() -> Array:
    """Numbers of columns and rows of very different size, a column of zeros among them."""
    rng = np.random.default_rng(0)
    found: Array = rng.normal(size=(64, 6)) * np.exp2(rng.integers(-9, 9, (64, 1)))
    found[:, 2] = 0
    return found.astype(np.float32)


def decibels(code: Code, array: Array) -> float:
    """Returns the signal-to-noise ratio of what a code makes of an array."""
    error = code.decode(code.encode(array)).astype(np.float64) - array
    return float(10 * np.log10(np.sum(np.square(array, dtype=np.float64)) / np.sum(error**2)))


def test_every_kind_is_tested() -> None:
    assert {*FREE, *BLOCKED} == set(CODES.values())


@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize("kind", FREE, ids=lambda kind: kind.kind)
def test_codes_cover_the_numbers_of_each_part(kind: type[Code], parts: tuple[int, ...]) -> None:
    array = weights()
    code = kind.fit(array, parts)
    assert code.scale.array.shape == parts
    TensorType(array.shape, code)
    # The least of them is 4 bits with levels that are an octave apart.
    assert decibels(code, array) > 10
    # k-means need not have a level 0.
    assert kind is Codebook or not np.any(code.decode(code.encode(array))[:, 2])


@pytest.mark.parametrize("kind", BLOCKED, ids=lambda kind: kind.kind)
def test_codes_of_blocks_cover_the_numbers_of_each(kind: type[Code]) -> None:
    array, block = weights(), BLOCKED[kind]
    for turned, parts in ((array, (64 // block, 6)), (array.T, (6, 64 // block))):
        code = kind.fit(turned, parts)
        assert code.grid == parts
        TensorType(turned.shape, code)
        assert decibels(code, turned) > 12
    with pytest.raises(QirError, match=f"expected a scale for each {block} numbers along one axis"):
        kind.fit(array)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 2.0**-115, 2.0**100, 3e38])
@pytest.mark.parametrize("kind", [*FREE, *BLOCKED], ids=lambda kind: kind.kind)
def test_numbers_of_any_size_have_a_code(kind: type[Code], size: float) -> None:
    """Those that no scale reaches become 0 or the greatest number, and nothing is infinite."""
    array = np.float32(size) * np.tile(np.array([1, -1, 0, 0.5], np.float32), (64, 1))
    code = kind.fit(array, (64 // BLOCKED[kind], 4) if kind in BLOCKED else (1, 4))
    real = code.decode(code.encode(array))
    assert np.all(np.isfinite(real))
    assert np.all(real * np.sign(array) >= 0)
    if 1e-30 < size < 1e37 and kind is not Codebook:
        np.testing.assert_allclose(real, array, rtol=2**-3)


@pytest.mark.parametrize("kind", [*FREE, *BLOCKED], ids=lambda kind: kind.kind)
def test_what_does_not_fit_is_refused(kind: type[Code]) -> None:
    parts = (64 // BLOCKED.get(kind, 1), 6)
    for bad in (np.inf, np.nan):
        with pytest.raises(QirError, match="expected finite numbers to fit a code to"):
            kind.fit(np.full((64, 6), bad), parts)
    with pytest.raises(QirError, match=r"expected (parts that divide|a scale for each)"):
        kind.fit(weights(), (5, 1))
    with pytest.raises(QirError, match=r"expected (a width of \d|[48] bits, which kind)"):
        kind.fit(weights(), parts, 17)


@pytest.mark.parametrize("bits", [-1, 0, 100, 10**9, 2.5, "4"])
@pytest.mark.parametrize("kind", [*FREE, *BLOCKED], ids=lambda kind: kind.kind)
def test_widths_that_no_kind_has_are_refused(kind: type[Code], bits: Any) -> None:
    parts = (64 // BLOCKED.get(kind, 1), 6)
    with pytest.raises(QirError, match=r"expected (a width of \d|[48] bits, which kind)"):
        kind.fit(weights(), parts, bits)


@pytest.mark.parametrize("array", [["a"], [None], [1j], [[1], [2, 3]], [10**30]], ids=str)
@pytest.mark.parametrize("kind", [*FREE, *BLOCKED], ids=lambda kind: kind.kind)
def test_what_is_no_array_of_real_numbers_is_refused(kind: type[Code], array: Any) -> None:
    message = "expected an array, got lists|expected real numbers|expected a scale for each"
    with pytest.raises(QirError, match=message):
        kind.fit(array)


@pytest.mark.parametrize(
    "levels",
    [[], 3, [0], [1], [1, 1], [2, 1], [[1, 2]], ["a"], [None], [1.0, np.nan], [[1], [2, 3]]],
    ids=str,
)
def test_levels_that_are_none_are_refused(levels: Any) -> None:
    with pytest.raises(QirError, match=r"code: C(8|10): expected "):
        Codebook.fit(weights(), levels=levels)


@pytest.mark.parametrize("bits", range(2, 17))
def test_affine_codes_are_symmetric_and_reach_the_greatest_magnitude(bits: int) -> None:
    array = weights()
    code = Affine.fit(array, (1, 6), bits)
    greatest = 2 ** (bits - 1) - 1
    assert (code.range, code.zero_point) == ((-greatest, greatest), 0)
    stored = np.abs(code.encode(array).astype(int)).max(axis=0)
    assert stored.tolist() == [greatest, greatest, 0, greatest, greatest, greatest]


def test_two_levels_are_as_good_as_float_scales_and_have_steps() -> None:
    array = np.random.default_rng(1).standard_t(4, (256, 8)).astype(np.float32)
    blocks = Affine.fit(array, (8, 8), 4)
    code = blocks.in_two_levels((1, 8))
    assert code.scale.array.shape == (1, 8)
    assert code.multipliers is not None
    assert code.multipliers.array.max() == 255
    assert code.step_bounds == (-7 * 255, 7 * 255)
    # A multiplier is off by 1/2 at most: 1/510 of the greatest, 1/50 of one that is 25.
    assert abs(decibels(code, array) - decibels(blocks, array)) < 0.1
    few = blocks.in_two_levels((1, 8), most=18)
    assert few.step_bounds == (-126, 126)
    with pytest.raises(QirError, match="expected scales of one level"):
        code.in_two_levels()


@pytest.mark.parametrize("options", [{}, {"levels": "nf4"}, {"levels": "apot4"}, {"bits": 2}])
def test_codebooks_have_the_levels_asked_for(options: dict[str, Any]) -> None:
    array = weights()[:, :2]
    code = Codebook.fit(array, (1, 2), **options)
    if "levels" in options:
        named = Codebook.named(options["levels"], 1.0)
        assert code.table == named.table
        assert np.array_equal(code.decode(code.encode(array)).max(), array.max())
    else:
        assert len(code.levels) == 2 ** options.get("bits", 4)


# Max (1960), "Quantizing for Minimum Distortion", table I: mean squared error for a normal
# distribution, in decibels.
LLOYD_MAX = {1: 4.40, 2: 9.30, 3: 14.62, 4: 20.22, 5: 26.01}


@pytest.mark.parametrize("bits", LLOYD_MAX)
def test_levels_that_fit_are_those_of_lloyd_and_max(bits: int) -> None:
    array = np.random.default_rng(2).normal(size=2**17)
    code = Codebook.fit(array, bits=bits)
    assert decibels(code, array) == pytest.approx(LLOYD_MAX[bits], abs=0.05)


def test_few_different_numbers_are_the_levels() -> None:
    array = np.array([3.0, -1.0, 3.0, 2.0])
    code = Codebook.fit(array)
    assert np.array_equal(code.decode(code.encode(array)), array.astype(np.float32))
    assert len(Codebook.fit(np.zeros(5)).levels) == len(Codebook.fit(np.ones(5)).levels) == 2


@pytest.mark.parametrize(
    ("name", "storage", "magnitudes"),
    [
        ("apot3", DType.U4, [0, 1, 2, 4]),
        ("apot4", DType.U4, [0, 1, 2, 3, 4, 6, 8, 10]),
        ("apot5", DType.U8, [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48]),
    ],
)
def test_apot_levels_are_those_of_its_authors(
    name: str, storage: DType, magnitudes: list[int]
) -> None:
    code = Codebook.named(name, 1.0)
    assert code.storage is storage
    assert code.levels.tolist() == [-m for m in magnitudes[:0:-1]] + magnitudes
    assert code.step_bounds == (-magnitudes[-1], magnitudes[-1])


def test_levels_rounded_to_integers_have_exact_sums() -> None:
    code = Codebook.named("nf4", [[0.5, 2.0]]).in_integers()
    assert code.step_bounds == (-127, 127)
    expected = [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127]
    assert code.levels.tolist() == expected
    assert np.array_equal(code.scale.array, np.array([[0.5, 2.0]], np.float32) / np.float32(127))


def test_a_kind_that_finds_no_scales_says_so() -> None:
    @dataclass(frozen=True)
    class Signs(LevelCode):
        kind = "signs"

        @property
        def levels(self) -> Array:
            return np.array([-1.0, 1.0])

    with pytest.raises(QirError, match="expected a kind that finds scales, got signs; give it"):
        Signs.fit(weights())
