"""Integer passes behind a dot whose scales vary along rows and along columns."""

import numpy as np
import pytest

import qir

TEXT = """graph @rows(%x: i8[3,5]{scale=[0.5, 0.25, 0.3], axis=0, zp=[3, 4, 5]}) {
  %k = const [[3, -4, 5, 100], [3, -4, 127, 100], [-53, 4, 5, 100], [3, -4, 5, -100], \
[-3, -4, 5, 100]] : i8[5,4]{scale=[0.125, 0.7, 0.9, 0.01], axis=1}
  %a = dot(%x, %k) : i32[3,4]{scale=%x*%k, parts=[[3, 1], [1, 4]]}
  %y = requantize(%a) : i8[3,4]{scale=4.0, zp=-5}
  %s = slice(%y) {axes = [1], start = [1], limit = [3]} : i8[3,2]{scale=4.0, zp=-5}
  %v = requantize(%s) {clamp = [-5, 127]} : i8[3,2]{scale=8.0, zp=-5}
  return %v
}"""


@pytest.mark.parametrize(
    ("pipeline", "diagnostic"),
    [
        ("check-overflow, move-requantize, fuse-requantize", ""),
        ("lower-requantize", "%y keeps its scales, which vary along several axes"),
        ("agree-roundings(ulps=0)", "the scales of %x vary along rows"),
        (
            "allow(within_1lsb), agree-roundings, lower-requantize",
            "the scales of %x vary along rows",
        ),
    ],
)
def test_passes_keep_the_integers(pipeline: str, diagnostic: str) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (3, 5)).astype(np.int8)
    graph = qir.parse(TEXT)
    (expected,) = qir.evaluate(graph, x)
    assert np.unique(expected).size > 2
    changed = qir.optimize(graph, pipeline)
    assert any(diagnostic in line for line in changed.diagnostics) or not diagnostic
    assert np.array_equal(qir.evaluate(changed, x)[0], expected)
    assert np.array_equal(np.asarray(qir.compile(changed)(x)[0]), expected)
