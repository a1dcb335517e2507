"""move-transposes keeps every bit, and leaves no transpose inside channels-first programs."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.analysis.equivalence import check_equivalent
from qir.backends.reference.interpreter import run_all
from qir.errors import PassError
from qir.numbers.interval import Interval
from qir.ops import (
    Add,
    AvgPool,
    Concat,
    Const,
    Conv,
    Dot,
    LeakyRelu,
    MaxPool,
    Mean,
    Mul,
    Neg,
    Relu,
    Reshape,
    Return,
    Sub,
    Transpose,
)
from qir.ops.op import OPS
from qir.ops.orders import after, identity, inverse
from qir.passes.float.move_transposes import MoveTransposes, cost, into_rows
from qir.passes.shared.layouts import moves_nothing, reshape_blocks, turned, turned_rank
from qir.pipeline import Context, PassManager, Pipeline
from qir.pipeline.rewrite import rewrite
from qir.report.accuracy import measure
from tests.drawing import examples
from tests.strategies import STRATEGIES

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""The orders that put the channels last, and first."""

TIED = {
    *("conv", "conv_transpose", "reshape", "transpose", "broadcast", "embedding", "iota"),
    *("const", "return", "scan", "while", "cond"),
}
"""Ops that can't compute with their axes in another order, and those that the pass looks into."""

ONE_AXIS = {"cast"}
"""Ops whose cases have one axis only."""


def move(graph, inputs):
    """Runs the pass, and checks that it keeps the program."""
    manager = PassManager(Pipeline.parse("move-transposes"), check_inputs=inputs)
    moved = manager.run(graph, Context(interpreter=run_all))
    assert cost(moved) <= cost(graph)
    assert qir.optimize(moved, "move-transposes") == moved
    return moved


def moving(graph):
    """What is transposed so that numbers move."""
    transposes = [node for node in graph.nodes if isinstance(node.op, Transpose)]
    return {
        node.inputs[0]
        for node in transposes
        if not moves_nothing(node.op.permutation, node.inputs[0].type.shape)
    }


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_orders(outer, inner):
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    outer, inner = tuple(outer), tuple(inner)
    assert np.array_equal(x.transpose(inner).transpose(outer), x.transpose(after(outer, inner)))
    assert after(inverse(outer), outer) == identity(4)


@given(st.permutations([1, 2, 3, 1]))
def test_transposes_that_move_nothing(sizes):
    x = np.arange(6).reshape(sizes)
    for order in [(1, 0, 2, 3), (0, 2, 1, 3), (3, 1, 2, 0), (2, 3, 0, 1)]:
        same = np.array_equal(x.transpose(order).ravel(), x.ravel())
        assert moves_nothing(order, tuple(sizes)) == same


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5), st.data())
def test_reshapes_come_apart(before, data):
    count = int(np.prod(before))
    sizes = [size for size in range(1, count + 1) if count % size == 0]
    shape, left = list[int](), count
    while left > 1 or not shape:
        shape.append(data.draw(st.sampled_from([size for size in sizes if left % size == 0])))
        left //= shape[-1]
        if len(shape) > 5:
            shape.append(left)
            break
    blocks = reshape_blocks(tuple(before), tuple(shape))
    assert blocks is not None
    for block in blocks:
        taken, given_ = (
            [sizes[axis] for axis in axes]
            for axes, sizes in ((block.before, before), (block.after, shape))
        )
        assert np.prod(taken) == np.prod(given_)
        # No block comes apart further.
        partial = set(np.cumprod(taken).tolist()) & set(np.cumprod(given_).tolist())
        assert len(partial) == 1
    assert [axis for block in blocks for axis in block.before] == [
        axis for axis, size in enumerate(before) if size != 1
    ]


def is_turned(value, change, order):
    """Whether an input is an operand that turns: a table or an index of the same rank is none."""
    return value.type.rank == len(order) and any(
        index in change.operands for _, index in value.uses
    )


