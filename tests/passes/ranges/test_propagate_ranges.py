"""Propagated ranges hold what matters: numbers cut off at them give the same outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ir import Builder, Graph, Value
from qir.numbers.interval import Interval
from qir.ops import (
    Add,
    Clip,
    Concat,
    Conv,
    Erf,
    Exp,
    Gelu,
    Greater,
    HardSigmoid,
    HardSwish,
    Logistic,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Neg,
    Pad,
    ReduceMax,
    Relu,
    Reshape,
    Reverse,
    Select,
    Softmax,
    Split,
    Tanh,
    Transpose,
)
from qir.ops.op import Op
from qir.passes.ranges.propagate_ranges import PropagateRanges
from qir.pipeline import Context
from qir.types import Array, DType, TensorType

SHAPE = (2, 4, 4, 3)
SLACK = 2.0**-20
"""Distance between bounds computed in float64 and numbers computed in float32: a few units in the
last place of operands and results, which are about 1, or relatively where they are greater."""

LIMITS = [-3.0, -1.0, -0.25, 0.0, 0.5, 2.0]
OPS_OF_ONE = [
    Relu(),
    Clip(-1.0, 0.75),
    Clip(0.5, 6.0),
    HardSwish(),
    HardSigmoid(),
    Gelu(),
    Neg(),
    Tanh(),
    Softmax(3),
    MaxPool((3, 3), padding="same"),
    Reverse((1,)),
    Transpose((0, 2, 1, 3)),
]
OPS_OF_TWO = [Add(), Mul(), Maximum(), Minimum(), Concat(0), Select()]


def split(builder: Builder, x: Value) -> Value:
    return builder.emit_node(Split(0, (2, 2)), [builder.emit(Concat(0), x, x)]).outputs[1]


def reshaped(builder: Builder, x: Value) -> Value:
    flat = builder.emit(Relu(), builder.emit(Reshape((2, 48)), x))
    return builder.emit(Reshape(SHAPE), flat)


def padded(builder: Builder, x: Value) -> Value:
    wide = builder.emit(Pad((0, 1, 1, 0), (0, 1, 1, 0), 0.5), x)
    return builder.emit(MaxPool((3, 3)), wide)


def greatest(builder: Builder, x: Value) -> Value:
    return builder.emit(Add(), x, builder.emit(ReduceMax((1, 2), keep_axes=True), x))


SHAPES: list[Callable[[Builder, Value], Value]] = [split, reshaped, padded, greatest]


@st.composite
def programs(draw: st.DrawFn) -> tuple[Graph, Array]:
    """Draws a float program whose values have the ranges that they take on an array, or none."""
    graph = Graph("program")
    builder = graph.at_end()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = [graph.add_input("x", TensorType(SHAPE, DType.F32))]
    for _ in range(draw(st.integers(1, 8))):
        # Mostly the last one, so that chains arise in which a value has one reader.
        x = values[-1 - min(draw(st.integers(0, 8)) // 6, len(values) - 1)]
        match draw(st.sampled_from(["one", "two", "shape", "limit", "conv"])):
            case "one":
                values.append(builder.emit(draw(st.sampled_from(OPS_OF_ONE)), x))
            case "shape":
                values.append(draw(st.sampled_from(SHAPES))(builder, x))
            case "limit":
                limit = builder.const(np.float32(draw(st.sampled_from(LIMITS))))
                op = draw(st.sampled_from([Maximum(), Minimum()]))
                values.append(builder.emit(op, x, limit))
            case "conv":
                kernel = builder.const(rng.normal(0, 0.5, (1, 1, 3, 3)).astype(np.float32))
                values.append(builder.emit(Conv(), x, kernel))
            case _:
                y = draw(st.sampled_from(values))
                match draw(st.sampled_from(OPS_OF_TWO)):
                    case Select() as op:
                        condition = builder.emit(Greater(), x, y)
                        values.append(builder.emit(op, condition, x, y))
                    case Concat() as op:
                        joined = builder.emit(Relu(), builder.emit(op, x, y))
                        values.append(builder.emit_node(Split(0, (2, 2)), [joined]).outputs[0])
                    case op:
                        values.append(builder.emit(op, x, y))
    graph.set_outputs([values[-1], draw(st.sampled_from(values))])
    array = rng.normal(0, draw(st.sampled_from([0.5, 4.0])), SHAPE).astype(np.float32)
    for value, numbers in run_all(graph, array).items():
        if value.type.is_float and not value.is_constant and draw(st.integers(0, 9)):
            value.range = Interval.of(numbers.min(), numbers.max())
    note(str(graph))
    return graph, array


def cut(value: Value, numbers: Array) -> Array:
    if value.range is None or not value.type.is_float:
        return numbers
    low, high = value.range.bounds
    slack = np.float32(SLACK * max(1.0, abs(low), abs(high)))
    return np.clip(numbers, np.float32(low) - slack, np.float32(high) + slack)


@given(programs(), st.booleans(), st.integers(1, 2))
def test_numbers_cut_off_at_their_ranges_give_the_same_outputs(program, share, times):
    graph, array = program
    expected = run_all(graph, array)
    context = Context()
    for _ in range(times):
        PropagateRanges(share, saturate=False).run(graph, context)
    assert context.diagnostics == []
    found = run_all(graph, cut(graph.inputs[0], array), hook=cut)
    for value in graph.outputs:
        np.testing.assert_array_equal(found[value], expected[value])


@given(programs())
def test_outputs_lie_in_their_ranges(program):
    graph, array = program
    before = {value for value in graph.values() if value.range is not None}
    PropagateRanges().run(graph, Context())
    assert all(value.range is not None for value in before)
    computed = run_all(graph, array)
    for value in graph.outputs:
        np.testing.assert_array_equal(cut(value, computed[value]), computed[value])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("op", [Erf(), Logistic(), Tanh()])
@given(reach=st.floats(0.5, 60), middle=st.floats(-1, 1))
def test_what_the_bits_of_a_sigmoid_tell_apart_stays(op, bits, reach, middle):
    graph, x = sigmoid(op, Interval.of(reach * (middle - 1), reach * (middle + 1)))
    assert x.range is not None
    before = np.linspace(x.range.bounds[0], x.range.bounds[1], 1001)
    PropagateRanges(bits=bits).run(graph, Context())
    unclipped, clipped = op.evaluate(before), op.evaluate(before.clip(*x.range.bounds))
    # An eighth of a step; the bounds are places of a grid, so that it is never more.
    steps = 2**bits - 1
    assert np.abs(unclipped - clipped).max() <= np.ptp(unclipped) / steps / 8 * (1 + 1e-9)
    low, high = x.range.bounds
    assert high - low <= 0.75 * np.ptp(before) or (low, high) == (before[0], before[-1])


@pytest.mark.parametrize("bits", [1, 17])
def test_codes_of_other_widths_are_refused(bits):
    with pytest.raises(QirError, match="bits: expected the 2 to 16 bits of a code"):
        PropagateRanges(bits=bits)


def test_a_wide_operand_of_tanh_is_narrowed_but_not_where_another_lookup_reads_the_result():
    for read_by_exp, narrowed in ((False, True), (True, False)):
        graph, x = sigmoid(Tanh(), Interval.of(-50, 50), read_by_exp=read_by_exp)
        PropagateRanges().run(graph, Context())
        assert x.range is not None
        assert (x.range.bounds[1] < 5) == narrowed


def sigmoid(op: Op, seen: Interval, *, read_by_exp: bool = False) -> tuple[Graph, Value]:
    graph = Graph("main")
    x = graph.add_input("x", TensorType((4,), DType.F32))
    builder = graph.at_end()
    y = builder.emit(op, x)
    graph.set_outputs([builder.emit(Exp() if read_by_exp else Reshape((2, 2)), y)])
    x.range, y.range = seen, op.interval(seen)
    return graph, x
