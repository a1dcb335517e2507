"""Transformed convolutions against the reference, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from qir.backends.native.kernels.dense import DenseKernel
from qir.backends.native.kernels.transforms import TRANSFORMS, Transform, product
from qir.backends.native.kernels.winograd import WinogradKernel
from qir.backends.native.pattern import Match
from qir.backends.native.patterns import conv
from qir.backends.native.patterns.epilogue import matched_epilogue
from qir.backends.native.patterns.winograd import winograd
from qir.ir import Graph
from qir.ir.signature import Sizes
from qir.ops import Add, Conv, Dequantize, Requantize
from qir.ops.windows import Padding
from qir.types import Affine, Array, Dim, DType, Size, TensorType, known
from tests.backends.cpu import harness

TARGET = host_target()
pytestmark = pytest.mark.skipif(
    TARGET is None or TARGET.activation != "s16", reason="an instruction set of bytes"
)

EPILOGUES = ("fixed31", "f32_rne", "sum", "real", "accumulator")


@dataclass(frozen=True)
class Case:
    """A convolution to compute.

    Attributes:
        shape: Of x.
        columns: Channels of the result.
        depth: Taps in depth; none for two spatial dimensions.
        strides: As the op takes them.
        padding: Of the op.
        epilogue: What follows it.
        point: Zero point of x, which is unsigned where that is above 127.
        extremes: Numbers everywhere in x and in the weights, or random ones, or in the weights such
            that sums come near the limit of the larger patch.
        threads: Most threads.
        tile: Places that a patch gives in each direction.
    """

    shape: tuple[Size, ...]
    columns: int = 16
    depth: int | None = None
    strides: tuple[int, ...] = ()
    padding: Padding = "same"
    epilogue: str = "fixed31"
    point: int = -3
    extremes: tuple[str, str] = ("random", "random")
    threads: int = 2
    tile: int = 4


def stored(code: Affine, shape: tuple[int, ...], how: str, rng: np.random.Generator) -> Array:
    low, high = code.storage.bounds
    if how == "random":
        return rng.integers(low, high, shape, endpoint=True).astype(code.storage.numpy)
    if how == "ends":
        return rng.choice([low, high], shape).astype(code.storage.numpy)
    if how == "near the limit":
        # 130 is the most that x differs from a zero point of -3.
        numbers = rng.integers(90, high, shape, endpoint=True) * rng.choice([-1, 1], shape)
        total = np.abs(numbers).reshape(-1, shape[-1]).cumsum(axis=0).reshape(shape)
        return np.where(130 * total < 2**25, numbers, 0).astype(code.storage.numpy)
    return np.full(shape, low if how == "least" else high, code.storage.numpy)


def program(case: Case) -> tuple[Graph, list[Array]]:
    rng = np.random.default_rng(7)
    x_type, other = (DType.U8, DType.I8) if case.point > 127 else (DType.I8, DType.U8)
    code = Affine.of(x_type, 0.021, case.point)
    scale = np.float32(0.013) * rng.uniform(0.5, 2, case.columns).astype(np.float32)
    depth = () if case.depth is None else (case.depth,)
    window = (*depth, 3, 3, known(case.shape[-1], "channels"), case.columns)
    weight_code = Affine.of(DType.I8, scale.reshape((1,) * (len(window) - 1) + (-1,)))
    graph = Graph("g", [("x", TensorType(case.shape, code))])
    at = graph.at_end()
    kernel = at.const(stored(weight_code, window, case.extremes[1], rng), "kernel", weight_code)
    bias_code = Affine.of(DType.I32, np.float64(code.scale.array) * scale.astype(np.float64))
    numbers = rng.integers(-9999, 9999, case.columns).astype(np.int32)
    bias = at.const(numbers, "bias", bias_code)
    sums = at.emit(Conv(case.strides, case.padding), graph.inputs[0], kernel, bias)
    drawn = tuple(size if isinstance(size, int) else 1 for size in case.shape)
    inputs = [stored(code, drawn, case.extremes[0], rng)]
    if case.epilogue == "accumulator":
        result = sums
    elif case.epilogue == "real":
        result = at.emit(Dequantize(), sums)
    else:
        point = 131 if other is DType.U8 else 5
        to = Affine.of(other, 0.031 * np.sqrt(np.prod(window[:-1])), point)
        rounding = "f32_rne" if case.epilogue == "f32_rne" else "fixed31"
        result = at.emit(Requantize(to, rounding, clamp=(to.range[0] + 9, to.range[1] - 4)), sums)
    if case.epilogue == "sum":
        added = graph.add_input("y", TensorType(sums.type.shape, code))
        inputs.append(stored(code, added.type.known_shape, "random", rng))
        result = at.emit(Add(Affine.of(other, 0.07, 3)), result, added)
    graph.set_outputs([result])
    return graph, inputs


def check(case: Case) -> None:
    graph, inputs = program(case)
    with patch.object(conv, "cost", lambda tile, *_: tile != case.tile):
        placement = harness.planned(graph, Sizes({}), case.threads)
        kernels = [step.kernel for step in placement.plan.steps]
        assert [kernel.tile for kernel in kernels if isinstance(kernel, WinogradKernel)] == [
            case.tile
        ]
        harness.check(graph, *inputs, threads=case.threads)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=str)
def test_transforms_compute_convolutions_and_fit_16_bits(transform: Transform) -> None:
    data, weights, sums = (
        product(factors) for factors in (transform.data, transform.weights, transform.sums)
    )
    rng = np.random.default_rng(3)
    x, window = (rng.integers(-255, 256, size) for size in (transform.size, 3))
    direct = np.correlate(x, window, "valid")
    too_large = transform.odd * 2 ** np.array(transform.places)
    np.testing.assert_array_equal(sums @ ((weights @ window) * (data @ x)), too_large * direct)
    growth = np.abs(data).sum(axis=1).max() ** 2
    assert 255 * growth < 2**15
    assert 128 * growth * 2 < 2**15, "of numbers around 0 with depth, where two are added"
    assert transform.growth == np.abs(weights).sum(axis=1).max()
    assert 255 * transform.growth**2 < 2**15
    assert transform.inverse * transform.odd**2 % 2**32 == 1


@st.composite
def cases(draw: st.DrawFn) -> Case:
    deep = draw(st.booleans())
    rank = 3 if deep else 2
    pads = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(rank))
    depth = draw(st.integers(1, 3)) if deep else None
    sizes = tuple(draw(st.integers(3, 11)) for _ in range(2))
    if deep:
        sizes = (draw(st.integers(depth or 1, 6)), *sizes)
    channels = draw(st.sampled_from([16, 20, 32] if deep else [16, 17, 31, 32, 50]))
    how = st.sampled_from(["random", "ends", "least", "most"])
    return Case(
        (draw(st.integers(1, 2)), *sizes, channels),
        draw(st.sampled_from([16, 17, 31, 32, 70])),
        depth,
        (draw(st.integers(1, 2)), 1, 1) if deep else (),
        draw(st.sampled_from(["valid", "same", pads])),
        draw(st.sampled_from(EPILOGUES)),
        draw(st.sampled_from([-128, -3, 127, 128, 255])),
        (draw(how), draw(how)),
        draw(st.sampled_from([1, 4])),
        draw(st.sampled_from(list(TRANSFORMS))),
    )


@given(cases())
def test_any_shape(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("tile", TRANSFORMS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("point", [-3, 131])
def test_epilogues(epilogue: str, point: int, tile: int) -> None:
    check(Case((2, 15, 13, 48), 40, epilogue=epilogue, point=point, tile=tile))


@pytest.mark.parametrize("tile", TRANSFORMS)
def test_many_tasks(tile: int) -> None:
    check(Case((1, 60, 57, 64), 144, epilogue="sum", threads=4, tile=tile))
    check(Case((1, 3, 32, 31, 64), 144, 3, (2, 1, 1), epilogue="sum", threads=4, tile=tile))
    check(Case((2, 5, 32, 31, 32), 144, 3, epilogue="sum", threads=4, tile=tile))


MOST_CHANNELS = {2: 1827, 4: 114}
"""By tile: 9 * 128 * 255 times as many are below 2^29 and 2^25, and one more channel is not."""


@pytest.mark.parametrize("x", ["least", "most"])
@pytest.mark.parametrize("weights", ["least", "most"])
@pytest.mark.parametrize("point", [-128, 127, 128, 255])
@pytest.mark.parametrize("tile", TRANSFORMS)
def test_extremes(x: str, weights: str, point: int, tile: int) -> None:
    shape = (1, 5, 5, min(MOST_CHANNELS[tile], 512))
    check(Case(shape, epilogue="accumulator", point=point, extremes=(x, weights), tile=tile))


@pytest.mark.parametrize("x", ["least", "most", "ends"])
@pytest.mark.parametrize("weights", ["least", "most", "ends"])
@pytest.mark.parametrize("point", [-128, 127, 128, 255])
@pytest.mark.parametrize("tile", TRANSFORMS)
def test_extremes_with_depth(x: str, weights: str, point: int, tile: int) -> None:
    # 27 * 128 * 128 times 37 channels are below 2^24; 32 are whole vectors.
    case = Case((1, 5, 6, 6, 32), 16, 3, epilogue="accumulator", point=point, tile=tile)
    check(replace(case, extremes=(x, weights)))


@pytest.mark.parametrize(
    ("shape", "depth", "strides", "weights", "deep"),
    [
        ((1, 3, 9, 9, 32), 3, (), "least", True),
        ((1, 3, 9, 9, 48), 3, (), "least", False),
        ((1, 3, 9, 9, 48), 3, (), "random", True),
        ((1, 2, 9, 9, 32), 3, (), "random", False),
        ((1, 3, 9, 9, 36), 3, (), "random", False),
        ((1, 5, 9, 9, 32), 3, (2, 1, 1), "random", False),
        ((1, 5, 9, 9, 32), 2, (), "random", False),
    ],
)
def test_depth_is_transformed_where_it_is_exact(
    shape: tuple[int, ...], depth: int, strides: tuple[int, ...], weights: str, deep: bool
) -> None:
    graph, inputs = program(Case(shape, 16, depth, strides, extremes=("random", weights)))
    with patch.object(conv, "cost", lambda tile, *_: tile != 4):
        (step,) = harness.planned(graph, Sizes({})).plan.steps
        assert isinstance(step.kernel, WinogradKernel)
        assert step.kernel.deep == deep
        harness.check(graph, *inputs)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 15), st.booleans())
def test_sums_near_the_limit(row: int, column: int, channel: int, least: bool) -> None:
    case = Case((1, 6, 6, 270), padding="valid", epilogue="accumulator")
    graph, (x,) = program(replace(case, extremes=("random", "near the limit")))
    (weights,) = (
        value.array for value in graph.values() if value.is_constant and value.type.rank == 4
    )
    low, high = (127, -128) if least else (-128, 127)
    place = (0, slice(row, row + 3), slice(column, column + 3))
    x[place] = np.where(weights[..., channel] > 0, high, low)
    with patch.object(conv, "cost", lambda tile, *_: tile != 4):
        (step,) = harness.planned(graph, Sizes({})).plan.steps
        assert getattr(step.kernel, "tile", 1) == 4
        (sums,) = harness.check(graph, x)
    assert 0.95 * 2**25 < abs(int(sums[0, row, column, channel])) < 2**25


@pytest.mark.parametrize("pad", [(0, 5), (5, 0)])
def test_depths_that_are_padding_alone(pad: tuple[int, int]) -> None:
    check(Case((1, 2, 6, 6, 16), 16, 2, padding=(pad, (1, 1), (1, 1)), epilogue="accumulator"))


def found(channels: int, tile: int) -> Match | str:
    graph, _ = program(Case((1, 4, 4, channels), point=-128, extremes=("random", "least")))
    node = next(node for node in graph.nodes if isinstance(node.op, Conv))
    assert isinstance(node.op, Conv)
    assert TARGET is not None
    return winograd(node.op, node, matched_epilogue(node.output), TARGET, tile)


@pytest.mark.parametrize(("tile", "most"), MOST_CHANNELS.items())
def test_sums_that_may_overflow_are_refused(tile: int, most: int) -> None:
    assert isinstance(found(most, tile), Match)
    refused = found(most + 1, tile)
    assert isinstance(refused, str)
    assert f"exceed {TRANSFORMS[tile].bits} bits" in refused


def test_a_smaller_patch_where_the_larger_may_overflow() -> None:
    graph, _ = program(Case((1, 40, 40, 115), point=-128, extremes=("random", "least")))
    (step,) = harness.planned(graph, Sizes({})).plan.steps
    assert isinstance(step.kernel, WinogradKernel)
    assert step.kernel.tile == 2


@pytest.mark.parametrize(
    ("shape", "columns", "depth", "tile"),
    [
        ((1, 56, 56, 64), 64, None, 4),
        ((1, 14, 14, 256), 256, None, 2),
        ((1, 7, 7, 512), 512, None, 1),
        ((4, 7, 7, 64), 64, None, 4),
        ((4, 1, 5, 5, 64), 64, 3, 1),
        ((90, 1, 1, 64), 64, None, 1),
    ],
)
def test_patches_share_weights_that_are_larger(
    shape: tuple[int, ...], columns: int, depth: int | None, tile: int
) -> None:
    graph, _ = program(Case(shape, columns, depth))
    (step,) = harness.planned(graph, Sizes({})).plan.steps
    assert getattr(step.kernel, "tile", 1) == tile
    assert ("direct" in step.label) == (tile == 1)


def test_direct_sums_leave_out_taps_in_padding() -> None:
    graph, inputs = program(Case((1, 1, 3, 3, 17), depth=3))
    (step,) = harness.planned(graph, Sizes({})).plan.steps
    assert [step.parameters[f"window_{axis}"] for axis in ("depth", "height", "width")] == [1, 3, 3]
    harness.check(graph, *inputs)


@pytest.mark.parametrize(("size", "kernel"), [(3, DenseKernel), (13, WinogradKernel)])
def test_the_choice_does_not_depend_on_named_sizes(size: int, kernel: type) -> None:
    shape = (4, size, size, 16)
    graph, _ = program(Case((Dim.named("b"), *shape[1:]), epilogue="accumulator"))
    sizes = Sizes({"b": 4})
    (step,) = harness.planned(graph, sizes).plan.steps
    assert type(step.kernel) is kernel
    code = graph.inputs[0].type.affine
    harness.check(graph, stored(code, shape, "random", np.random.default_rng(8)))
