"""Larger programs than the other tests draw, of every family of kernels, against the reference.

Sizes lie around the widths of vectors and panels; numbers are anywhere or all at an end of their
range; scales are often powers of two apart, so that many results lie halfway between integers.
"""

from __future__ import annotations

from math import prod
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from qir.backends.native.kernel import Kernel
from qir.backends.native.kernels.dense import DenseKernel
from qir.backends.native.kernels.depthwise import DepthwiseKernel
from qir.backends.native.kernels.elementwise import ProductKernel, SumKernel
from qir.backends.native.kernels.pool import PoolKernel
from qir.backends.native.kernels.winograd import WinogradKernel
from qir.backends.native.pattern import Match, match
from qir.backends.native.patterns import conv
from qir.ir import Graph
from qir.ir.signature import Sizes
from qir.ops import (
    Add,
    AvgPool,
    Concat,
    Const,
    Conv,
    Dequantize,
    Dot,
    MaxPool,
    Mul,
    Requantize,
    Return,
    Sub,
)
from qir.ops.type_rules import accumulator
from qir.ops.windows import Padding, dilated
from qir.types import Affine, Array, Code, DType, TensorType
from tests import drawing
from tests.backends.cpu import harness
from tests.backends.cpu.programs import EPILOGUES
from tests.strategies.base import BYTES, Case, Draw, Operand, codes, generator, program, stored
from tests.strategies.sums import then

TARGET = host_target()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TARGET is None, reason="no kernels for this machine"),
]

SIZES = st.one_of(st.sampled_from([1, 7, 8, 9, 15, 16, 17, 31, 32, 33]), st.integers(1, 40))
ROWS = st.one_of(SIZES, st.sampled_from([5, 6, 11, 12, 13, 63, 64, 65]), st.integers(1, 70))
MOST_PRODUCTS = 3_000_000
"""Of a case: the reference is slow."""


def examples(count: int) -> settings:
    """Runs programs. None is shrunk: the message of a failure has the whole program."""
    return drawing.examples(count, phases=[Phase.generate])


def check(case: Case, threads: int, *kernels: type[object]) -> None:
    """Holds kernels to the reference, and asserts that the first op is computed by one of a kind.

    What no kernel takes is not tried: too much of that is an error of hypothesis.
    """
    assert TARGET is not None
    nodes = [node for node in case.graph.nodes if not isinstance(node.op, Const | Return)]
    assume(all(isinstance(match(node, TARGET), Match) for node in nodes))
    steps = harness.planned(case.graph, Sizes({}), threads).plan.steps
    assert isinstance(steps[0].kernel, kernels)
    harness.check(case.graph, *case.inputs, threads=threads)


def numbers(draw: Draw, code: Affine, shape: tuple[int, ...]) -> Array:
    """Draws stored numbers: anywhere, at both ends, or all at one."""
    low, high = code.range
    how = draw(st.sampled_from(["anywhere", "anywhere", "ends", "low", "high"]))
    if how == "anywhere":
        return stored(draw, code, shape)
    ends = {"ends": [low, high], "low": [low], "high": [high]}[how]
    return generator(draw).choice(ends, shape).astype(code.storage.numpy)


def near(draw: Draw, scale: float) -> Affine:
    """Draws a code of bytes of a scale that is a power of two away, or anything near."""
    storage = draw(st.sampled_from(BYTES))
    point = draw(st.one_of(st.sampled_from([*storage.bounds, 0]), st.integers(*storage.bounds)))
    factor = draw(st.sampled_from([0.25, 0.5, 1.0, 2.0, 0.3, 0.77, 1.9]))
    return Affine.of(storage, scale * factor, point)


def linear(draw: Draw, op: Conv | Dot, x_shape: tuple[int, ...], shape: tuple[int, ...]) -> Case:
    """Draws a sum of products with what kernels compute in the same step."""
    assume(prod(x_shape[:-1]) * prod(shape) <= MOST_PRODUCTS)
    code = draw(codes(BYTES))
    x = Operand(numbers(draw, code, x_shape), code)
    storage = draw(st.sampled_from([DType.I8, DType.I8, DType.I4, DType.U8]))
    symmetric, axis = storage is not DType.U8, len(shape) - 1
    weight_code = draw(codes((storage,), shape=shape, axis=axis, symmetric=symmetric))
    draw_weights = numbers if symmetric else stored
    weights = Operand(draw_weights(draw, weight_code, shape), weight_code, constant=True)
    sums = accumulator(op, x.type, weights.type, len(x_shape), shape[-1])
    assert isinstance(sums, Code)
    biases = []
    if draw(st.booleans()):
        wide = Affine.of(DType.I32, sums.scale.array.reshape(-1 if sums.scale.array.ndim else ()))
        array = generator(draw).integers(-99999, 99999, shape[-1:]).astype(np.int32)
        biases = [Operand(array, wide, constant=True)]
    return ended(draw, program(op, x, weights, *biases), sums, prod(shape[:-1]))


