"""Sums of products of 9 to 16 bits: XLA by pairs of signed bytes against the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import qir
from qir.backends.xla.compile import compile_graph
from qir.errors import UnsupportedError
from qir.ir import Graph
from qir.ops import Conv, ConvTranspose, Dequantize, Dot, Requantize, Transpose
from qir.ops.op import Op
from qir.types import Affine, Array, DType, TensorType
from tests.exact.test_reference_vs_xla import run_together

STORAGES = (DType.I8, DType.U8, DType.I16, DType.U16)
OPERATIONS: Sequence[tuple[Op, tuple[int, ...], tuple[int, ...]]] = (
    (Dot(), (5, 70), (70, 6)),
    (Dot(2), (2, 3, 4, 9), (2, 3, 9, 5)),
    (Conv((2, 1), "same"), (2, 7, 6, 5), (3, 3, 5, 4)),
    (Conv((), "same", (), 6), (1, 5, 6, 6), (3, 3, 1, 12)),
    (Conv((), "valid", (2,), 2), (2, 9, 6), (3, 3, 4)),
    (Conv(), (1, 4, 4, 9), (1, 1, 9, 3)),
    (ConvTranspose((2, 2)), (1, 4, 3, 4), (3, 2, 4, 5)),
)


def layer(
    op: Op,
    types: tuple[DType, DType],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    constant: bool,
    points: tuple[int, int] = (0, 0),
) -> tuple[Graph, list[Array]]:
    """A layer that rounds to 16 bits, and inputs of which a part lies at the ends of the types."""
    rng = np.random.default_rng(11)
    codes = [
        Affine.of(storage, 0.01, (storage.bounds[0] + storage.bounds[1] + 1) // 2 + point)
        for storage, point in zip(types, points, strict=True)
    ]
    arrays: list[Array] = []
    for shape, storage in zip(shapes, types, strict=True):
        low, high = storage.bounds
        ends = rng.choice([low, high], shape)
        drawn = rng.integers(low, high, shape, endpoint=True)
        arrays.append(np.where(rng.random(shape) < 0.5, ends, drawn).astype(storage.numpy))
    graph = Graph("layer", [("x", TensorType(shapes[0], codes[0]))])
    if constant:
        kernel = graph.at_end().const(arrays[1], "kernel", codes[1])
    else:
        kernel = graph.add_input("kernel", TensorType(shapes[1], codes[1]))
    sums = graph.at_end().emit(op, graph.inputs[0], kernel, name="sums")
    graph.set_outputs([sums])
    (acc,) = qir.evaluate(graph, *arrays[: 1 + (not constant)])
    assert sums.type.quant is not None
    step = float(sums.type.quant.scale.array) * np.abs(acc).max() / 30000
    to = Affine.of(DType.I16, step, -5)
    graph.set_outputs([graph.at_end().emit(Requantize(to), sums, name="y")])
    return graph, arrays[: 1 + (not constant)]


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "varying"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: str(each[0]))
def test_every_pair_of_storages(
    operation: tuple[Op, tuple[int, ...], tuple[int, ...]], constant: bool
) -> None:
    op, x_shape, shape = operation
    points = (3, 0) if constant else (-4, 9)
    pairs = [(x, w) for x in STORAGES for w in STORAGES if max(x.bits, w.bits) > 8]
    layers = [layer(op, pair, (x_shape, shape), constant=constant, points=points) for pair in pairs]
    programs = [(compile_graph(graph), tuple(inputs)) for graph, inputs in layers]
    for (graph, inputs), found in zip(layers, run_together(programs), strict=True):
        (expected,) = qir.evaluate(graph, *inputs)
        assert np.unique(expected).size > 3
        assert np.array_equal(found[0], expected), graph


def test_i32_holds_the_sums_that_bounds_prove_small() -> None:
    def sums(bits: int, terms: int) -> DType:
        code = Affine.of(DType.I16, 0.1, bounds=(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1))
        x, kernel = TensorType((1, terms), code), TensorType((terms, 2), code)
        (found,) = qir.ops.op.infer(Dot(), [x, kernel])
        return found.dtype

    assert sums(12, 256) is DType.I32
    assert sums(12, 257) is DType.I64
    assert sums(16, 1) is DType.I32
    assert sums(16, 3) is DType.I64


def test_moves_of_sums_and_their_floats_are_exact() -> None:
    graph, inputs = layer(Dot(), (DType.I16, DType.I16), ((5, 70), (70, 6)), constant=True)
    b = graph.at_end()
    sums, (y,) = graph.value("sums"), graph.outputs
    assert y.op is not None
    moved = b.emit(y.op, b.emit(Transpose((1, 0)), sums))
    graph.set_outputs([y, moved, b.emit(Dequantize(), sums)])
    assert all(map(np.array_equal, compile_graph(graph)(*inputs), qir.evaluate(graph, *inputs)))


def test_sums_in_i64_leave_a_program_rounded_alone() -> None:
    graph, _ = layer(Dot(), (DType.I16, DType.I16), ((5, 70), (70, 6)), constant=True)
    graph.set_outputs([graph.value("sums")])
    with pytest.raises(UnsupportedError, match=r"at most 32 bits, got i64.*requantize them"):
        compile_graph(graph)


def test_sums_of_more_terms_than_a_pair_of_bytes_holds_are_refused() -> None:
    code = Affine.of(DType.I16, 0.1)
    graph = Graph("long", [("x", TensorType((1, 70000), code))])
    b = graph.at_end()
    kernel = b.const(np.full((70000, 1), 32767, np.int16), "kernel", code)
    sums = b.emit(Dot(), graph.inputs[0], kernel)
    graph.set_outputs([b.emit(Requantize(Affine.of(DType.I16, 1e5)), sums)])
    with pytest.raises(UnsupportedError, match="sums in i64 of at most 65535 terms, got 70000"):
        compile_graph(graph)


def test_check_overflow_holds_i64_to_48_bits() -> None:
    graph, _ = layer(Dot(), (DType.I16, DType.I16), ((5, 70), (70, 6)), constant=True)
    qir.optimize(graph, "check-overflow")
    code = Affine.of(DType.I16, 0.1)
    wide = Graph("wide", [("x", TensorType((1, 2**17), code))])
    b = wide.at_end()
    kernel = b.const(np.full((2**17, 1), -32768, np.int16), "kernel", code)
    sums = b.emit(Dot(), wide.inputs[0], kernel)
    wide.set_outputs([b.emit(Requantize(Affine.of(DType.I16, 1e5)), sums)])
    with pytest.raises(qir.QirError, match=r"check-overflow: dot: .*\[-140737488355328"):
        qir.optimize(wide, "check-overflow")
