"""equalize keeps what a program computes, and what it leaves is equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run_all
from qir.errors import PassError, QirError
from qir.numbers.interval import Interval
from qir.ops import (
    AvgPool,
    Conv,
    Dot,
    LeakyRelu,
    MaxPool,
    Mean,
    Pad,
    Relu,
    Reshape,
    Silu,
    Transpose,
)
from qir.passes.shared.channel_scaling import LEAST_PEAK
from qir.passes.shared.layer_chains import LayerPath, find_pair
from qir.pipeline import Context, PassManager, Pipeline
from qir.pipeline.rewrite import Skip
from tests.drawing import examples
from tests.strategies.float_programs import float_programs


def check(graph, inputs, pipeline="equalize"):
    manager = PassManager(Pipeline.parse(pipeline), check_inputs=inputs)
    return manager.run(graph, Context(interpreter=run_all))


@examples(100)
@given(float_programs())
def test_results_are_kept(case):
    check(case.graph, case.inputs)


@st.composite
def chains(draw):
    """Layers with unbalanced channels, homogeneous ops between them, all arrays float64."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (1, 5, 5, draw(st.integers(1, 4)))
    graph = qir.Graph("chain", [("x", qir.TensorType(shape, qir.DType.F64))])
    build, value = graph.at_end(), graph.inputs[0]

    def layer(op, *sizes):
        spread = np.exp2(rng.uniform(-4, 4, (1,) * (len(sizes) - 1) + sizes[-1:]))
        kernel = build.const(rng.normal(0, 1, sizes) * spread, "kernel")
        return build.emit(op, value, kernel, build.const(rng.normal(0, 1, sizes[-1]), "bias"))

    for _ in range(draw(st.integers(1, 3))):
        value = layer(Conv(padding="same"), 3, 3, value.type.shape[-1], draw(st.integers(1, 4)))
        between = [Relu(), LeakyRelu(0.1), MaxPool((2, 2), (1, 1)), AvgPool((1, 2))]
        value = build.emit(draw(st.sampled_from(between)), value)
        if draw(st.booleans()):
            channels = value.type.known_shape[-1]
            value = layer(Conv(groups=channels), 1, 1, 1, channels * draw(st.integers(1, 2)))
        if draw(st.booleans()):
            value = build.emit(Pad((0, 1, 0, 0), (0, 0, 1, 0)), value)
    kind = draw(st.sampled_from(["mean", "flatten", "moved"]))
    if kind == "mean":
        value = build.emit(Mean((1, 2)), value)
    elif kind == "flatten":
        value = build.emit(Reshape((1, int(np.prod(value.type.known_shape)))), value)
    else:
        value = build.emit(Transpose((0, 3, 1, 2)), value)
        value = build.emit(Transpose((0, 2, 3, 1)), value)
    value = layer(Dot(), value.type.known_shape[-1], 3)
    graph.set_outputs([value])
    return graph, (rng.normal(0, 1, shape),)


