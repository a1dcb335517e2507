"""Codes that are a table, and scales of two levels, against exact fractions and documents."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qir.errors import QirError
from qir.ops.rules import Coded
from qir.types import Affine, Array, Codebook, DType, TensorType, code_kind

SEEDS = st.integers(0, 2**32 - 1).map(np.random.default_rng)
STORAGES = st.sampled_from([DType.I2, DType.I4, DType.U4, DType.I8, DType.U8])


@st.composite
def codebooks(draw: st.DrawFn) -> Codebook:
    """Draws a codebook of any levels for a tensor [2, 4] of a few scales and multipliers."""
    rng, storage = draw(SEEDS), draw(STORAGES)
    count = int(rng.integers(2, 2**storage.bits, endpoint=True))
    whole = np.sort(rng.choice(np.arange(-500, 500), count, replace=False))
    levels = whole if draw(st.booleans()) else whole / np.float32(rng.integers(2, 99))
    scale = np.exp2(rng.uniform(-20, 20, draw(st.sampled_from([(), (2, 1), (1, 2)]))))
    parts = draw(st.sampled_from([None, (1, 4), (2, 2)]))
    multipliers = None if parts is None else rng.integers(1, 256, parts)
    return Codebook.of(storage, scale, levels, multipliers=multipliers)


def every(code: Codebook, rng: np.random.Generator) -> Array:
    stored: Array = rng.integers(*code.range, (2, 4), endpoint=True)
    return stored.astype(code.storage.numpy)


@given(codebooks(), SEEDS)
def test_decoded_numbers_encode_back(code: Codebook, rng: np.random.Generator) -> None:
    stored = every(code, rng)
    assert np.array_equal(code.encode(code.decode(stored)), stored)


@given(codebooks(), SEEDS)
def test_decoding_rounds_a_product_at_most_twice(code: Codebook, rng: np.random.Generator) -> None:
    stored = every(code, rng)
    sizes = np.broadcast_to(code.step_sizes, code.grid)
    for place in np.ndindex(stored.shape):
        part = tuple(at * n // size for at, n, size in zip(place, code.grid, (2, 4), strict=False))
        level = code.levels[int(stored[place]) - code.storage.bounds[0]]
        exact = Fraction(float(level)) * Fraction(float(sizes[part]))
        found = Fraction(float(code.decode(stored)[place]))
        assert abs(found - exact) <= abs(exact) * Fraction(1, 2**23)


@given(codebooks(), SEEDS)
def test_a_greater_number_has_no_lesser_level(code: Codebook, rng: np.random.Generator) -> None:
    least, greatest = code.real_bounds
    size = float(code.step_sizes.max())
    reals = np.sort(rng.uniform(2 * least * size - 1, 2 * greatest * size + 1, 300))
    rows = np.broadcast_to(reals.astype(np.float32)[:, None, None], (300, 2, 4))
    stored = np.stack([code.encode(row) for row in rows]).astype(int)
    assert np.all(np.diff(stored, axis=0) >= 0)


@pytest.mark.parametrize("count", [2, 3, 16, 17, 18, 255, 256])
def test_a_number_has_the_nearest_level_and_a_middle_the_lower_one(count: int) -> None:
    rng = np.random.default_rng(count)
    levels = np.sort(rng.choice(np.arange(-500, 500), count, replace=False))
    code = Codebook.of(DType.U8, 1.0, levels)
    middles = (levels[1:] + levels[:-1]) / 2
    beside = [np.nextafter(middles, side) for side in (-np.inf, np.inf)]
    reals = np.concatenate([levels, middles, *beside, [-1e9, 1e9]])
    nearest = [
        min(range(count), key=lambda at: abs(Fraction(float(real)) - int(levels[at])))
        for real in reals
    ]
    assert code.encode(reals).tolist() == nearest


@given(codebooks(), SEEDS)
def test_steps_are_integers_or_refused(code: Codebook, rng: np.random.Generator) -> None:
    stored = every(code, rng)
    operand = Coded(stored, TensorType((2, 4), code))
    whole = np.array_equal(code.levels, np.rint(code.levels))
    assert (code.step_bounds is not None) == whole
    if not whole:
        with pytest.raises(QirError, match="no integers times a scale; dequantize it"):
            code.steps(stored)
        return
    least, greatest = code.steps_between(*code.range) or (0, 0)
    assert np.all((operand.steps >= least) & (operand.steps <= greatest))
    assert np.array_equal(operand.carried, operand.steps)
    assert np.array_equal(operand.steps.astype(np.float32), code.multiples(stored))


PUBLISHED = """
    -1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635
    -0.18477343022823334 -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725
    0.24611230194568634 0.33791524171829224 0.44070982933044434 0.5626170039176941
    0.7229568362236023 1.0
"""
"""NormalFloat of 4 bits: appendix E of arXiv:2305.14314, which lists float32 numbers."""


def test_nf4_has_the_levels_of_its_paper() -> None:
    nf4 = Codebook.named("nf4", 1.0)
    assert nf4.range == (0, 15)
    assert nf4.holds_zero
    assert nf4.decode(np.arange(16)).tolist() == np.array(PUBLISHED.split(), float).tolist()


def test_an_unknown_table_or_kind_is_refused_by_name() -> None:
    with pytest.raises(
        QirError, match=r"expected levels called nf4, .*, got 'nf3'; did you mean 'nf4'"
    ):
        Codebook.named("nf3", 1.0)
    with pytest.raises(QirError, match=r"got 'codeboook'; did you mean 'codebook'\?"):
        code_kind("codeboook")


@given(SEEDS)
def test_multipliers_belong_to_the_steps(rng: np.random.Generator) -> None:
    multipliers = rng.integers(1, 256, (2, 4))
    code = Affine.of(DType.I4, [[0.5, 0.25, 2.0, 1.0]], 3, multipliers=multipliers[:, :2])
    stored = rng.integers(-8, 7, (4, 4), endpoint=True)
    wide = np.repeat(np.repeat(multipliers[:, :2], 2, 0), 2, 1)
    assert np.array_equal(code.steps(stored), (stored - 3) * wide)
    assert np.array_equal(code.decode(stored), code.steps(stored) * code.scale.array)
    assert np.array_equal(code.encode(code.decode(stored)), stored)
    assert (code.per_tensor, code.grid) == (False, (2, 4))
    least, greatest = code.step_bounds or (0, 0)
    assert (least, greatest) == (-11 * multipliers[:, :2].max(), 4 * multipliers[:, :2].max())


def test_multipliers_of_1_are_left_out() -> None:
    assert Affine.of(DType.I4, 0.5, multipliers=[[1, 1]]) == Affine.of(DType.I4, 0.5)


def test_scales_times_multipliers_have_normal_inverses() -> None:
    Affine.of(DType.I8, 2.0**120, multipliers=[[1, 32]])
    with pytest.raises(QirError, match="C7: expected scales between"):
        Affine.of(DType.I8, 2.0**120, multipliers=[[1, 33]])
