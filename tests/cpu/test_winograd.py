"""Transformed convolutions against the reference, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

pytest.importorskip("llvmlite")

from qir.backends.xla.cpu.cover import Cover
from qir.backends.xla.cpu.covers import conv, dense
from qir.backends.xla.cpu.covers.winograd import winograd
from qir.backends.xla.cpu.kernels.dense import Dense
from qir.backends.xla.cpu.kernels.winograd import Winograd
from qir.backends.xla.cpu.target import host_target
from qir.fixed_point import Rounding
from qir.ir import Graph
from qir.ops import Add, Conv, Dequantize, Requantize
from qir.ops.windows import Padding
from qir.signature import Sizes
from qir.types import Array, Dim, DType, Quant, Size, TensorType, known
from tests.cpu import harness

TARGET = host_target()
pytestmark = pytest.mark.skipif(
    TARGET is None or TARGET.activation != "s16", reason="an instruction set of bytes"
)

ENDINGS = ("fixed31", "f32_rne", "sum", "real", "accumulator")


@dataclass(frozen=True)
class Case:
    """A convolution to compute.

    Attributes:
        shape: Of x.
        columns: Channels of the result.
        depth: Taps in depth; none for two spatial dimensions.
        strides: As the op takes them.
        padding: Of the op.
        ending: What follows it.
        point: Zero point of x, which is unsigned where that is above 127.
        extremes: Numbers everywhere in x and in the weights, or random ones.
        threads: Most threads.
    """

    shape: tuple[Size, ...]
    columns: int = 16
    depth: int | None = None
    strides: tuple[int, ...] = ()
    padding: Padding = "same"
    ending: str = "fixed31"
    point: int = -3
    extremes: tuple[str, str] = ("random", "random")
    threads: int = 2


def stored(code: Quant, shape: tuple[int, ...], how: str, rng: np.random.Generator) -> Array:
    low, high = code.storage.bounds
    if how == "random":
        return rng.integers(low, high, shape, endpoint=True).astype(code.storage.numpy)
    if how == "ends":
        return rng.choice([low, high], shape).astype(code.storage.numpy)
    return np.full(shape, low if how == "least" else high, code.storage.numpy)


def program(case: Case) -> tuple[Graph, list[Array]]:
    rng = np.random.default_rng(7)
    x_type, other = (DType.U8, DType.I8) if case.point > 127 else (DType.I8, DType.U8)
    code = Quant.of(x_type, 0.021, case.point)
    scale = np.float32(0.013) * rng.uniform(0.5, 2, case.columns).astype(np.float32)
    depth = () if case.depth is None else (case.depth,)
    window = (*depth, 3, 3, known(case.shape[-1], "channels"), case.columns)
    weight_code = Quant.of(DType.I8, scale.reshape((1,) * (len(window) - 1) + (-1,)))
    graph = Graph("g", [("x", TensorType(case.shape, code))])
    at = graph.at_end()
    kernel = at.const(stored(weight_code, window, case.extremes[1], rng), "kernel", weight_code)
    bias_code = Quant.of(DType.I32, np.float64(code.scale.array) * scale.astype(np.float64))
    numbers = rng.integers(-9999, 9999, case.columns).astype(np.int32)
    bias = at.const(numbers, "bias", bias_code)
    sums = at.emit(Conv(case.strides, case.padding), graph.inputs[0], kernel, bias)
    drawn = tuple(size if isinstance(size, int) else 1 for size in case.shape)
    inputs = [stored(code, drawn, case.extremes[0], rng)]
    if case.ending == "accumulator":
        result = sums
    elif case.ending == "real":
        result = at.emit(Dequantize(), sums)
    else:
        point = 131 if other is DType.U8 else 5
        to = Quant.of(other, 0.031 * np.sqrt(np.prod(window[:-1])), point)
        rounding: Rounding = "f32_rne" if case.ending == "f32_rne" else "fixed31"
        result = at.emit(Requantize(to, rounding, clamp=(to.range[0] + 9, to.range[1] - 4)), sums)
    if case.ending == "sum":
        added = graph.add_input("y", TensorType(sums.type.shape, code))
        inputs.append(stored(code, added.type.known_shape, "random", rng))
        result = at.emit(Add(Quant.of(other, 0.07, 3)), result, added)
    graph.set_outputs([result])
    return graph, inputs


def check(case: Case) -> None:
    graph, inputs = program(case)
    with patch.object(conv, "costly_transform", lambda shape: ""):
        region = harness.planned(graph, Sizes({}), case.threads)
        assert [type(step.kernel) for step in region.plan.steps] == [Winograd]
        harness.check(graph, *inputs, threads=case.threads)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    deep = draw(st.booleans())
    rank = 3 if deep else 2
    pads = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(rank))
    depth = draw(st.integers(1, 3)) if deep else None
    sizes = tuple(draw(st.integers(3, 11)) for _ in range(2))
    if deep:
        sizes = (draw(st.integers(depth or 1, 4)), *sizes)
    channels = draw(st.sampled_from([16, 20, 36, 64] if deep else [16, 17, 31, 32, 50]))
    how = st.sampled_from(["random", "ends", "least", "most"])
    return Case(
        (draw(st.integers(1, 2)), *sizes, channels),
        draw(st.sampled_from([16, 17, 31, 32, 70])),
        depth,
        (draw(st.integers(1, 2)), 1, 1) if deep else (),
        draw(st.sampled_from(["valid", "same", pads])),
        draw(st.sampled_from(ENDINGS)),
        draw(st.sampled_from([-128, -3, 127, 128, 255])),
        (draw(how), draw(how)),
        draw(st.sampled_from([1, 4])),
    )


@given(cases())
def test_any_shape(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("point", [-3, 131])
def test_endings(ending: str, point: int) -> None:
    check(Case((2, 15, 13, 48), 40, ending=ending, point=point))


def test_many_tasks() -> None:
    check(Case((1, 40, 37, 64), 144, ending="sum", threads=4))
    check(Case((1, 3, 22, 21, 64), 144, 3, (2, 1, 1), ending="sum", threads=4))


@pytest.mark.parametrize("x", ["least", "most"])
@pytest.mark.parametrize("weights", ["least", "most"])
@pytest.mark.parametrize("point", [-128, 127, 128, 255])
def test_extremes(x: str, weights: str, point: int) -> None:
    check(Case((1, 5, 5, 512), ending="accumulator", point=point, extremes=(x, weights)))


@pytest.mark.parametrize("pad", [(0, 5), (5, 0)])
def test_depths_that_are_padding_alone(pad: tuple[int, int]) -> None:
    check(Case((1, 2, 6, 6, 16), 16, 2, padding=(pad, (1, 1), (1, 1)), ending="accumulator"))


def found(channels: int) -> Cover | str:
    graph, _ = program(Case((1, 4, 4, channels), point=-128, extremes=("random", "least")))
    node = next(node for node in graph.nodes if isinstance(node.op, Conv))
    assert isinstance(node.op, Conv)
    assert TARGET is not None
    return winograd(node.op, node, dense.ending(node.output), TARGET)


def test_sums_that_may_overflow_are_refused() -> None:
    # 9 * channels * 128 * 255 reaches 2^29 between these.
    assert isinstance(found(1827), Cover)
    refused = found(1828)
    assert isinstance(refused, str)
    assert "exceed 32 bits" in refused


@pytest.mark.parametrize(
    ("shape", "kernel", "depth"),
    [
        ((1, 14, 14, 16), Winograd, None),
        ((1, 7, 7, 16), Dense, None),
        ((4, 7, 7, 16), Winograd, None),
        ((4, 1, 7, 7, 16), Dense, 3),
        ((90, 1, 1, 16), Dense, None),
    ],
)
def test_few_patches_are_summed_directly(
    shape: tuple[int, ...], kernel: type, depth: int | None
) -> None:
    graph, _ = program(Case(shape, depth=depth))
    (step,) = harness.planned(graph, Sizes({})).plan.steps
    assert type(step.kernel) is kernel
    assert ("direct" in step.label) == (kernel is Dense)


def test_direct_sums_leave_out_taps_in_padding() -> None:
    graph, inputs = program(Case((1, 1, 3, 3, 17), depth=3))
    (step,) = harness.planned(graph, Sizes({})).plan.steps
    assert [step.words[f"window_{axis}"] for axis in ("depth", "height", "width")] == [1, 3, 3]
    harness.check(graph, *inputs)


@pytest.mark.parametrize(("size", "kernel"), [(7, Dense), (13, Winograd)])
def test_the_choice_does_not_depend_on_named_sizes(size: int, kernel: type) -> None:
    shape = (4, size, size, 16)
    graph, _ = program(Case((Dim.named("b"), *shape[1:]), ending="accumulator"))
    sizes = Sizes({"b": 4})
    (step,) = harness.planned(graph, sizes).plan.steps
    assert type(step.kernel) is kernel
    code = graph.inputs[0].type.quant
    assert code is not None
    harness.check(graph, stored(code, shape, "random", np.random.default_rng(8)))
