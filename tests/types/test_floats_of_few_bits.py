"""OCP's floats of 8 and 4 bits and NVFP4 against ml_dtypes, and their constraints C12 to C14."""

import ml_dtypes
import numpy as np
import pytest

from qir.errors import QirError
from qir.types import MXFP4, NVFP4, Array, DType, Float8, Float8E4M3, Float8E5M2, FrozenArray
from qir.types.codes.minifloat import E2M1

EIGHT = [(Float8E4M3, ml_dtypes.float8_e4m3fn), (Float8E5M2, ml_dtypes.float8_e5m2)]
PATTERNS = np.arange(256, dtype=np.uint8)
FOUR = np.arange(16, dtype=np.uint8)


def same_bits(found: Array, expected: Array) -> bool:
    """Whether float32 numbers are equal to the last bit, NaN and the sign of 0 included."""
    nan = np.isnan(expected)
    return np.array_equal(np.isnan(found), nan) and np.array_equal(
        found[~nan].view(np.int32), expected[~nan].view(np.int32)
    )


def numbers(greatest: float, levels: Array) -> Array:
    """Returns float32 numbers of all sizes up to the greatest, the ties of levels among them."""
    rng = np.random.default_rng(0)
    finite = np.unique(levels[np.isfinite(levels)])
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
    bits = rng.integers(0, 2**32, 2**16, np.uint32).view(np.float32)
    usual = rng.normal(size=2**16).astype(np.float32) * np.float32(greatest / 3)
    zeros = np.array([0.0, -0.0], np.float32)
    some: Array = np.concatenate([ties, *beside, bits, usual, zeros])
    within: Array = some[np.abs(some) <= greatest]
    return within


@pytest.mark.parametrize(("kind", "theirs"), EIGHT)
def test_every_pattern_of_8_bits_decodes_as_it_should(kind: type[Float8], theirs: type) -> None:
    assert same_bits(kind.of(1.0).decode(PATTERNS), PATTERNS.view(theirs).astype(np.float32))


@pytest.mark.parametrize(("kind", "theirs"), EIGHT)
def test_numbers_within_reach_encode_as_they_should(kind: type[Float8], theirs: type) -> None:
    real = numbers(float(ml_dtypes.finfo(theirs).max), kind.of(1.0).levels)
    assert np.array_equal(kind.of(1.0).encode(real), real.astype(theirs).view(np.uint8))


@pytest.mark.parametrize(("kind", "greatest"), [(Float8E4M3, 0x7E), (Float8E5M2, 0x7B)])
def test_numbers_out_of_reach_saturate_and_nan_is_0(kind: type[Float8], greatest: int) -> None:
    stored = kind.of(0.5).encode([np.inf, -np.inf, 1e30, -1e30, np.nan]).tolist()
    assert stored == [greatest, greatest + 128, greatest, greatest + 128, 0]
    assert kind.of(0.5).step_bounds is None


@pytest.mark.parametrize("kind", [Float8E4M3, Float8E5M2])
def test_c12_floats_of_8_bits_are_stored_in_u8(kind: type[Float8]) -> None:
    with pytest.raises(QirError, match="C12: expected storage u8, got i8"):
        kind(DType.I8, FrozenArray(1.0))


def test_the_patterns_of_4_bits_are_those_of_ml_dtypes() -> None:
    expected = FOUR.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert same_bits(E2M1.astype(np.float32), expected)


def test_mxfp4_decodes_and_encodes_as_its_specification() -> None:
    exponents = np.arange(-124, 125)
    shared = np.exp2(exponents).astype(ml_dtypes.float8_e8m0fnu)
    code = MXFP4.of(shared.astype(np.float32)[None])
    assert np.array_equal(code.shared_scales, shared.astype(np.float32)[None])
    stored = np.broadcast_to(np.tile(FOUR, 2)[:, None], (32, len(exponents)))
    code.check(stored.shape)
    numbers_of = stored.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert same_bits(code.decode(stored), numbers_of * shared.astype(np.float32))
    multiples = np.resize(numbers(6.0, E2M1), (32 * 2048, 1))
    blocks = MXFP4.of(np.full((2048, 1), 0.25))
    real = multiples * np.float32(0.25)
    theirs = multiples.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    normal = np.abs(real) >= np.finfo(np.float32).tiny  # times 1/4 others lose bits
    assert np.array_equal(blocks.encode(real)[normal], theirs[normal])