def between_transposes(case, change, order):
    """The program of a case on operands that are transposed inputs, its results transposed back."""
    graph, arrays = case.graph.copy(), []
    builder = graph.before(next(graph.nodes))
    node = next(node for node in graph.nodes if node.op == case.node.op)
    for value, array in zip(graph.inputs, case.inputs, strict=True):
        uses, type = list(value.uses), value.type
        if not is_turned(value, change, order):
            arrays.append(array)
            continue
        value.type = Transpose(inverse(order)).result(type)
        transposed = builder.emit(Transpose(order), value)
        assert transposed.type == type
        for user, index in uses:
            user.set_input(index, transposed)
        arrays.append(array.transpose(inverse(order)))
    back = [
        graph.at_end().emit(Transpose(inverse(turns)), value)
        for value, turns in zip(node.outputs, change.orders, strict=True)
    ]
    graph.set_outputs(back)
    return graph, arrays


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", sorted(OPS.keys() - TIED - ONE_AXIS))
def test_every_op_on_turned_operands(name):
    """Each op that is not tied to the order of its axes computes the same bits in another one."""
    tried = Counter[bool]()

    @examples(240)
    @given(STRATEGIES[OPS[name]], st.data())
    def check(case, data):
        node = case.node
        rank = turned_rank(node)
        orders = [order for order in permutations(range(rank)) if order != identity(rank)]
        orders = [order for order in orders if turned(node, order) is not None]
        if not orders:
            return
        order = data.draw(st.sampled_from(orders))
        change = turned(node, order)
        assert change is not None
        if not any(is_turned(value, change, order) for value in case.graph.inputs):
            return
        graph, inputs = between_transposes(case, change, order)
        # What is broadcast along its first axes stood in the old order.
        others = [node.inputs[index] for index in change.operands]
        allowed = sum(
            int(np.prod(value.type.shape))
            for value in others
            if 1 < value.type.rank < rank and not value.is_constant
        )
        assert cost(move(graph, inputs)) <= allowed
        tried[not allowed] += 1

    check()
    assert tried[True] > 0


