"""fuse-requantize keeps every stored number, or moves it by one step where that was allowed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.errors import PassError
from qir.ops import Clip, MaxPool, Relu, Requantize, Reshape, Transpose
from qir.ops.op import Op
from qir.types import Affine, DType, TensorType
from tests.roundings import ANY_RATIO
from tests.strategies.programs import integer_programs

SCALES = st.sampled_from([0.25, 0.5, 0.6, 1.0, 1.0, 1.7])
EVERY_CODE = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)


@st.composite
def codes(draw):
    """Codes of few scales and zero points, so that many are alike or differ in one of the two."""
    storage = draw(st.sampled_from([DType.I8, DType.I8, DType.U8, DType.I4]))
    low, high = storage.bounds
    point = draw(st.sampled_from([low, (low + high + 1) // 2, (low + high + 1) // 2 + 1]))
    bounds = draw(st.sampled_from([None, None, (low + 1, high - 2)]))
    scale = draw(SCALES) * (16 if storage is DType.I4 else 1)
    return Affine.of(storage, scale, max(point, bounds[0]) if bounds else point, bounds=bounds)


@st.composite
def clamps(draw, code):
    low, high = sorted(draw(st.tuples(st.integers(*code.range), st.integers(*code.range))))
    return draw(st.sampled_from([None, (low, high)]))


@st.composite
def chains(draw):
    """A chain of requantizes, clips and moves over all numbers of a code, with branches."""
    graph = qir.Graph("chain", [("x", TensorType(EVERY_CODE.shape, draw(codes_of_inputs())))])
    build, values = graph.at_end(), [graph.inputs[0]]
    for kind in draw(st.lists(st.sampled_from("rrrclmst"), min_size=2, max_size=8)):
        value = draw(st.sampled_from(values[-2:]))
        match kind:
            case "r":
                to = draw(codes())
                rounding = draw(st.sampled_from(ANY_RATIO))
                op: Op = Requantize(to, rounding, draw(clamps(to)))
            case "c":
                low, high = sorted(draw(st.tuples(*[st.sampled_from([-20.0, -3.0, 0.0, 9.0])] * 2)))
                op = Clip(low, draw(st.sampled_from([high, np.inf])))
            case "l":
                op = Relu()
            case "m":
                op = MaxPool((2, 1), padding="same")
            case "s":
                op = Reshape((1, *reversed(value.type.known_shape[1:3]), 1))
            case _:
                op = Transpose((0, 2, 1, 3))
        values.append(build.emit(op, value))
    graph.set_outputs([values[-1], draw(st.sampled_from(values))])
    return graph


def codes_of_inputs():
    return st.builds(Affine.of, st.just(DType.I8), SCALES, st.sampled_from([-128, 0, 5]))


@given(chains())
def test_keeps_every_stored_number(graph):
    fused = qir.optimize(graph, "fuse-requantize", check=[EVERY_CODE])
    expected, found = qir.evaluate(graph, EVERY_CODE), qir.evaluate(fused, EVERY_CODE)
    assert all(map(np.array_equal, expected, found))
    assert fused == qir.optimize(fused, "fuse-requantize")
    assert len(list(fused.nodes)) <= len(list(graph.nodes))


@given(integer_programs())
def test_keeps_whole_programs(case):
    fused = qir.optimize(case.graph, "lookup-tables, fuse-requantize", check=case.inputs)
    expected, found = qir.evaluate(case.graph, *case.inputs), qir.evaluate(fused, *case.inputs)
    assert all(map(np.array_equal, expected, found))


RATIOS = st.floats(2.0**-8, 2.0**8) | st.sampled_from([0.5, 1.0, 1.9, 2.1, 2.5])


@st.composite
def pairs(draw):
    """Two requantizes, one behind the other, and numbers around and far outside the first's code.

    Of an i8 that is all numbers.
    """
    source = draw(st.sampled_from([DType.I8, DType.I32]))
    scales = [draw(RATIOS) if source is DType.I8 else draw(st.floats(2.0**8, 2.0**20))]
    scales.append(scales[0] / draw(RATIOS))
    graph = qir.Graph("pair", [("x", TensorType((4096,), Affine.of(source, 1.0)))])
    value = graph.inputs[0]
    for scale in scales:
        storage = draw(st.sampled_from([DType.I8, DType.U8]))
        to = Affine.of(storage, scale, draw(st.integers(*storage.bounds)))
        rounding = draw(st.sampled_from(ANY_RATIO))
        value = graph.at_end().emit(Requantize(to, rounding), value)
    graph.set_outputs([value])
    if source is DType.I8:
        return graph, np.resize(EVERY_CODE, 4096)
    return graph, (np.linspace(-600, 600, 4096) * scales[0]).astype(np.int32)


MERGE = "allow(within_1lsb), fuse-requantize(merge=true)"


@given(pairs())
def test_merging_moves_by_one_step_at_most(pair):
    graph, x = pair
    merged = qir.optimize(graph, MERGE, check=[x])
    (expected,), (found,) = qir.evaluate(graph, x), qir.evaluate(merged, x)
    assert np.abs(expected.astype(int) - found.astype(int)).max() <= 1


def test_merging_is_refused_unless_allowed():
    graph = qir.parse(
        "graph @g(%x: i32[4096]{scale=0.001}) {\n"
        "  %q = requantize(%x) : i8[4096]{scale=0.05}\n"
        "  %r = requantize(%q) : i8[4096]{scale=0.03}\n"
        "  return %r\n}"
    )
    with pytest.raises(PassError, match="within 1 LSB, not exact"):
        qir.optimize(graph, "fuse-requantize(merge=true)")
    merged = qir.optimize(graph, MERGE)
    assert [node.op.name for node in merged.nodes] == ["requantize", "return"]
    x = np.linspace(-20000, 20000, 4096).astype(np.int32)
    (expected,), (found,) = qir.evaluate(graph, x), qir.evaluate(merged, x)
    assert set(np.abs(expected.astype(int) - found.astype(int))) == {0, 1}