def ended(draw: Draw, case: Case, sums: Affine, terms: int) -> Case:
    """Draws what follows sums."""
    epilogue = draw(st.sampled_from(EPILOGUES))
    at, result, inputs = case.graph.at_end(), case.node.output, case.inputs
    if epilogue == "real":
        result = at.emit(Dequantize(), result)
    elif epilogue != "accumulator":
        spread = 2.0 ** np.rint(np.log2(60 * np.sqrt(terms)))
        to = near(draw, float(sums.scale.array.max()) * spread)
        low, high = to.range
        clamp = draw(st.none() | st.tuples(st.integers(low, low + 90), st.integers(low + 90, high)))
        result = at.emit(
            Requantize(to, draw(st.sampled_from(["f32_rne", "fixed31"])), clamp=clamp), result
        )
        if epilogue == "sum":
            scale = float(to.scale.array)
            code = near(draw, scale)
            other = case.graph.add_input("other", result.type.with_element(code))
            inputs = (*inputs, numbers(draw, code, result.type.known_shape))
            pair = (result, other) if draw(st.booleans()) else (other, result)
            result = at.emit(Add(near(draw, scale)), *pair)
    case.graph.set_outputs([result])
    return Case(case.graph, inputs)


@st.composite
def dots(draw: Draw) -> Case:
    depth, columns = draw(st.one_of(SIZES, st.integers(41, 300))), draw(ROWS)
    return linear(draw, Dot(), (draw(ROWS), depth), (depth, columns))


@st.composite
def convs(draw: Draw, depthwise: bool) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 3]))

    def each(most: int, least: int = 1) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(rank))

    window, dilation = each({1: 9, 2: 5, 3: 3}[rank]), draw(st.sampled_from([(), each(3)]))
    strides = draw(st.sampled_from([(), each(3)]))
    # Padding may be wider than the window, so that some places meet nothing else.
    pads = tuple(zip(each(6, 0), each(6, 0), strict=True))
    padding: Padding = draw(st.sampled_from(["valid", "same", pads]))
    room = each({1: 40, 2: 14, 3: 5}[rank], 0)
    extents = dilated(window, dilation or (1,) * rank)
    # A window that is larger than the tensor needs its padding.
    least = (1,) * rank if padding == "same" else extents
    if padding == pads:
        least = tuple(
            max(extent - sum(pair), 1) for extent, pair in zip(extents, pads, strict=True)
        )
    spatial = tuple(size + more for size, more in zip(least, room, strict=True))
    channels, columns, groups = draw(SIZES), draw(SIZES), draw(st.sampled_from([1, 1, 2, 3]))
    if depthwise:
        groups, channels, columns = channels + 1, 1, draw(st.sampled_from([1, 1, 2, 3]))
    op = Conv(strides, padding, dilation, groups)
    x_shape = (draw(st.integers(1, 2)), *spatial, channels * groups)
    return linear(draw, op, x_shape, (*window, channels, columns * groups))


@st.composite
def squares(draw: Draw) -> Case:
    deep = draw(st.booleans())
    rank = 3 if deep else 2
    window = (*([draw(st.integers(1, 3))] if deep else []), 3, 3)
    pads = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(rank))
    padding: Padding = draw(st.sampled_from(["valid", "same", pads]))
    sizes = [draw(st.integers(3, 20 - 8 * deep)) for _ in range(2)]
    sizes = [*([draw(st.integers(window[0], 4))] if deep else []), *sizes]
    channels = draw(st.sampled_from([16, 20, 32, 36] if deep else [16, 17, 25, 31, 32, 33, 40]))
    strides = (draw(st.integers(1, 2)), 1, 1) if deep else ()
    shape = (*window, channels, draw(st.sampled_from([16, 17, 23, 31, 32, 33, 40])))
    return linear(draw, Conv(strides, padding), (draw(st.integers(1, 2)), *sizes, channels), shape)


@st.composite
def pools(draw: Draw) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    window = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    strides = draw(st.sampled_from([(), tuple(draw(st.integers(1, 3)) for _ in range(rank))]))
    pads: Padding = tuple(
        (draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))) for size in window
    )
    padding: Padding = draw(st.sampled_from(["valid", "same", pads]))
    spatial = (size + draw(st.integers(0, {1: 40, 2: 12, 3: 4}[rank])) for size in window)
    code = draw(codes(BYTES))
    shape = (draw(st.integers(1, 2)), *spatial, draw(SIZES))
    x = Operand(numbers(draw, code, shape), code)
    if draw(st.booleans()):
        return program(MaxPool(window, strides, padding), x)
    op = AvgPool(window, strides, padding, draw(st.booleans()))
    to = near(draw, float(code.scale.array))
    if op.divisor([x.type]) is None:
        return program(op.with_code(to), x)
    sums = program(op, x)
    return then(sums, Requantize(to)) if draw(st.booleans()) else sums