def peaks(path):
    """The largest weight of each channel in the two layers of a pair, by their definition."""
    first, second = (node.inputs[1].array for node in (path.first, path.second))
    written = np.abs(first).reshape(-1, first.shape[-1]).max(axis=0)
    groups = getattr(path.second.op, "groups", 1)
    rows, outputs = second.shape[-2:]
    read = np.zeros_like(written)
    for place, channel in enumerate(path.channels):
        group, row = divmod(place, rows)
        part = slice(group * (outputs // groups), (group + 1) * (outputs // groups))
        read[channel] = max(read[channel], np.abs(second[..., row, part]).max())
    return written, read


def paths(graph):
    found = [find_pair(node) for node in graph.nodes]
    return [path for path in found if path is not None and not isinstance(path, Skip)]


@examples(50)
@given(chains())
def test_ranges_are_equal_in_each_channel(chain):
    graph, inputs = chain
    after = check(graph, inputs, "equalize(iterations=500)")
    assert len(paths(after)) == len(paths(graph)) > 0
    for path in paths(after):
        written, read = peaks(path)
        alive = (written > 2 * LEAST_PEAK * written.max()) & (read > 2 * LEAST_PEAK * read.max())
        assert np.allclose(written[alive], read[alive], rtol=1e-4)
        assert np.count_nonzero(~alive) == 0
    for value in after.values():
        if not value.is_constant:
            assert (value.origin == ()) == any(value in path.values for path in paths(after))


@pytest.mark.parametrize(("op", "reason"), [(Silu(), "does not commute with silu")])
def test_says_what_stands_in_the_way(op, reason):
    graph = qir.Graph("g", [("x", qir.TensorType((1, 2), qir.DType.F32))])
    build = graph.at_end()
    kernel = build.const(np.ones((2, 2), np.float32), "k")
    first = build.emit(Dot(), graph.inputs[0], kernel)
    second = build.emit(Dot(), build.emit(op, first), kernel)
    graph.set_outputs([second])
    assert second.node is not None
    found = find_pair(second.node)
    assert isinstance(found, Skip)
    assert reason in found.reason
    context = Context()
    assert qir.optimize(graph, "equalize", context=context) == graph
    assert reason in " ".join(context.diagnostics)


def test_halves_must_be_widened():
    graph = qir.parse(
        """graph @half(%x: f16[1,2]) {
          %k1 = const [[0.001, 1.0], [0.001, 1.0]] : f16[2,2]
          %b1 = const [60000.0, 1.0] : f16[2]
          %a = dot(%x, %k1, %b1) : f16[1,2]
          %k2 = const 1.0 : f16[2,2]
          %y = dot(%a, %k2) : f16[1,2]
          return %y
        }"""
    )
    with pytest.raises(PassError, match="weights leave f16; put widen-floats before it"):
        qir.optimize(graph, "equalize")
    with pytest.raises(QirError, match="iterations: expected at least 1, got 0"):
        qir.optimize(graph, "equalize(iterations=0)")


def test_unbalanced_channels_lose_less_in_eight_bits():
    """One scale for all weights of a layer: the noise of quantization falls by 20 dB and more."""
    rng = np.random.default_rng(0)
    graph = qir.Graph("net", [("x", qir.TensorType((64, 16), qir.DType.F32))])
    build, value = graph.at_end(), graph.inputs[0]
    spread = np.ones(16)
    for _ in range(3):
        # What one layer scales up the next one scales down, as networks in training may drift.
        after = np.exp2(rng.uniform(-5, 5, 16))
        kernel = rng.normal(0, 0.3, (16, 16)) / spread[:, None] * after
        value = build.emit(Dot(), value, build.const(kernel.astype(np.float32), "k"))
        value, spread = build.emit(Relu(), value), after
    kernel = rng.normal(0, 0.3, (16, 4)) / spread[:, None]
    graph.set_outputs([build.emit(Dot(), value, build.const(kernel.astype(np.float32), "k"))])
    x = rng.normal(0, 1, (64, 16)).astype(np.float32)
    (right,) = qir.evaluate(graph, x)

    def noise(pipeline):
        prepared = qir.optimize(graph, pipeline)
        for value, array in run_all(prepared, x).items():
            if not value.is_constant:
                value.range = Interval.of(array.min(), array.max())
        (found,) = qir.evaluate(qir.optimize(prepared, "quantize(per=tensor)"), x)
        return float(np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2)))

    assert noise("equalize") < 0.03
    assert noise("equalize") < noise("canonicalize") / 10


BETTER = "calibrate, equalize(when=better), propagate-ranges, quantize, fuse-requantize"
PLAIN = BETTER.replace("equalize(when=better), ", "")


def uneven(rows, *, seed=0):
    """Two dense layers whose channels between differ by powers of two, and rows of data."""
    rng = np.random.default_rng(seed)
    graph = qir.Graph("uneven", [("x", qir.TensorType((rows, 8), qir.DType.F32))])
    build = graph.at_end()
    spread = np.exp2(rng.uniform(-5, 5, 16))
    first = (rng.normal(size=(8, 16)) * spread).astype(np.float32)
    second = (rng.normal(size=(16, 4)) / spread[:, None]).astype(np.float32)
    hidden = build.emit(Relu(), build.emit(Dot(), graph.inputs[0], build.const(first, "first")))
    graph.set_outputs([build.emit(Dot(), hidden, build.const(second, "second"), name="y")])
    return graph, rng.normal(size=(3, rows, 8)).astype(np.float32)


