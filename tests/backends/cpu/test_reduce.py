"""Reductions by generated kernels, bit for bit against the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from qir.backends.native.pattern import match
from qir.ops import (
    ArgMax,
    Dequantize,
    Mean,
    ReduceMax,
    ReduceMin,
    ReduceSum,
    Requantize,
    ResizeLinear,
)
from qir.text import parse
from qir.types import Affine, DType
from tests.backends.cpu.harness import check, matches_of
from tests.strategies.base import BYTES, Case, Draw, Operand, coded_operand, codes, program
from tests.strategies.sums import finished, then

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")

SIZES = st.sampled_from([1, 2, 3, 7, 15, 16, 17, 40, 130])


def reduced(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draws a shape and neighbouring axes, perhaps among others of size 1."""
    before = draw(st.lists(st.integers(1, 3), max_size=1))
    inside = [draw(SIZES), *draw(st.lists(st.integers(1, 3), max_size=2))]
    after = draw(st.lists(SIZES, max_size=1))
    shape, first = (*before, *inside, *after), len(before)
    axes = [
        axis
        for axis in range(first, first + len(inside))
        if shape[axis] != 1 or draw(st.booleans())
    ]
    return shape, tuple(axes or [first])


@st.composite
def reductions(draw: Draw) -> Case:
    cls = draw(st.sampled_from([Mean, ReduceSum, ReduceMax, ReduceMin]))
    shape, axes = reduced(draw)
    named = 0 not in axes and draw(st.booleans())
    x = coded_operand(draw, draw(codes(BYTES)), shape, named=named)
    case = program(cls(axes, draw(st.booleans())), x)
    return finished(draw, case) if issubclass(cls, Mean | ReduceSum) else case


@st.composite
def argmaxes(draw: Draw) -> Case:
    shape = (*draw(st.lists(st.integers(1, 3), max_size=2)), draw(SIZES))
    x = coded_operand(draw, draw(codes(BYTES)), shape)
    return program(ArgMax(len(shape) - 1, draw(st.booleans())), x)


@given(reductions())
def test_reductions(case: Case) -> None:
    check(case.graph, *case.inputs)


@given(argmaxes())
def test_argmax(case: Case) -> None:
    check(case.graph, *case.inputs)


@pytest.mark.parametrize("dtype", BYTES)
def test_argmax_takes_the_first_of_equals(dtype: DType) -> None:
    x = np.full((50, 50), dtype.bounds[0], dtype.numpy)
    for row in range(1, 50):
        x[row, row:] = dtype.bounds[1]
    case = program(ArgMax(1), Operand(x, dtype))
    (found,) = check(case.graph, *case.inputs)
    assert found.tolist() == list(range(50))


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("extreme", [0, 1])
@pytest.mark.parametrize("shape", [(1, 49, 512), (3, 128, 130), (1, 12544, 32), (2, 5000, 1)])
def test_sums_of_extremes(dtype: DType, extreme: int, shape: tuple[int, ...]) -> None:
    code = Affine.of(dtype, 1.0, dtype.bounds[1 - extreme])
    x = np.full(shape, dtype.bounds[extreme], dtype.numpy)
    case = program(Mean((1,)), Operand(x, code))
    check(case.graph, *case.inputs)
    case = then(case, Requantize(Affine.of(dtype, 1.25, code.zero_points)))
    check(case.graph, *case.inputs)


@pytest.mark.parametrize("threads", [1, 3])
def test_ranges_of_channels(threads: int) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (1, 20, 20, 1000)).astype(np.int8)
    code = Affine.of(DType.I8, 0.1, 7)
    case = program(Mean((1, 2)), Operand(x, code))
    check(case.graph, *case.inputs, threads=threads)
    case = then(case, Requantize(Affine.of(DType.I8, 0.01, -7)))
    check(case.graph, *case.inputs, threads=threads)


def test_reasons() -> None:
    target = host_target()
    assert target is not None
    x = Operand(np.zeros((4, 3, 5), np.int8), Affine.of(DType.I8, 0.1, 7))
    assert match(program(ReduceMax((0, 2)), x).node, target) == "axes that are not neighbours"
    assert match(program(ArgMax(1), x).node, target) == "an axis that is not the last"
    real = Operand(np.zeros((4, 3), np.float32), DType.F32)
    assert match(program(Mean((1,)), real).node, target) == "a sum without codes of 8 bits"
    assert match(program(ReduceMax((1,)), real).node, target) == "not stored in 8 bits"


@pytest.mark.parametrize("name", ["mean", "avg_pool", "mul"])
def test_the_requantize_behind_sums_is_a_part_of_their_step(name: str) -> None:
    line = {
        "mean": "mean(%x) {axes = [1, 2], keep_axes = true} : i32[2,1,1,3]{scale=0.125}",
        "avg_pool": "avg_pool(%x) {window = [2, 2]} : i32[2,1,1,3]{scale=0.125}",
        "mul": "mul(%x, %x) : i32[2,2,2,3]{scale=%x*%x}",
    }[name]
    shape = "[2,2,2,3]" if name == "mul" else "[2,1,1,3]"
    text = f"graph @g(%x: i8[2,2,2,3]{{scale=0.5, zp=3}}) {{\n  %s = {line}\n"
    one = f"  %y = requantize(%s) {{clamp = [-9, 77]}} : i8{shape}{{scale=0.4, zp=-9}}\n"
    other = f"  %z = requantize(%s) : u8{shape}{{scale=0.3, zp=9}}\n"
    x = np.random.default_rng(0).integers(-128, 128, (2, 2, 2, 3)).astype(np.int8)
    target = host_target()
    assert target is not None
    alone = parse(f"{text}{one}  return %y\n}}")
    shared = parse(f"{text}{one}{other}  return %y, %z\n}}")
    assert [len(each.nodes) for each in matches_of(alone, target)] == [2]
    assert [len(each.nodes) for each in matches_of(shared, target)] == [1, 1, 1]
    for graph in (alone, shared):
        check(graph, x)


def test_sums_that_xla_forms_are_rounded_there() -> None:
    target = host_target()
    assert target is not None
    code, to = Affine.of(DType.I8, 0.5, 3), Affine.of(DType.I8, 0.4, -9)
    x = Operand(np.zeros((1, 5, 2), np.int8), code)
    for behind in (Requantize(to), Dequantize()):
        node = then(program(ResizeLinear((7,)), x), behind).node
        assert match(node, target) == "behind sums that XLA forms"
