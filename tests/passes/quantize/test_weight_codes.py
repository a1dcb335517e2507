"""Codes that weights get: steps, parts, and that nothing is lost by the search for a range."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from qir.errors import QirError
from qir.passes.shared.weight_codes import SCHEMES, WeightCoding
from qir.types import Affine, DType, FrozenArray, expand

RNG = np.random.default_rng(3)
KERNEL = RNG.normal(0, 0.1, (64, 24)).astype(np.float32)
X = Affine.of(DType.I8, 0.02, 5)
PER = ("tensor", "channel", "row", "block:16", "block:32")


def coded(width, per, scheme):
    block = SCHEMES[scheme].block
    return WeightCoding(width, f"block:{block}" if block else per, scheme)


CODINGS = [
    coded(width, per, scheme)
    for scheme, per in product(SCHEMES, PER)
    for width in SCHEMES[scheme].widths
]


@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_no_weight_is_further_off_than_the_code_allows(coding):
    """Half of the widest gap between neighbouring levels, or what clipping a part cuts off."""
    coding.check(exact=False)
    code = coding.for_floats(KERNEL)
    low, high = code.range
    table = np.arange(low, high + 1)
    unit = coding.for_floats(np.ones((64, 24), np.float32))
    assert code.kind == unit.kind
    real = code.decode(code.encode(KERNEL))
    assert np.all(np.isfinite(real))
    # Rounding is monotone, and a number that is a level stays.
    order = np.argsort(KERNEL[:, 0])
    if code.per_tensor:
        assert np.all(np.diff(real[order, 0]) >= 0)
    assert np.array_equal(code.decode(code.encode(real)), real)
    assert len(np.unique(code.encode(KERNEL))) <= len(table)


@pytest.mark.parametrize("per", ["channel", "block:16", "block:32"])
@pytest.mark.parametrize(("width", "scheme"), [("i4", "affine"), ("i4", "log2"), ("i4", "apot")])
def test_steps_of_weights_for_sums_are_bytes_where_multipliers_leave_room(width, scheme, per):
    code = WeightCoding(width, per, scheme).for_sums(KERNEL, X, output_scale=0.05)
    assert code.step_bounds is not None
    # Powers of two up to 64 leave no room for multipliers in bytes.
    bits = 16 if scheme == "log2" and per != "channel" else 8
    assert -(2 ** (bits - 1)) <= code.step_bounds[0] < code.step_bounds[1] < 2 ** (bits - 1)
    # One scale for each output: what varies along the sum belongs to the steps.
    assert code.scale.array.shape == (1, 24)


def test_weights_of_8_bits_for_a_channel_have_the_scale_of_the_greatest():
    code = WeightCoding("i8").for_sums(KERNEL, X, output_scale=0.05)
    np.testing.assert_array_equal(
        code.scale.array, (np.abs(KERNEL).max(0, keepdims=True) / np.float64(127)).astype("f4")
    )


@pytest.mark.parametrize(("scheme", "largest"), [("affine", 7), ("apot", 10), ("nf4", 1)])
def test_a_searched_range_loses_no_more_than_the_whole_one(scheme, largest):
    code = WeightCoding("i4", "channel", scheme).for_floats(KERNEL)
    peaks = np.abs(KERNEL).max(0, keepdims=True).astype(np.float64)
    assert error(code) <= error(replace(code, scale=FrozenArray(peaks / largest, np.float32)))


def error(code):
    return float(np.square(code.decode(code.encode(KERNEL)).astype(np.float64) - KERNEL).sum())


def test_blocks_are_of_as_many_rows_as_divide_the_axis():
    kernel = RNG.normal(0, 1, (3, 3, 48, 8)).astype(np.float32)
    code = WeightCoding("i4", "block:32").for_floats(kernel)
    assert code.multipliers is not None
    assert code.multipliers.array.shape == (3, 3, 2, 8)
    assert code.scale.array.shape == (1, 1, 1, 8)
    few = WeightCoding("i4", "block:32").for_floats(kernel[:, :, :16])
    assert few.multipliers is None
    assert few.scale.array.shape == (1, 1, 1, 8)


@pytest.mark.parametrize("exponent", [-80, 80])
@pytest.mark.parametrize(("per", "scheme"), [("channel", "affine"), ("block:16", "nf4")])
def test_the_size_of_weights_changes_nothing_but_the_scale(per, scheme, exponent):
    coding = WeightCoding("i4", per, scheme)
    code, moved = (coding.for_floats(np.ldexp(KERNEL, by)) for by in (0, exponent))
    assert np.array_equal(moved.scale.array, np.ldexp(code.scale.array, exponent))
    assert moved.multipliers == code.multipliers


@pytest.mark.parametrize(
    ("rows", "wanted", "blocks"),
    [
        *((64, 32, 2), (48, 32, 2), (37, 32, 1), (67, 32, 1), (74, 32, 2), (33, 32, 1)),
        *((99, 32, 3), (37, 5, 1), (35, 5, 7), (1, 32, 1), (2, 2, 1), (6, 4, 2)),
    ],
)
@pytest.mark.parametrize("scheme", ["affine", "nf4"])
def test_blocks_that_do_not_divide_the_rows_are_never_of_less_than_half(
    rows, wanted, blocks, scheme
):
    """A prime number of rows would be blocks of one number with a multiplier of 8 bits each."""
    kernel = RNG.normal(0, 1, (rows, 8)).astype(np.float32)
    code = WeightCoding("i4", f"block:{wanted}", scheme).for_floats(kernel)
    assert code.scale.array.shape == (1, 8)
    found = 1 if code.multipliers is None else code.multipliers.array.shape[0]
    assert found == blocks


def test_blocks_of_a_kind_divide_the_axis_or_an_error_says_so():
    with pytest.raises(QirError, match=r"each 32 numbers .* the 48 of these weights; write scheme"):
        WeightCoding("i4", "block:32", "mxfp4").for_floats(KERNEL[:48])


def test_rows_of_a_table_have_a_scale_each():
    code = WeightCoding("i8").for_rows(KERNEL, factor=2.0, output_scale=0.1)
    assert code.scale.array.shape == (64, 1)
    steps = expand(code.scale.array, KERNEL.shape)
    assert np.all(np.abs(code.decode(code.encode(KERNEL)) - KERNEL) <= steps * 0.5000001)
