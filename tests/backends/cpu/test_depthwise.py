"""Depthwise and grouped convolutions by generated kernels, against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

pytest.importorskip("llvmlite")

from qir.backends.cpu.kernel import KernelCode
from qir.backends.cpu.kernels import kernel_code_of
from qir.backends.cpu.target import host_target
from qir.backends.native.kernels.depthwise import DepthwiseKernel
from qir.backends.native.patterns.depthwise import DepthwiseGeometry, divided, paired
from qir.ir import Graph
from qir.ir.signature import Sizes
from qir.ops import Add, Conv, Dequantize, Requantize
from qir.ops.windows import Padding
from qir.types import Affine, Array, DType, TensorType
from tests.backends.cpu import harness

TARGET = host_target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="no kernels for this machine")

EPILOGUES = ("fixed31", "f32_rne", "sum", "real", "accumulator")


@dataclass(frozen=True)
class Case:
    """A convolution to compute.

    Attributes:
        shape: Of x.
        kernel: Of the weights.
        op: The convolution.
        epilogue: What follows it.
        unsigned: Whether x is unsigned; what is stored is the opposite.
        per_channel: Whether each column of the weights has a scale of its own.
        fill: Numbers everywhere in x and in the weights; None for random ones.
        threads: Most threads.
    """

    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    op: Conv
    epilogue: str = "fixed31"
    unsigned: bool = False
    per_channel: bool = True
    fill: tuple[int, int] | None = None
    threads: int = 2


def stored(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    low, high = Affine.of(dtype, 1.0).range
    return rng.integers(low, high, shape, endpoint=True).astype(dtype.numpy)


def program(case: Case) -> tuple[Graph, list[Array]]:
    """Returns the program of a case, and arrays to run it on."""
    rng = np.random.default_rng(7)
    dtype, other = (DType.U8, DType.I8) if case.unsigned else (DType.I8, DType.U8)
    columns = case.kernel[-1]
    code = Affine.of(dtype, 0.021, 77 if case.unsigned else -3)
    scale = np.float32(0.013) * rng.uniform(0.5, 2, columns).astype(np.float32)
    weight_code = Affine.of(
        DType.I8,
        scale.reshape((1,) * (len(case.kernel) - 1) + (-1,)) if case.per_channel else 0.013,
    )
    graph = Graph("g", [("x", TensorType(case.shape, code))])
    at = graph.at_end()
    x = stored(dtype, case.shape, rng)
    weights = stored(DType.I8, case.kernel, rng)
    if case.fill is not None:
        low, high = code.range
        x[:] = (low, high)[case.fill[0]]
        weights[:] = (-128, 127)[case.fill[1]]
    inputs = [x]
    kernel = at.const(weights, "kernel", weight_code)
    bias_scale = np.float64(code.scale.array) * np.float64(weight_code.scale.array)
    bias = at.const(
        rng.integers(-9999, 9999, columns).astype(np.int32),
        "bias",
        Affine.of(DType.I32, bias_scale.reshape(-1) if case.per_channel else bias_scale),
    )
    sums = at.emit(case.op, graph.inputs[0], kernel, bias)
    to = Affine.of(
        other, 0.031 * np.sqrt(np.prod(case.kernel[:-1])), 131 if other is DType.U8 else 5
    )
    if case.epilogue == "real":
        result = at.emit(Dequantize(), sums)
    elif case.epilogue == "accumulator":
        result = sums
    else:
        rounding = "f32_rne" if case.epilogue == "f32_rne" else "fixed31"
        result = at.emit(Requantize(to, rounding, clamp=(to.range[0] + 9, to.range[1] - 4)), sums)
    if case.epilogue == "sum":
        added = graph.add_input("y", TensorType(sums.type.shape, code))
        inputs.append(stored(dtype, added.type.known_shape, rng))
        result = at.emit(Add(Affine.of(other, 0.07, 3)), result, added)
    graph.set_outputs([result])
    return graph, inputs


def check(case: Case) -> list[KernelCode]:
    """Computes a case by kernels and by the reference; returns the kernels of its steps."""
    graph, inputs = program(case)
    steps = harness.planned(graph, Sizes({}), case.threads).plan.steps
    kernels = [kernel_code_of(step.kernel) for step in steps]
    harness.check(graph, *inputs, threads=case.threads)
    return kernels


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 3]))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    window, strides, dilation = each(1, 4), each(1, 3), each(1, 3)
    largest = {1: 60, 2: 14, 3: 7}[rank]
    sizes = tuple(
        (taps - 1) * apart + 1 + draw(st.integers(0, largest))
        for taps, apart in zip(window, dilation, strict=True)
    )
    pads: Padding = tuple(zip(each(0, 4), each(0, 4), strict=True))
    padding: Padding = draw(st.sampled_from(["valid", "same", pads]))
    channels = draw(st.sampled_from([2, 5, 8, 15, 16, 17, 24, 32, 47, 80]))
    multiplier = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return Case(
        (draw(st.integers(1, 2)), *sizes, channels),
        (*window, 1, channels * multiplier),
        Conv(strides, padding, dilation, channels),
        draw(st.sampled_from(EPILOGUES)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.none() | st.tuples(st.integers(0, 1), st.integers(0, 1))),
        draw(st.sampled_from([1, 4])),
    )


@given(cases())
def test_any_shape(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_epilogues(epilogue: str, unsigned: bool, stride: int) -> None:
    op = Conv((stride, stride), "same", (), 40)
    check(Case((2, 15, 13, 40), (3, 3, 1, 40), op, epilogue, unsigned))


@pytest.mark.parametrize("x", [0, 1])
@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize("unsigned", [False, True])
def test_extremes(x: int, weight: int, unsigned: bool) -> None:
    op = Conv((), ((3, 3), (3, 3)), (), 16)
    check(Case((1, 9, 9, 16), (5, 5, 1, 16), op, "accumulator", unsigned, fill=(x, weight)))


def test_lines_too_long_for_the_cache() -> None:
    check(Case((1, 6, 900, 20), (3, 3, 1, 20), Conv((), "same", (), 20)))


@pytest.mark.parametrize("window", [(12, 12), (3, 30), (41,)])
def test_large_windows(window: tuple[int, ...]) -> None:
    sizes = tuple(extent + 7 for extent in window)
    (kernel,) = check(Case((1, *sizes, 18), (*window, 1, 18), Conv((), "same", (), 18)))
    assert isinstance(kernel, DepthwiseKernel)
    assert (kernel.window is None) == (len(window) == 2)


@given(
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(1, 2)] * 6),
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 20),
    st.integers(1, 32),
)
def test_tasks_share_the_rows_and_channels_of_a_result(
    window: tuple[int, ...],
    steps: tuple[int, ...],
    places: tuple[int, ...],
    blocks: int,
    tasks: int,
) -> None:
    geometry = DepthwiseGeometry(window, steps[:3], steps[3:])
    found = divided(geometry, places, 2 * places[0], blocks, tasks)
    rows = len(found.pairing.rows)
    assert rows * (found.groups - 1) < places[1] <= rows * found.groups
    assert found.range_blocks * (found.ranges - 1) < blocks <= found.range_blocks * found.ranges
    assert found.together <= max(found.width, 1) <= places[2]


@pytest.mark.parametrize(
    ("width", "places"), [(112, 7), (28, 7), (7, 7), (64, 7), (8, 8), (5, 5), (10, 5), (1, 1)]
)
def test_places_that_are_summed_together_fit_the_width(width: int, places: int) -> None:
    (kernel,) = check(Case((1, 2, width, 16), (3, 3, 1, 16), Conv((), "same", (), 16)))
    assert isinstance(kernel, DepthwiseKernel)
    assert kernel.places == places


def test_sources_are_stored_where_they_are_read_alone() -> None:
    alike, gathered = (
        harness.planned(
            program(
                Case((1, 8, 8, channels), (3, 3, 1, 512), Conv((), "same", (), channels), "fixed31")
            )[0],
            Sizes({}),
        ).plan
        for channels in (512, 256)
    )
    sources = 512 * np.dtype(np.int64).itemsize
    assert "sources" not in alike.steps[0].tensors
    assert "sources" in gathered.steps[0].tensors
    assert gathered.constant_bytes == alike.constant_bytes + sources


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_grouped(groups: int, epilogue: str) -> None:
    op = Conv((1, 2), "same", (), groups)
    check(Case((2, 6, 7, 5 * groups), (3, 2, 5, 17 * groups), op, epilogue))


def test_grouped_without_window() -> None:
    check(Case((2, 6, 7, 24), (1, 1, 12, 32), Conv((), "valid", (), 2), "sum"))


@given(
    rows=st.integers(1, 6),
    window=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    strides=st.tuples(st.just(1), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
)
def test_pairs_hold_every_line_of_a_window_once(
    rows: int, window: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]
) -> None:
    found = paired(rows, window, strides, dilation)
    for row, (pairs, phase) in enumerate(zip(found.rows, found.phases, strict=True)):
        met = {
            tap: found.lines[pair][half]
            for pair, taps in zip(pairs, found.weights[phase], strict=True)
            for half, tap in enumerate(taps)
            if tap >= 0
        }
        assert met == {
            z * window[1] + y: (z * dilation[0], row * strides[1] + y * dilation[1], 0)
            for z in range(window[0])
            for y in range(window[1])
        }