def test_mxfp4_has_integer_steps() -> None:
    code = MXFP4.of(1.0)
    assert code.step_bounds == (-12, 12)
    assert code.steps(FOUR).tolist() == [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]
    assert np.array_equal(code.decode(FOUR), code.steps(FOUR) * np.float32(0.5))


def test_mxfp4_chooses_the_power_below_the_greatest_magnitude() -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(64, 9)).astype(np.float32)
    weights[32:, 3] = 0
    weights[:32, 4] = np.linspace(0, 4, 32)
    code = MXFP4.fit(weights, (2, 9))
    greatest = np.abs(weights.reshape(2, 32, 9)).max(axis=1)
    wanted = np.exp2(np.floor(np.log2(np.where(greatest > 0, greatest, 1.0))) - 2)
    wanted[greatest == 0] = 2.0
    assert np.array_equal(code.shared_scales, wanted)
    assert code.shared_scales[0, 4] == 1.0


@pytest.mark.parametrize("shape", [(33,), (64,), (32, 32), (16,)])
def test_c13_there_is_a_scale_for_each_32_numbers(shape: tuple[int, ...]) -> None:
    with pytest.raises(QirError, match="C13: expected a scale for each 32 numbers along one axis"):
        MXFP4.of(1.0).check(shape)
    with pytest.raises(QirError, match="C13"):
        MXFP4.fit(np.ones(shape), (1,) * len(shape))


def test_c13_scales_are_powers_of_two_in_u4_without_multipliers() -> None:
    with pytest.raises(QirError, match="C13: expected storage u4 and scales that are powers of"):
        MXFP4.of(0.75)
    with pytest.raises(QirError, match="C13"):
        MXFP4(DType.U8, FrozenArray(1.0))
    with pytest.raises(QirError, match="C13"):
        MXFP4(DType.U4, FrozenArray(1.0), multipliers=FrozenArray([2]))


def test_nvfp4_decodes_as_its_definition() -> None:
    blocks = np.arange(1, 0x7F, dtype=np.uint8)[None]
    code = NVFP4.of(0.0017, blocks)
    stored = np.broadcast_to(FOUR[:, None], (16, blocks.size))
    code.check(stored.shape)
    scales = blocks.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.0017)
    elements = stored.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert same_bits(code.decode(stored), elements * scales)
    assert code.step_bounds is None
    assert (code.grid, code.per_tensor, code.axis) == ((1, 126), False, None)


def test_nvfp4_chooses_scales_by_nvidias_recipe() -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(7, 64)).astype(np.float32)
    weights[0, 16:32] = 0
    code = NVFP4.fit(weights, (7, 4))
    greatest = np.abs(weights.reshape(7, 4, 16)).max(axis=2)
    assert code.scale.array == np.float32(float(greatest.max()) / (6 * 448))
    expected = (greatest / np.float32(6) / code.scale.array).astype(ml_dtypes.float8_e4m3fn)
    expected = np.maximum(expected.view(np.uint8), 1)
    # A quotient in float32 may be on the other side of a tie of E4M3 in 2^-20 of the blocks.
    assert np.array_equal(code.block_scales.array, expected)
    elements = weights / np.repeat(code.step_sizes, 16, axis=1)
    theirs = np.clip(elements, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    assert np.array_equal(code.encode(weights), theirs)


@pytest.mark.parametrize("patterns", [[0], [0x7F], [0x80], [1.5]])
def test_c14_blocks_have_positive_numbers_of_e4m3(patterns: list[float]) -> None:
    with pytest.raises(QirError, match="C14: expected block scales that are bit patterns of E4M3"):
        NVFP4.of(1.0, patterns)


def test_c14_there_is_a_scale_for_each_16_numbers_and_one_for_the_tensor() -> None:
    with pytest.raises(QirError, match="C14: expected a scale for each 16 numbers along one axis"):
        NVFP4.of(1.0, [1, 2]).check((16,))
    with pytest.raises(QirError, match="C14: expected storage u4, one scale for the tensor"):
        NVFP4(DType.U4, FrozenArray([1.0, 2.0]), FrozenArray([1, 2]))
    with pytest.raises(QirError, match="C14: expected storage u4"):
        NVFP4(DType.U8, FrozenArray(1.0), FrozenArray([1]))