def told(graph):
    return [line for line in graph.diagnostics if line.startswith("equalize")]


def noise_of(graph, integer, x):
    (wanted,), (found,) = qir.evaluate(graph, x), qir.evaluate(integer, x)
    return np.square(wanted - found).sum() / np.square(wanted).sum()


@pytest.mark.parametrize("rows", [32, 4])
def test_channels_are_equalized_where_rows_gain_by_it(rows):
    graph, (first, second, held_out) = uneven(rows)
    plain, better = (
        qir.optimize(graph, pipeline, data=[first, second]) for pipeline in (PLAIN, BETTER)
    )
    assert noise_of(graph, better, held_out) < noise_of(graph, plain, held_out) / 10
    (line,) = told(better)
    assert "2 layers from %x to %y" in line
    assert "rows held out" in line if rows == 32 else "rows of the data" in line
    assert line in str(qir.explain(better))


def test_scaled_ranges_are_those_that_would_be_observed():
    graph, (first, second, _) = uneven(32)
    scaled = qir.optimize(graph, "calibrate, equalize(when=better)", data=[first, second])
    again = qir.optimize(scaled, "calibrate", data=[first, second])
    for value in scaled.values():
        if not value.is_constant and value.type.is_float:
            found = again.value(value.name).observed
            assert found is not None
            assert value.observed is not None
            assert value.observed.bounds == pytest.approx(found.bounds, rel=1e-5)


def test_layers_that_would_lose_stay_as_they_are():
    """The activations are even, and of the weights each output has a scale of its own."""
    graph, data = uneven(32)
    kernel = graph.value("first")
    even = (kernel.array / np.abs(kernel.array).max(axis=0)).astype(np.float32)
    first = graph.value("dot").node
    assert first is not None
    first.set_input(1, graph.before(first).const(even, "even"))
    batches = list(data[:2])
    better, plain = (qir.optimize(graph, pipeline, data=batches) for pipeline in (BETTER, PLAIN))
    (line,) = told(better)
    assert "stay as they are: 1" in line
    assert better == plain


def test_statistics_serve_the_program_that_is_not_equalized():
    graph, (first, second, _) = uneven(32)
    context = Context()
    qir.optimize(graph, BETTER, data=[first, second], context=context)
    seen = qir.calibrate(graph, [first, second], "calibrate")
    known = context.statistics.copy()
    for name in known.keys() - seen.keys():
        assert name.endswith(".equalized")
        del known[name]
    assert known == seen


def test_without_data_nothing_is_equalized():
    graph, data = uneven(32)
    seen = qir.calibrate(graph, list(data), "calibrate")
    known = qir.optimize(graph, BETTER, statistics=seen)
    assert known == qir.optimize(graph, PLAIN, statistics=seen)


@pytest.mark.parametrize(
    ("shape", "between", "by_rows"),
    [
        ((32, 2, 3), Reshape((32, 6, 1)), False),  # channels are no longer along the last axis
        ((32, 2, 3), Reshape((64, 3)), False),  # rows are no longer along the first one
        ((32, 1, 3), Reshape((32, 3)), True),
        ((32, 2, 3), Transpose((1, 0, 2)), False),
        ((32, 2, 3), Mean((1,)), True),
    ],
)
def test_chains_are_measured_where_rows_go_their_own_way(shape, between, by_rows):
    graph = qir.Graph("moved", [("x", qir.TensorType(shape, qir.DType.F32))])
    build = graph.at_end()
    first = build.emit(Dot(), graph.inputs[0], build.const(np.eye(3, dtype=np.float32), "first"))
    moved = build.emit(between, first)
    size = moved.type.shape[-1]
    assert isinstance(size, int)
    second = build.const(np.ones((size, 2), np.float32), "second")
    graph.set_outputs([build.emit(Dot(), moved, second)])
    layer = graph.outputs[0].node
    assert layer is not None
    found = find_pair(layer)
    assert (isinstance(found, LayerPath) and found.is_by_rows) == by_rows
