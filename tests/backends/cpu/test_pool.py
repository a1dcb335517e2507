"""Pools by generated kernels, bit for bit against the reference."""

from dataclasses import replace
from math import prod
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from qir.backends.native.pattern import match
from qir.ops import AvgPool, MaxPool, Requantize
from qir.ops.windows import Padding
from qir.types import Affine, DType
from tests.backends.cpu.harness import check
from tests.strategies.base import BYTES, Case, Draw, Operand, coded_operand, codes, program
from tests.strategies.pools import windows
from tests.strategies.sums import finished, then

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")

CHANNELS = [1, 3, 15, 16, 17, 31, 64, 70, 130]


class Drawn(NamedTuple):
    """What a pool is applied to."""

    attributes: tuple[tuple[int, ...], tuple[int, ...], Padding]
    shape: tuple[int, ...]


def pools(draw: Draw) -> Drawn:
    """Draws windows of 1 to 3 dimensions, also ones larger than the tensor with its padding."""
    window, strides, padding, (batch, *spatial, _) = windows(draw)
    return Drawn((window, strides, padding), (batch, *spatial, draw(st.sampled_from(CHANNELS))))


@st.composite
def max_pools(draw: Draw) -> Case:
    drawn = pools(draw)
    x = coded_operand(draw, draw(codes(BYTES)), drawn.shape, named=draw(st.booleans()))
    return program(MaxPool(*drawn.attributes), x)


@st.composite
def avg_pools(draw: Draw) -> Case:
    drawn = pools(draw)
    op = AvgPool(*drawn.attributes, draw(st.booleans()))
    named = op.padding == "valid" and draw(st.booleans())
    x = coded_operand(draw, draw(codes(BYTES)), drawn.shape, named=named)
    if op.divisor([x.type]) is None:
        return program(op.with_code(draw(codes(BYTES))), x)
    return finished(draw, program(op, x))


@given(max_pools())
def test_max_pool(case: Case) -> None:
    check(case.graph, *case.inputs)


@given(avg_pools())
def test_avg_pool(case: Case) -> None:
    check(case.graph, *case.inputs)


@pytest.mark.parametrize("storage", BYTES)
@pytest.mark.parametrize(
    ("shape", "window"), [((1, 128, 1, 16), (128, 1)), ((1, 43, 3, 16), (43, 3))]
)
@pytest.mark.parametrize("extreme", [0, 1])
def test_sums_at_the_ends_of_their_width(
    storage: DType, shape: tuple[int, ...], window: tuple[int, ...], extreme: int
) -> None:
    """128 taps are the most that 16 bits hold, at both ends of the stored numbers."""
    code = Affine.of(storage, 1.0, storage.bounds[1 - extreme])
    x = np.full(shape, storage.bounds[extreme], storage.numpy)
    result = Affine.of(storage, 1.5, storage.bounds[1 - extreme])
    case = program(AvgPool(window), Operand(x, code))
    check(case.graph, *case.inputs)
    case = then(case, Requantize(result))
    check(case.graph, *case.inputs)


@pytest.mark.parametrize(
    ("shape", "op"),
    [
        ((1, 112, 112, 64), MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)))),
        ((2, 35, 35, 48), AvgPool((3, 3), (1, 1), "same", to=Affine.of(DType.I8, 0.11, -3))),
        ((1, 4, 28, 28, 32), MaxPool((2, 3, 3), (2, 2, 2), "same")),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_tasks_share_a_large_pool(
    shape: tuple[int, ...], op: MaxPool | AvgPool, threads: int
) -> None:
    x = np.random.default_rng(prod(shape)).integers(-128, 128, shape).astype(np.int8)
    case = program(op, Operand(x, Affine.of(DType.I8, 0.1, 5)))
    check(case.graph, *case.inputs, threads=threads)


def test_reasons() -> None:
    target = host_target()
    assert target is not None
    small, large = (Affine.of(DType.I8, scale, 5) for scale in (1e-9, 1.0))
    x = np.zeros((1, 4, 4, 3), np.int8)
    means = AvgPool((2, 2), padding="same")
    faint = program(means.with_code(large), Operand(x, small)).node
    assert match(faint, target) == "a multiplier too small for 32 bits"
    loud = program(means.with_code(Affine.of(DType.I8, 1e-8, 0)), Operand(x, large)).node
    assert match(loud, target) == "a sum or its multiplier too large for 32 bits"
    louder = program(means.with_code(Affine.of(DType.I8, 1e-30, 0)), Operand(x, large)).node
    assert match(louder, target) == "a multiplier out of reach"
    other = program(replace(means, to=large, rounding="f32_rne"), Operand(x, large)).node
    assert match(other, target) == "no kernel for the machine form of the rounding f32_rne"
    plain = program(MaxPool((2, 2)), Operand(x.astype(np.float32), DType.F32)).node
    assert match(plain, target) == "not stored in 8 bits"
