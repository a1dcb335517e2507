import numpy as np
import pytest

import qir
from qir.analysis.reach import StoredReach
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.ops import Recode
from qir.types import Affine, Codebook, DType
from tests.ops.programs import program

INPUTS = """
  %p: i8[B,2], %u: u8[B,2], %f: f32[B,2], %i: i32[B,2],
  %h: i4[B,2]{kind=codebook, levels=[-9, -1, 0, 4], scale=0.5},
  %q: i8[B,2]{scale=0.5, zp=3}, %n: i8[B,2]{scale=0.5, bounds=[-127, 127]},
  %c: u8[B,2]{scale=[0.5, 0.25], axis=1, zp=[128, 3]}, %a: i32[B,2]{scale=0.5}
"""


@pytest.mark.parametrize(
    "line",
    [
        "recode(%p) : i8[B,2]{scale=0.5, zp=7}",
        "recode(%p) : i8[B,2]",
        "recode(%q) : i8[B,2]",
        "recode(%q) : i8[B,2]{scale=[0.5, 2.0], axis=1, zp=[-128, 127]}",
        "recode(%n) : i8[B,2]{scale=0.5, zp=9, bounds=[-127, 127]}",
        "recode(%a) : i32[B,2]",
        "recode(%i) : i32[B,2]{scale=0.0001}",
        "recode(%h) : i4[B,2]",
        "recode(%q) : u8[B,2]{scale=0.125, zp=131}",
        "recode(%n) : u8[B,2]{scale=0.5, zp=128, bounds=[1, 255]}",
        "recode(%c) : i8[B,2]{scale=[1.0, 2.0], axis=1, zp=[0, -125]}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("recode(%f) : f32[B,2]", "expected integers, got f32"),
        ("recode(%f) : i8[B,2]{scale=0.5}", "expected integers, got f32"),
        ("recode(%q) : i32[B,2]", "expected storage of i8, got i32"),
        ("recode(%p) : u8[B,2]", r"affine codes, and zero points that differ by \+128"),
        ("recode(%u) : i8[B,2]{scale=0.5}", r"zero points that differ by -128 from u8 to i8"),
        ("recode(%q) : u8[B,2]{scale=0.5, zp=3}", "requantize otherwise"),
        ("recode(%p) : i8[B,2]{scale=0.5, bounds=[-127, 127]}", r"holds \[-128, 127\], got bounds"),
        ("recode(%n) : u8[B,2]{scale=0.5, zp=128, bounds=[2, 255]}", r"expected a .* \[1, 255\]"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


def test_the_numbers_stay_or_turn_their_highest_bit() -> None:
    x = np.arange(-128, 128).astype(np.int8)
    kept = program("%x: i8[256]{scale=0.5, zp=3}", "recode(%x) : i8[256]{scale=0.1, zp=-7}")
    assert np.array_equal(run(kept, x)[0], x)
    turned = program("%x: i8[256]{scale=0.5, zp=-128}", "recode(%x) : u8[256]{scale=0.5}")
    (found,) = run(turned, x)
    assert found.dtype == np.uint8
    assert np.array_equal(found, x.view(np.uint8) ^ 0x80)
    back = program("%x: u8[256]{scale=0.5}", "recode(%x) : i8[256]{scale=0.5, zp=-128}")
    assert np.array_equal(run(back, found)[0], x)


def test_intervals_are_those_of_the_result() -> None:
    assert Recode(DType.I8).interval(Interval.of(0, 1)) == Interval.of(-128, 127)
    code = Affine.of(DType.I8, 0.5, 28)
    assert Recode(code).interval(Interval.of(0, 1)).bounds == (-78, 49.5)
    levels = Codebook.of(DType.I4, 0.5, [-9, -1, 0, 4])
    assert Recode(levels).interval(Interval.of(0, 1)).bounds == (-4.5, 2)


def test_what_can_be_stored_moves_along() -> None:
    text = """
graph @moved(%a: i32[4,9]{scale=0.001}, %k: u8[9,2]{scale=0.5}) {
  %x = requantize(%a) {clamp = [0, 1]} : i8[4,9]{scale=0.5, zp=-128}
  %u = recode(%x) : u8[4,9]{scale=0.5}
  %y = dot(%u, %k) : i32[4,2]{scale=%u*%k}
  return %y
}"""
    graph = qir.parse(text)
    stored = StoredReach.of(graph)
    by_name = {value.name: value for value in graph.values()}
    assert stored[by_name["u"]] == (128, 129)
    qir.optimize(graph, "check-overflow")


def test_kernels_write_no_step_for_another_code() -> None:
    pytest.importorskip("llvmlite")
    text = """
graph @steps(%x: i8[512]{scale=0.5, zp=-128}) {
  %r = relu(%x) : i8[512]{scale=0.5, zp=-128}
  %a = recode(%r) : i8[512]{scale=0.25}
  %b = relu(%a) : i8[512]{scale=0.25}
  %c = recode(%b) : u8[512]{scale=0.5, zp=128}
  return %c
}"""
    graph = qir.parse(text)
    compiled = qir.compile(graph, kernels=True)
    x = np.random.default_rng(0).integers(-128, 128, 512).astype(np.int8)
    assert np.array_equal(compiled(x)[0], run(graph, x)[0])
    steps = str(compiled.partition())
    assert "3 steps" in steps
    assert "recode %a: no step, the bytes lie there already" in steps
    assert "recode %c: qir_flip" in steps
