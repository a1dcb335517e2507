"""cancel-casts on programs with codes: the same integers, or one step off where that is allowed."""

from collections import Counter

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qir.backends.reference.interpreter import run, run_all
from qir.ir import Graph
from qir.ops import (
    ArgMax,
    Broadcast,
    Clip,
    Concat,
    Dequantize,
    Gather,
    Gelu,
    MaxPool,
    Pad,
    Quantize,
    ReduceMax,
    Relu,
    Reshape,
    Reverse,
    Slice,
    Transpose,
)
from qir.ops.op import Op
from qir.passes.integer.cancel_casts import CAST_RULES, _encodes_back, requantize_nearly
from qir.pipeline import Context, PassManager, Pipeline
from qir.pipeline.rewrite import rewrite
from qir.text import parse
from qir.types import Affine, DType, TensorType
from tests.drawing import examples
from tests.strategies.base import Draw, codes, stored
from tests.strategies.float_programs import FloatCase

STORAGES = (DType.I8, DType.U8, DType.I4, DType.I16)


@examples(300)
@given(
    storage=st.sampled_from(STORAGES),
    exponent=st.integers(-125, 124),
    mantissa=st.floats(1, 2, exclude_max=True, width=32),
    data=st.data(),
)
def test_every_stored_number_is_encoded_back(storage, exponent, mantissa, data):
    low, high = storage.bounds
    code = Affine.of(storage, mantissa * 2.0**exponent, data.draw(st.integers(low, high)))
    assume(_encodes_back(code))
    every = np.arange(low, high + 1).astype(storage.numpy)
    np.testing.assert_array_equal(code.encode(code.decode(every)), every)


def test_codes_that_are_not_encoded_back():
    every = np.arange(-128, 128).astype(np.int8)
    overflows = Affine.of(DType.I8, 2.0**124)
    assert not _encodes_back(overflows)
    assert np.any(overflows.encode(overflows.decode(every)) != every)
    assert not _encodes_back(Affine.of(DType.I16, 0.3, expressed=DType.BF16))


def cast_program(before: Affine, after: Affine) -> Graph:
    """Returns quantize(dequantize(x))."""
    graph = Graph("casts")
    x = graph.add_input("x", TensorType((256,), before))
    builder = graph.at_end()
    graph.set_outputs([builder.emit(Quantize(after), builder.emit(Dequantize(), x))])
    return graph


@examples(300)
@given(
    before=codes((DType.I8, DType.U8, DType.I16, DType.I32)),
    after=codes(STORAGES),
    ratio=st.integers(1, 300),
    data=st.data(),
)
def test_a_requantize_by_whole_numbers_is_exact(before, after, ratio, data):
    scale = np.float32(after.scale.array)
    before = Affine.of(
        before.storage, float(scale) * ratio, before.zero_point, bounds=before.bounds
    )
    assume(float(before.scale.array) == float(scale) * ratio)
    x = stored(data.draw, before, (256,))
    graph = cast_program(before, after)
    folded = PassManager(Pipeline.parse("cancel-casts")).run(graph, Context())
    assert not any(isinstance(node.op, Quantize) for node in folded.nodes)
    np.testing.assert_array_equal(run(folded, x)[0], run(graph, x)[0])


@examples(300)
@given(
    before=codes((DType.I8, DType.U8, DType.I16, DType.I32)), after=codes(STORAGES), data=st.data()
)
def test_any_other_requantize_is_one_step_off_at_most(before, after, data):
    x = stored(data.draw, before, (256,))
    pipeline = "allow(within_1lsb), cancel-casts(requantize=true)"
    manager = PassManager(Pipeline.parse(pipeline), check_inputs=[x])
    manager.run(cast_program(before, after), Context(interpreter=run_all))


