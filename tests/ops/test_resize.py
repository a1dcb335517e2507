from fractions import Fraction

import jax
import numpy as np
import pytest

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ops import ResizeLinear, ResizeNearest
from tests.ops.programs import program

CODE = "{scale=0.5, zp=3}"
INPUTS = f"""
  %x: f32[B,4,6,2], %v: f32[1,4,B,2], %n: i32[1,4,6,2], %q: i8[B,4,6,2]{CODE}, %e: f32[1,0,6,2],
  %c: i32[1,2,2]{{scale=[0.5, 0.25], axis=2}}, %s: i32[1,2,2]{{scale=[0.5, 0.25], axis=1}}
"""


@pytest.mark.parametrize(
    "line",
    [
        "resize_nearest(%x) {sizes = [8, 3]} : f32[B,8,3,2]",
        "resize_nearest(%n) {sizes = [8, 3]} : i32[1,8,3,2]",
        f"resize_nearest(%q) {{sizes = [8, 3], nearest = floor}} : i8[B,8,3,2]{CODE}",
        "resize_nearest(%c) {sizes = [3]} : i32[1,3,2]{scale=[0.5, 0.25], axis=2}",
        "resize_linear(%x) {sizes = [8, 3], coordinates = asymmetric} : f32[B,8,3,2]",
        "resize_linear(%q) {sizes = [8, 3]} : i32[B,8,3,2]{scale=0.0625}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("resize_nearest(%x) {sizes = [8]} : f32[B,8,6,2]", "tensor of rank 3"),
        ("resize_nearest(%x) {sizes = [8, 0]} : f32[B,8,0,2]", "sizes of at least 1"),
        ("resize_nearest(%v) {sizes = [8, 3]} : f32[1,8,3,2]", "dimension B"),
        ("resize_nearest(%e) {sizes = [8, 3]} : f32[1,8,3,2]", "spatial sizes of at least 1"),
        ("resize_nearest(%s) {sizes = [3]} : i32[1,3,2]", "varies along axis 1"),
        (
            "resize_nearest(%x) {sizes = [8, 3], nearest = flor} : f32[B,8,3,2]",
            "did you mean 'floor'",
        ),
        ("resize_linear(%n) {sizes = [8, 3]} : i32[1,8,3,2]", "floating-point numbers"),
        ("resize_linear(%q) {sizes = [2999, 1777]} : i32[B,2999,1777,2]", "is the greatest weight"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


X = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("sizes", [(8, 12), (5, 17), (2, 3), (4, 1)])
@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_half_pixels_equal_jax(method: str, sizes: tuple[int, int]) -> None:
    found = {"nearest": ResizeNearest, "linear": ResizeLinear}[method](sizes).evaluate(X)
    expected = jax.image.resize(X, (2, *sizes, 3), method, antialias=False)
    # The weights of jax are rounded from float32 coordinates below 16, hence off by at most 2^-20.
    np.testing.assert_allclose(found, expected, atol=4 * 2**-20 * np.abs(X).max(), rtol=0)


@pytest.mark.parametrize(
    ("nearest", "coordinates", "expected"),
    [
        ("round_prefer_ceil", "asymmetric", [0, 1, 1, 2, 2, 2]),
        ("round_prefer_floor", "asymmetric", [0, 0, 1, 1, 2, 2]),
        ("floor", "asymmetric", [0, 0, 1, 1, 2, 2]),
        ("ceil", "asymmetric", [0, 1, 1, 2, 2, 2]),
        ("round_prefer_ceil", "half_pixel", [0, 0, 1, 1, 2, 2]),
        ("floor", "half_pixel", [0, 0, 0, 1, 1, 2]),
        ("round_prefer_floor", "align_corners", [0, 0, 1, 1, 2, 2]),
    ],
)
def test_nearest_places(nearest: str, coordinates: str, expected: list[int]) -> None:
    line = f"nearest = {nearest}, coordinates = {coordinates}"
    graph = program("%x: i32[1,3,1]", f"resize_nearest(%x) {{sizes = [6], {line}}} : i32[1,6,1]")
    (found,) = run(graph, np.arange(3, dtype=np.int32).reshape(1, 3, 1))
    assert found.reshape(-1).tolist() == expected


def test_corners_are_aligned() -> None:
    x = np.array([0.0, 1.0, 4.0], np.float32).reshape(1, 3, 1)
    resized = ResizeLinear((5,), "align_corners").evaluate(x)
    assert resized.reshape(-1).tolist() == [0.0, 0.5, 1.0, 2.5, 4.0]
    assert ResizeLinear((1,), "align_corners").evaluate(x).item() == 0.0


@pytest.mark.parametrize(
    ("coordinates", "denominator"), [("half_pixel", 7), ("align_corners", 3), ("asymmetric", 7)]
)
def test_blend_of_codes_is_exact(coordinates: str, denominator: int) -> None:
    q = np.random.default_rng(0).integers(-128, 128, (1, 5, 1)).astype(np.int8)
    sizes = f"sizes = [7], coordinates = {coordinates}"
    line = f"resize_linear(%q) {{{sizes}}} : i32[1,7,1]{{scale={0.5 / denominator!r}}}"
    (found,) = run(program(f"%q: i8[1,5,1]{CODE}", line), q)
    steps = [Fraction(int(stored) - 3) for stored in q.reshape(-1)]
    for place, stored in enumerate(found.reshape(-1).tolist()):
        at = {
            "half_pixel": (place + Fraction(1, 2)) * Fraction(5, 7) - Fraction(1, 2),
            "align_corners": place * Fraction(4, 6),
            "asymmetric": place * Fraction(5, 7),
        }[coordinates]
        at = min(max(at, Fraction(0)), Fraction(4))
        low = int(at)
        blend = steps[low] + (steps[min(low + 1, 4)] - steps[low]) * (at - low)
        assert Fraction(stored, denominator) == blend