@st.composite
def networks(draw, dtype=qir.DType.F64):
    """A channels-first network: a transpose before and after each op that wants them last."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (1, draw(st.integers(1, 4)), 6, 6)
    graph = qir.Graph("nchw", [("x", qir.TensorType(shape, dtype))])
    build, last = graph.at_end(), graph.inputs[0]
    values = [last]

    def numbers(*sizes):
        return build.const(rng.normal(0, 0.5, sizes).astype(dtype.numpy), "k")

    def last_in_first(op, value, *operands):
        turned_value = build.emit(Transpose(LAST), value)
        return build.emit(Transpose(FIRST), build.emit(op, turned_value, *operands))

    def conv():
        channels = last.type.known_shape[1]
        kernel = numbers(3, 3, channels, draw(st.integers(1, 4)))
        return last_in_first(Conv(padding="same"), last, kernel)

    def residual():
        same = [value for value in values[1:] if value.type == last.type]
        return build.emit(Add(), last, draw(st.sampled_from([*same, last])))

    def channelwise():
        op = draw(st.sampled_from([Add(), Mul(), Sub()]))
        return build.emit(op, last, numbers(last.type.known_shape[1], 1, 1))

    def gated():
        pooled = build.emit(Mean((2, 3), keep_axes=True), last)
        return build.emit(Mul(), last, pooled)

    layers = {
        "conv": conv,
        "pool": lambda: last_in_first(MaxPool((2, 2), (1, 1), "same"), last),
        "average": lambda: last_in_first(AvgPool((2, 2), (1, 1), "same"), last),
        "relu": lambda: build.emit(draw(st.sampled_from([Relu(), LeakyRelu(0.1)])), last),
        "residual": residual,
        "channelwise": channelwise,
        "gated": gated,
        "joined": lambda: build.emit(Concat(1), last, draw(st.sampled_from(values[1:]))),
    }
    last = conv()
    values.append(last)
    for name in draw(st.lists(st.sampled_from(sorted(layers)), max_size=8)):
        last = layers[name]()
        values.append(last)
    batch, channels, *space = last.type.known_shape
    if draw(st.booleans()):
        last = build.emit(Mean((2, 3)), last)
    else:
        last = build.emit(
            Relu(), build.emit(Reshape((batch, channels * space[0] * space[1])), last)
        )
    last = build.emit(Dot(), last, numbers(last.type.known_shape[1], 3))
    graph.set_outputs([last])
    return graph, (rng.normal(0, 1, shape).astype(dtype.numpy),)


@examples(100)
@given(networks())
def test_channels_first_programs_are_transposed_at_their_input_only(network):
    graph, inputs = network
    moved = move(graph, inputs)
    assert moving(moved) <= {moved.inputs[0]}


@examples(50)
@given(networks(qir.DType.F32))
def test_integer_programs_keep_every_bit(network):
    graph, inputs = network
    for value, array in run_all(graph, *inputs).items():
        if not value.is_constant:
            value.range = Interval.of(array.min(), array.max())
    graph = qir.optimize(graph, "quantize(outputs=i8), lookup-tables, fuse-requantize")
    moved = move(graph, inputs)
    (x,) = moved.inputs
    assert moving(moved) <= {x, *(node.outputs[0] for node in x.users)}
    for left, right in zip(qir.evaluate(graph, *inputs), qir.evaluate(moved, *inputs), strict=True):
        assert np.array_equal(left, right)


@given(
    st.tuples(*[st.integers(1, 3)] * 4),
    st.permutations(range(4)),
    st.integers(0, 3),
    st.booleans(),
)
def test_flattened_rows(shape, order, kept, batch_first):
    """Some axes kept, the others flattened into rows of weights; whatever the transpose moves."""
    order = (0, *[axis for axis in order if axis]) if batch_first else tuple(order)
    rng = np.random.default_rng(0)
    graph = qir.Graph("flat", [("x", qir.TensorType(shape, qir.DType.F64))])
    build = graph.at_end()
    sizes = tuple(shape[axis] for axis in order)
    flat = Reshape((*sizes[:kept], int(np.prod(sizes[kept:]))))
    value = build.emit(Relu(), build.emit(flat, build.emit(Transpose(order), graph.inputs[0])))
    weights = build.const(rng.normal(0, 1, (value.type.known_shape[-1], 2)), "w")
    graph.set_outputs([build.emit(Dot(), value, weights)])
    inputs = [rng.normal(0, 1, shape)]
    rewritten = graph.copy()
    rewrite(rewritten, [into_rows])
    check_equivalent(graph, rewritten, inputs, run_all)
    moved = move(graph, inputs)
    if order[:kept] == identity(kept):
        assert cost(moved) == 0


def test_names_and_locations_stay():
    graph = qir.parse(
        """graph @named(%x: f32[1,4,4,2]) {
          %n = transpose(%x) {permutation = [0, 3, 1, 2]} : f32[1,2,4,4] in [-1.0, 1.0]
          %act = relu(%n) : f32[1,2,4,4] in [0.0, 1.0] loc("net.py:3")
          %y = transpose(%act) {permutation = [0, 2, 3, 1]} : f32[1,4,4,2]
          return %y
        }"""
    )
    moved = qir.optimize(graph, "move-transposes")
    (node,) = (node for node in moved.nodes if not isinstance(node.op, Const | Return))
    assert node.loc == "net.py:3"
    assert node.output.range == Interval.of(0, 1)
    # Axis 1 of what is computed is axis 2 of the imported %act, and so on.
    assert node.output.origins == {"act": (0, 2, 3, 1), "y": None}
    assert moved.inputs[0].origins == {"x": None, "n": (0, 2, 3, 1)}


OUTLIERS = """graph @outliers(%x: f32[8,3,4,64]) {
  %t = transpose(%x) {permutation = [0, 2, 1, 3]} : f32[8,4,3,64]
  %r = relu(%t) : f32[8,4,3,64]
  %w = const @w : f32[64,5]
  %b = const @b : f32[5]
  %y = dot(%r, %w, %b) : f32[8,4,3,5]
  %z = transpose(%y) {permutation = [0, 2, 1, 3]} : f32[8,3,4,5]
  return %z
}"""


def outliers():
    """A dot whose operand has four channels 40 times larger than the others, and its data."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(0, 1, (64, 5)), "b": rng.normal(0, 1, 5)}
    graph = qir.parse(OUTLIERS, {key: array.astype(np.float32) for key, array in arrays.items()})
    sizes = np.where(np.isin(np.arange(64), (3, 11, 40, 63)), 40, 1)
    return graph, [(rng.normal(0, 1, (8, 3, 4, 64)) * sizes).astype(np.float32) for _ in range(2)]


