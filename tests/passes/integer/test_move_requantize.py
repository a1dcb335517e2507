"""move-requantize keeps every bit, never requantizes more numbers, and comes to rest."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ops import (
    Broadcast,
    Concat,
    Gather,
    MaxPool,
    ReduceMax,
    ReduceMin,
    Requantize,
    Reshape,
    ResizeNearest,
    Reverse,
    Slice,
    Tile,
    Transpose,
)
from qir.passes.integer.move_requantize import hoist_requantize, sink_requantize
from qir.pipeline import Context, PassManager, Pipeline
from qir.pipeline.rewrite import rewrite
from qir.types import Affine, DType, TensorType
from tests.drawing import examples
from tests.roundings import ANY_RATIO
from tests.strategies.base import BYTES, Case, codes, stored
from tests.strategies.programs import integer_programs


def mover(draw, x, builder):
    """An op that moves the numbers of x, and its operands."""
    sizes, rank = x.type.known_shape, x.type.rank
    axis = draw(st.integers(0, rank - 1))
    start = draw(st.integers(0, sizes[axis] - 1))
    ops = [
        Reshape((*sizes[:-1], 1, sizes[-1])),
        Reshape((int(np.prod(sizes[:-1])), sizes[-1])),
        Transpose(tuple(draw(st.permutations(range(rank))))),
        Slice((axis,), (start,), (draw(st.integers(start + 1, sizes[axis])),)),
        Reverse((axis,)),
        Tile(tuple(2 if place == axis else 1 for place in range(rank))),
        Broadcast((2, *sizes)),
        Concat(axis),
    ]
    if rank > 1:
        ops += [ReduceMax((axis,)), ReduceMin((axis,), keep_axes=True)]
    if rank == 4:
        ops += [MaxPool((2, 1), (2, 2), "same"), MaxPool((1, 2), (), "same"), ResizeNearest((2, 3))]
    if draw(st.booleans()):
        indices = builder.const(np.array([0, 2, 1]), "indices")
        return Gather(axis), [x, indices]
    return draw(st.sampled_from(ops)), [x]


@st.composite
def moved_sums(draw):
    """A sum that is moved about, rounded, and moved about further; some numbers are read twice."""
    shape = tuple(draw(st.integers(1, 4)) for _ in range(4))
    source = draw(codes((DType.I32, DType.I32, DType.I8), shape=shape, axis=3))
    graph = qir.Graph("moved", [("acc", TensorType(shape, source))])
    builder = graph.at_end()
    value, outputs = graph.inputs[0], []
    at = draw(st.integers(0, 4))
    for place in range(6):
        if place == at:
            code = value.type.quant
            assert code is not None
            scale = float(code.scale.array.max()) * 2.0 ** draw(st.integers(-1, 8))
            to = draw(codes((*BYTES, DType.I16), shape=value.type.known_shape, axis=code.axis))
            factor = scale / float(to.scale.array.max())
            to = Affine.of(to.storage, to.scale.array * factor, to.zero_points, bounds=to.bounds)
            clamp = draw(st.sampled_from([None, (to.range[0] + 1, to.range[1] - 3)]))
            rounding = draw(st.sampled_from(ANY_RATIO))
            value = builder.emit(Requantize(to, rounding, clamp), value)
            continue
        op, operands = mover(draw, value, builder)
        try:
            value = builder.emit(op, *operands)
        except QirError:  # the op mixes channels of different codes
            continue
        if draw(st.integers(0, 7)) == 0:
            outputs.append(value)
    graph.set_outputs([value, *outputs])
    if draw(st.booleans()):
        graph = qir.optimize(graph, "lower-requantize")
    return Case(graph, (stored(draw, source, shape, 2**20),))


def work(graph):
    """How many numbers are requantized."""
    requantizes = [node for node in graph.nodes if isinstance(node.op, Requantize)]
    return sum(int(np.prod(node.output.type.known_shape)) for node in requantizes)


@examples(150)
@given(moved_sums() | integer_programs())
def test_keeps_every_bit(case):
    manager = PassManager(Pipeline.parse("move-requantize"), check_inputs=case.inputs)
    after = manager.run(case.graph, Context(interpreter=run_all))
    for left, right in zip(
        qir.evaluate(case.graph, *case.inputs), qir.evaluate(after, *case.inputs), strict=True
    ):
        assert np.array_equal(left, right)
    assert qir.optimize(after, "move-requantize") == after


@examples(100)
@given(moved_sums())
def test_requantizes_no_more_numbers(case):
    assert work(qir.optimize(case.graph, "move-requantize")) <= work(case.graph)


def test_both_rules_fire():
    fired = Counter[str]()

    @given(moved_sums())
    @settings(max_examples=200)
    def collect(case):
        graph = case.graph.copy()
        fired.update(rewrite(graph, [sink_requantize, hoist_requantize]).applied)

    collect()
    assert set(fired) == {"sink_requantize", "hoist_requantize"}
    assert min(fired.values()) > 20