def moves(draw: Draw, shape: tuple[int, ...]) -> Op:
    rank = len(shape)
    axis = draw(st.integers(0, rank - 1))
    low = tuple(int(place == axis) for place in range(rank))
    flat = (shape[0], int(np.prod(shape[1:])))
    ops: list[Op] = [
        Transpose(tuple(draw(st.permutations(range(rank))))),
        Reshape(flat if len(shape) != 2 else (*flat, 1)),
        Slice((axis,), (0,), (shape[axis],)),
        Reverse((axis,)),
        Pad(low, low, draw(st.sampled_from([0.0, 0.0, 0.3, -np.inf]))),
        Broadcast((2, *shape)),
        Relu(),
        Clip(*draw(st.sampled_from([(-0.3, 1.0), (0.0, 6.0)]))),
        Concat(axis),
        Gelu(),
    ]
    if rank == 4:
        ops += [MaxPool((2, 2), padding="same")] * 2
    if rank > 2:
        ops.append(ReduceMax((axis,)))
    return draw(st.sampled_from(ops))


@st.composite
def cast_programs(draw: Draw) -> FloatCase:
    """Draws programs that dequantize, move numbers and quantize, often to the first code."""
    shape = (2, 3, 3, 2)
    code = draw(codes((DType.I8, DType.U8), shape=shape, axis=3))
    graph = Graph("moves")
    builder = graph.at_end()
    x = graph.add_input("x", TensorType(shape, code))
    source = x
    if draw(st.integers(0, 4)) == 0:
        table = builder.const(stored(draw, code, shape), "table", code)
        source = table
    value = builder.emit(Dequantize(), source)
    values = [value]
    if source is not x and code.axis != 1:
        value = builder.emit(Gather(1), value, builder.const(np.array([0, 2, 2, 1], np.int32)))
    for _ in range(draw(st.integers(0, 5))):
        op = moves(draw, value.type.known_shape)
        operands = [value]
        if isinstance(op, Concat):
            operands.append(
                draw(st.sampled_from([v for v in values if v.type == value.type] or [value]))
            )
        value = builder.emit(op, *operands)
        values.append(value)
        if draw(st.integers(0, 5)) == 0:
            to = code if code.per_tensor else draw(codes((DType.I8,)))
            value = builder.emit(Dequantize(), builder.emit(Quantize(to), value))
    per_tensor = [draw(codes((DType.I8,))), *([code] * 3 if code.per_tensor else [])]
    results = [builder.emit(Quantize(draw(st.sampled_from(per_tensor))), value)]
    if draw(st.booleans()):
        results.append(builder.emit(ArgMax(0), value))
    if draw(st.integers(0, 3)) == 0:
        results.append(draw(st.sampled_from(values)))
    graph.set_outputs(results)
    return FloatCase(graph, (stored(draw, code, shape),))


@examples(500)
@given(case=cast_programs())
def test_moves_of_numbers_keep_every_integer(case):
    manager = PassManager(Pipeline.parse("cancel-casts"), check_inputs=case.inputs)
    folded = manager.run(case.graph, Context(interpreter=run_all))
    assert PassManager(Pipeline.parse("cancel-casts")).run(folded, Context()) == folded
    for after, before in zip(run(folded, *case.inputs), run(case.graph, *case.inputs), strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_state_of_zeros_for_any_batch_is_broadcast_as_stored():
    graph = parse("""
graph @state(%x: f32[B,2]) {
  %zero = const 0.0 : f32[]
  %state = broadcast(%zero) : f32[B,3]
  %cell = quantize(%state) : i16[B,3]{scale=0.001, zp=7}
  %hidden = quantize(%state) : i8[B,3]{scale=0.01, zp=-5}
  return %cell, %hidden
}""")
    folded = PassManager(Pipeline.parse("cancel-casts, canonicalize")).run(graph, Context())
    assert not any(node.outputs and node.outputs[0].type.is_float for node in folded.nodes)
    x = np.zeros((2, 2), np.float32)
    for after, stored_zero in zip(run(folded, x), (7, -5), strict=True):
        np.testing.assert_array_equal(after, np.full((2, 3), stored_zero))


def test_every_cast_rule_fires():
    fired: Counter[str] = Counter()

    @settings(max_examples=300)
    @given(case=cast_programs())
    def collect(case):
        rules = [*CAST_RULES, requantize_nearly]
        fired.update(rewrite(case.graph.copy(), rules, allow="within_1lsb").applied)

    collect()
    exactly = {"requantize_exactly"}  # needs scales that divide each other; see the test above
    assert {each.name for each in (*CAST_RULES, requantize_nearly)} - exactly <= set(fired)