def test_what_was_observed_before_the_move_is_found_behind_it():
    graph, data = outliers()
    rest = "split-outliers(report=true), propagate-ranges, quantize, integer"
    contexts = qir.Context(), qir.Context()
    before = qir.optimize(
        graph, f"calibrate, move-transposes, {rest}", data=data, context=contexts[0]
    )
    behind = qir.optimize(
        graph, f"move-transposes, calibrate, {rest}", data=data, context=contexts[1]
    )
    assert moving(before) == set()
    assert before == behind
    assert contexts[0].diagnostics == contexts[1].diagnostics
    assert any("4 channels" in line for line in contexts[0].diagnostics)


def test_a_dump_behind_the_move_goes_on_as_the_program_itself():
    graph, data = outliers()
    context = qir.Context()
    moved = qir.optimize(graph, "calibrate, move-transposes", data=data, context=context)
    program = qir.to_program(moved)
    assert 'of "y" [0, 2, 1, 3]' in program.text or 'of ["y" [0, 2, 1, 3]' in program.text
    again = qir.parse(program.text, program.arrays)
    assert [value.origins for value in again.values() if not value.is_constant] == [
        value.origins for value in moved.values() if not value.is_constant
    ]
    rest = "propagate-ranges, quantize, integer"
    assert qir.optimize(again, rest, context=context) == qir.optimize(moved, rest, context=context)


def test_the_errors_of_moved_values_are_those_of_the_imported_ones():
    graph = qir.parse(
        """graph @moved(%x: f32[2,4,4,4]) {
          %n = transpose(%x) {permutation = [0, 3, 1, 2]} : f32[2,4,4,4]
          %e = exp(%n) : f32[2,4,4,4]
          %s = tanh(%e) : f32[2,4,4,4]
          %y = transpose(%s) {permutation = [0, 2, 3, 1]} : f32[2,4,4,4]
          return %y
        }"""
    )
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 4)).astype(np.float32)
    integer = qir.optimize(
        graph, "move-transposes, calibrate, propagate-ranges, quantize", data=[x]
    )
    found = measure(graph, integer, [x], run_all, 200.0)
    assert found is not None
    # Rounded to 8 bits each has 30 dB and more; of numbers in another order it would be about 0.
    figures = {one.value: one.sqnr for one in found.worst}
    assert figures.keys() == {"n", "y"}
    assert min(figures.values()) > 30


def test_a_check_compares_moved_values_in_the_order_of_the_imported_ones():
    graph, _ = outliers()
    inputs = [np.random.default_rng(1).normal(0, 1, (8, 3, 4, 64))]
    graph.record_origins()
    moved = graph.copy()
    MoveTransposes().run(moved, Context())
    check_equivalent(graph, moved, inputs, run_all)
    (relu,) = (node for node in moved.nodes if isinstance(node.op, Relu))
    relu.op = Neg()
    with pytest.raises(PassError, match="%r"):
        check_equivalent(graph, moved, inputs, run_all)
