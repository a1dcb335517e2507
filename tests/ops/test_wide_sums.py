"""Sums of i32 codes of one scale, tables of more than 256 entries, codes that follow a reshape."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ops import Reshape
from qir.ops.op import infer
from qir.types import Affine, DType, FrozenArray, TensorType, expand
from tests.ops.programs import program

WIDE = "i32[4]{scale=0.5, bounds=[-100, 100]}"
INPUTS = f"""
  %x: {WIDE}, %y: i32[4]{{scale=0.5, bounds=[-7, 9]}}, %z: i32[4]{{scale=0.25}},
  %q: i8[4]{{scale=0.5}}, %h: i32[4]{{scale=0.5}}, %s: i16[4]{{scale=0.5, bounds=[-512, 300]}},
  %t: i8[1024], %u: i8[512]
"""


@pytest.mark.parametrize(
    "line",
    [
        f"add(%x, %y) : {WIDE}",
        f"sub(%x, %y) : {WIDE}",
        "lookup(%s, %t) : i8[4]",
        f"requantize(%q) : {WIDE}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"add(%x, %z) : {WIDE}", "i32 with the scale of the result"),
        (f"add(%x, %q) : {WIDE}", "requantize them to it first"),
        (f"add(%x, %h) : {WIDE}", "keep their sum in 32 bits"),
        (f"add(%x, %y) {{multipliers = [1, 1], shift = 4}} : {WIDE}", "no multipliers"),
        ("lookup(%s, %u) : i8[4]", "a table of 1024 entries"),
        ("requantize(%q) : i32[4]{scale=0.5}", "or one of i32 with bounds"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


@pytest.mark.parametrize(("op", "expected"), [("add", [100, -100, 3, 0]), ("sub", [91, -93, 1, 0])])
def test_a_sum_of_one_scale_is_clamped_and_not_rounded(op: str, expected: list[int]) -> None:
    graph = program(
        f"%x: {WIDE}, %y: i32[4]{{scale=0.5, bounds=[-7, 9]}}", f"{op}(%x, %y) : {WIDE}"
    )
    x, y = np.array([100, -100, 2, 0], np.int32), np.array([9, -7, 1, 0], np.int32)
    for (found,) in (run(graph, x, y), qir.compile(graph)(x, y)):
        np.testing.assert_array_equal(found, expected)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Draws two shapes of equally many numbers, and the shape of a scale of the first."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3]), min_size=1, max_size=6))

    def cut() -> tuple[int, ...]:
        ends = sorted(draw(st.sets(st.integers(1, len(factors) - 1 or 1), max_size=3)))
        bounds = [0, *(end for end in ends if end < len(factors)), len(factors)]
        return tuple(prod(factors[a:b]) for a, b in pairwise(bounds))

    before, after = cut(), cut()
    counts = tuple(draw(st.sampled_from([1, size])) for size in before)
    return before, after, counts


@given(reshapes(), st.integers(0, 2**32 - 1))
def test_codes_follow_every_reshape(
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], seed: int
) -> None:
    before, after, counts = shapes
    scale = np.random.default_rng(seed).integers(1, 4, counts).astype(np.float64)
    x = TensorType(before, Affine(DType.I32, FrozenArray(scale)))
    (result,) = infer(Reshape(after), [x])
    assert result.quant is not None
    found = result.quant.scale.array
    given_ = np.broadcast_to(expand(scale, before), before)
    np.testing.assert_array_equal(
        np.broadcast_to(expand(found, after), after).ravel(), given_.ravel()
    )
    # It varies along no axis along which the numbers do not.
    for axis, count in enumerate(found.shape):
        assert count == 1 or np.any(found != found.take([0], axis))
