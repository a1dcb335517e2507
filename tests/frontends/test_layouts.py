"""Channels-first sources by the kit: kernels, paddings, borders, against PyTorch's definitions."""

from itertools import product
from typing import Any

import numpy as np
import pytest

import qir
from qir.errors import UnsupportedError
from qir.frontends.shared import Emitter, ImportRule, Known, Translation, constant, layouts
from qir.ir import Graph
from qir.ops import Add, Conv, ConvTranspose, MaxPool, Relu
from qir.types import Array, Dim, DType, TensorType


def integers(seed: int, *shape: int) -> Array:
    """Small integers, whose sums are exact in float32."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def scattered(x: Array, kernel: Array, stride: int, dilation: int, groups: int) -> Array:
    """A transposed convolution as its definition says: each number times the taps, added up."""
    batch, inputs, height, width = x.shape
    _, outputs, rows, columns = kernel.shape
    reach = [dilation * (taps - 1) + 1 for taps in (rows, columns)]
    shape = [(size - 1) * stride + more for size, more in zip((height, width), reach, strict=True)]
    y = np.zeros((batch, outputs * groups, *shape), np.float32)
    part = inputs // groups
    for i, r, c, h, w in product(*map(range, (inputs, rows, columns, height, width))):
        first = (i // part) * outputs
        place = (h * stride + r * dilation, w * stride + c * dilation)
        y[:, first : first + outputs, *place] += x[:, i, h, w, None] * kernel[i, :, r, c]
    return y


def computed(x: Array, write: Any) -> Array:
    b = Emitter(Graph("g"))
    value = b.input("x", TensorType(x.shape, DType.F32))
    b.graph.set_outputs([b.value(write(b, value))])
    return qir.evaluate(b.graph, x)[0]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation", "extra"), [(1, 1, 0), (2, 1, 1), (3, 2, 2)])
def test_a_transposed_convolution_of_any_groups(groups, stride, dilation, extra):
    x, kernel = integers(0, 2, 4, 3, 5), integers(1, 4, 3, 2, 3)
    pads = ((1, 0), (0, 2))
    padding = layouts.conv_transpose_pads(pads, (2, 3), (dilation,) * 2, (extra,) * 2)
    op = ConvTranspose((stride,) * 2, padding, (dilation,) * 2, groups)
    found = computed(
        x,
        lambda b, value: layouts.on_channels_last(
            b, op, value, layouts.conv_transpose_kernel(b, Known.of(kernel), groups)
        ),
    )
    whole = np.pad(scattered(x, kernel, stride, dilation, groups), [(0, 0), (0, 0), (0, 9), (0, 9)])
    height, width = found.shape[2:]
    assert np.array_equal(found, whole[:, :, 1 : 1 + height, :width])
    rows, columns = (dilation * (taps - 1) + 1 + extra for taps in (2, 3))
    assert (height, width) == (2 * stride + rows - 1, 4 * stride + columns - 2)


def test_a_kernel_that_is_computed_is_turned_by_ops():
    x, kernel = integers(0, 1, 4, 3, 3), integers(1, 4, 1, 2, 2)

    def write(b, value, turned):
        padding = layouts.conv_transpose_pads(((0, 0),) * 2, (2, 2), (1, 1), (0, 0))
        op = ConvTranspose(padding=padding, groups=2)
        return layouts.on_channels_last(
            b, op, value, layouts.conv_transpose_kernel(b, turned(b), 2)
        )

    known = computed(x, lambda b, value: write(b, value, lambda b: Known.of(kernel)))
    emitted = computed(x, lambda b, value: write(b, value, lambda b: b.const(kernel)))
    assert np.array_equal(known, emitted)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_grouped_convolution_in_three_dimensions(groups):
    x, kernel = integers(0, 1, 4, 3, 4, 5), integers(1, 6, 4 // groups, 2, 1, 2)
    op = Conv(padding=layouts.pairs([1, 0, 0, 0, 0, 1]), groups=groups)
    found = computed(
        x,
        lambda b, value: layouts.on_channels_last(
            b, op, value, layouts.conv_kernel(b, Known.of(kernel))
        ),
    )
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 0), (0, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 1, 2), (2, 3, 4))
    parted = windows.reshape(1, groups, 4 // groups, *windows.shape[2:])
    weights = kernel.reshape(groups, 6 // groups, *kernel.shape[1:])
    wanted = np.einsum("ngidhwabc,goiabc->ngodhw", parted, weights)
    assert np.array_equal(found, wanted.reshape(1, 6, *wanted.shape[3:]))


@pytest.mark.parametrize("lower", [False, True])
def test_same_padding_puts_the_odd_place_on_the_side_that_is_asked_for(lower):
    pads = layouts.same_pads((7, 8), (3, 4), (2, 2), (1, 2), lower=lower)
    assert pads == (((1, 1), (3, 2)) if lower else ((1, 1), (2, 3)))
    if not lower:
        op = Conv((2, 2), "same", (1, 2))
        assert op.geometry((7, 8), (3, 4))[2] == pads
    with pytest.raises(UnsupportedError, match="expected a known size, got H; fix it at import"):
        layouts.same_pads((Dim.named("H"),), (3,), (1,), (1,))


def test_paddings_come_in_pairs():
    assert layouts.pairs([1, 2, 3, 4]) == ((1, 3), (2, 4))
    with pytest.raises(qir.QirError, match=r"expected a number before and after, got \[1\]"):
        layouts.pairs([1])


RULES: dict[str, ImportRule] = {
    "conv": lambda b, x, w: layouts.on_channels_last(
        b, Conv(padding="same"), x, layouts.conv_kernel(b, w)
    ),
    "pool": lambda b, x: layouts.on_channels_last(b, MaxPool((2, 2), (2, 2)), x),
    "relu": lambda b, x: b.emit(Relu(), x),
    "halves": lambda b, x: [x, x],
}


def test_passes_move_the_transposes_of_activations_to_the_borders():
    reading = Translation("read", "layers", RULES)
    reading.input("x", TensorType((1, 3, 8, 8), DType.F32))
    last = "x"
    for index, (channels, outputs) in enumerate([(3, 4), (4, 4), (4, 2)]):
        reading.constant(f"w{index}", integers(index, outputs, channels, 3, 3))
        for kind, operands in [("conv", [last, f"w{index}"]), ("relu", ["c"]), ("pool", ["r"])]:
            names = [f"c{index}" if name == "c" else name for name in operands]
            names = [f"r{index}" if name == "r" else name for name in names]
            reading.node(kind, names, [f"{kind[0]}{index}"])
        last = f"p{index}"
    graph = reading.finish([last])
    moved = qir.optimize(graph, "move-transposes, canonicalize")
    count = [node.op.name for node in moved.nodes].count("transpose")
    assert count <= 2 < [node.op.name for node in graph.nodes].count("transpose")
    x = integers(9, 1, 3, 8, 8)
    assert np.array_equal(qir.evaluate(moved, x)[0], qir.evaluate(graph, x)[0])


def test_all_that_a_model_lacks_is_told_in_one_error():
    reading = Translation("read", "layers", RULES)
    reading.input("x", TensorType((1, 3, 8, 8), DType.F32))
    reading.input("x", TensorType((1,), DType.F32))
    reading.constant("big", np.array([2**40]))
    reading.node("swirl", ["x"], ["a"], place="line 3")
    reading.node("swirl", ["a"], ["b"], place="line 4")
    reading.node("relu", ["y"], ["c"])
    reading.node("halves", ["big"], ["d"])
    with pytest.raises(UnsupportedError) as refused:
        reading.finish(["b", "nothing"], lambda names: [f"write a rule for {names[0]}"])
    text = str(refused.value)
    assert text.startswith("read: expected layers that QIR has a rule for, got swirl\n")
    for line in (
        "swirl at line 3, line 4",
        "read: expected a new name, got 'x' twice",
        "constant 'big': expected integers of 32 bits, got 1099511627776",
        "got 'y'",
        "got 'nothing'",
        "write a rule for swirl",
    ):
        assert line in text


def test_a_rule_gives_as_many_results_as_the_node_has():
    reading = Translation("read", "layers", RULES)
    reading.input("x", TensorType((2,), DType.F32))
    reading.node("halves", ["x"], ["a"])
    with pytest.raises(qir.QirError, match="halves: expected 1 result of its rule, got 2"):
        reading.finish(["a"])


def test_constants_are_held_by_reference_and_have_types_that_qir_has():
    array = np.ones((2, 2), np.float32)
    held = constant(array, "w")
    assert held.array is array or held.array.base is array
    assert constant(np.array([-1, 2**31 - 1])).type == TensorType((2,), DType.I32)
    for wrong in (np.array(["a"]), np.array([1j]), np.array([None])):
        with pytest.raises(UnsupportedError, match="constant 'w': "):
            constant(wrong, "w")


def test_a_constant_is_no_node_until_an_op_reads_it():
    rules: dict[str, ImportRule] = {"add": lambda b, x, y: b.compute(Add(), x, y)}
    reading = Translation("read", "layers", rules)
    reading.constant("a", np.array([1, 2], np.float32))
    reading.constant("b", np.array([3, 4], np.float32))
    reading.node("add", ["a", "b"], ["c"])
    graph = reading.finish(["c"])
    assert [node.op.name for node in graph.nodes] == ["const", "return"]
    assert np.array_equal(graph.outputs[0].array, [4, 6])