@st.composite
def pairs(draw: Draw) -> Case:
    shape = tuple(draw(st.lists(SIZES, min_size=1, max_size=3)))
    first, count = sorted(draw(st.integers(0, len(shape))) for _ in range(2))
    kept = draw(st.integers(0, len(shape)))
    other = tuple(size if first <= axis < count else 1 for axis, size in enumerate(shape))
    other = draw(st.sampled_from([shape, other, shape[kept:]]))
    code = draw(codes(BYTES))
    scale = float(code.scale.array)
    other_code = near(draw, scale)
    x = Operand(numbers(draw, code, shape), code)
    y = Operand(numbers(draw, other_code, other), other_code, constant=draw(st.booleans()))
    operands = draw(st.sampled_from([(x, y), (y, x)]))
    if draw(st.booleans()):
        return program(draw(st.sampled_from([Add, Sub]))(near(draw, 2 * scale)), *operands)
    products = program(Mul(), *operands)
    to = near(draw, scale * 64 * scale)
    return then(products, Requantize(to)) if draw(st.booleans()) else products


@st.composite
def branches(draw: Draw) -> Case:
    """Draws what is computed of one tensor in several ways and then joined."""
    axis = draw(st.sampled_from([3, 3, 3, 2, 1, 0]))
    shape = (draw(st.integers(1, 2)), *(draw(st.integers(1, 12)) for _ in range(2)), draw(SIZES))
    code = draw(codes(BYTES))
    to = near(draw, float(code.scale.array) * 2)
    graph = Graph("joined", [("x", TensorType(shape, code))])
    x, at, channels = graph.inputs[0], graph.at_end(), shape[-1]
    parts = []
    for number in range(draw(st.integers(2, 3))):
        kind = draw(st.sampled_from(["pixels", "squares", "depthwise", "pool", "rescaled"]))
        if kind == "pool":
            part = at.emit(AvgPool((3, 3), (1, 1), "same", to=to), x)
        elif kind == "rescaled":
            part = at.emit(Requantize(to), x)
        else:
            columns = draw(SIZES) if axis == 3 and kind != "depthwise" else channels
            window = (1, 1) if kind == "pixels" else (3, 3)
            groups = channels if kind == "depthwise" else 1
            kernel = (*window, channels // groups, columns)
            scale = 2.0 ** -np.rint(np.log2(60 * np.sqrt(prod(kernel[:-1]))))
            weight_code = Affine.of(DType.I8, float(scale))
            weights = at.const(numbers(draw, weight_code, kernel), f"k{number}", weight_code)
            sums = at.emit(Conv((), "same", (), groups), x, weights)
            part = at.emit(Requantize(to, draw(st.sampled_from(["f32_rne", "fixed31"]))), sums)
        parts.append(part)
    graph.set_outputs([at.emit(Concat(axis), *parts)])
    return Case(graph, (numbers(draw, code, shape),))


THREADS = st.sampled_from([1, 4])


@examples(400)
@given(dots(), THREADS)
def test_products(case: Case, threads: int) -> None:
    check(case, threads, DenseKernel)


@examples(600)
@given(convs(depthwise=False), THREADS)
def test_convolutions(case: Case, threads: int) -> None:
    check(case, threads, DenseKernel, WinogradKernel, DepthwiseKernel)


@examples(600)
@given(convs(depthwise=True), THREADS)
def test_depthwise_convolutions(case: Case, threads: int) -> None:
    check(case, threads, DepthwiseKernel)


@pytest.mark.skipif(
    TARGET is not None and TARGET.activation != "s16", reason="an instruction set of bytes"
)
@examples(300)
@given(squares(), st.sampled_from([2, 4]), THREADS)
def test_transformed_convolutions(case: Case, tile: int, threads: int) -> None:
    # Sums that may be too large for the larger patch are computed by the smaller one.
    with patch.object(conv, "cost", lambda each, *_: [tile, 2, 1, 4].index(each)):
        check(case, threads, WinogradKernel)


@examples(400)
@given(pools(), THREADS)
def test_pools(case: Case, threads: int) -> None:
    check(case, threads, PoolKernel)


@examples(400)
@given(pairs(), THREADS)
def test_arithmetic_on_two_tensors(case: Case, threads: int) -> None:
    check(case, threads, SumKernel, ProductKernel)


@examples(300)
@given(branches(), THREADS)
def test_joined_branches(case: Case, threads: int) -> None:
    with patch.object(conv, "cost", lambda tile, *_: [4, 2, 1].index(tile)):
        check(case, threads, Kernel)
