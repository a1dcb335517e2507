"""split-outliers keeps what a program computes on its data and gives large channels own codes."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.observe.channels import observe_channels
from qir.ops import Add, Clip, Dot, Gather, Gelu
from qir.passes.ranges.split_outliers import choose
from qir.pipeline import Context
from tests.drawing import examples

CALIBRATED = "fold, calibrate"
SPLIT = f"{CALIBRATED}, split-outliers(report=true)"
UNSPLIT = f"{CALIBRATED}, propagate-ranges, quantize, integer"
LARGE = [5, 70, 99]


def tokens(count, width=128, factor=50.0, seed=0):
    """Draws tokens of which a few channels are far larger."""
    drawn = np.random.default_rng(seed).normal(0, 1, (count, width))
    drawn[:, LARGE] *= factor
    return drawn.astype(np.float32)


def weights(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, shape[0] ** -0.5, shape).astype(np.float32)


def split(function, data, pipeline=SPLIT):
    context = Context()
    graph = qir.from_jax(function, data[0], batch="B")
    before = qir.optimize(graph, CALIBRATED, data=data)
    after = qir.optimize(graph, pipeline, data=data, context=context)
    return before, after, context


def count(graph, op):
    return sum(isinstance(node.op, op) for node in graph.nodes)


def sqnr(real, coded):
    error = np.square(real - coded, dtype=np.float64).sum()
    return 10 * np.log10(np.square(real, dtype=np.float64).sum() / error)


SEEN_IN_FLOAT32 = 256 * 2.0**-24
"""Relative error of what calibration sees of a sum of up to 256 products, in float32."""


def check_same(before, after, data, slack=1e-12):
    """Both compute the same on the data: in float64, so that only the order of sums differs."""
    for batch in data:
        results = (run(graph, batch, precision=np.float64) for graph in (before, after))
        for old, new in zip(*results, strict=True):
            np.testing.assert_allclose(new, old, rtol=0, atol=slack * np.abs(old).max())


def test_products_that_read_one_value_share_clip_and_channels():
    q, k, v = (weights(128, 64, seed=seed) for seed in (1, 2, 3))
    bias = weights(64, seed=4)
    data = [tokens(16, seed=seed) for seed in range(4)]
    before, after, context = split(lambda x: (x @ q + bias, x @ k, x @ v), data)
    assert [count(after, op) for op in (Clip, Gather, Dot, Add)] == [1, 1, 6, 3]
    check_same(before, after, data)
    (gather,) = (node for node in after.nodes if isinstance(node.op, Gather))
    channels = gather.inputs[1].array
    assert set(LARGE) < set(channels.tolist())
    assert len(channels) == 4
    assert list(channels) == sorted(channels)
    biased = [node for node in after.nodes if isinstance(node.op, Dot) and len(node.inputs) == 3]
    assert len(biased) == 1, "the bias is added once"
    assert "4 channels" in context.diagnostics[0]


def test_the_clip_ends_where_the_other_channels_do():
    data = [tokens(16, seed=seed) for seed in range(4)]
    kernel = weights(128, 64)
    _, after, _ = split(lambda x: x @ kernel, data)
    (clip,) = (node.op for node in after.nodes if isinstance(node.op, Clip))
    (gather,) = (node for node in after.nodes if isinstance(node.op, Gather))
    channels = gather.inputs[1].array
    others = np.delete(np.concatenate(data), channels, axis=1)
    assert (clip.low, clip.high) == (others.min(), others.max())
    assert gather.output.range is not None
    assert gather.output.range.contains(np.concatenate(data)[:, channels])


def test_partial_sums_lie_in_their_ranges():
    q, bias = weights(128, 64), 10 * weights(64, seed=4)
    data = [tokens(16, seed=seed) for seed in range(4)]
    _, after, _ = split(lambda x: x @ q + bias, data)
    watched = [node.output for node in after.nodes if isinstance(node.op, Dot | Add)]
    shown = after.copy()
    shown.set_outputs([shown.value(value.name) for value in watched])
    for batch in data:
        for value, array in zip(watched, qir.evaluate(shown, batch), strict=True):
            # Bounds are sums in float64, the numbers sums of 128 products in float32.
            assert value.range is not None
            assert value.range.contains(array, slack=128 * 2**-23 * np.abs(array).max() * 8)


def test_a_gate_is_applied_to_gathered_channels():
    first, second = weights(128, 256), weights(256, 128, seed=2)
    first[:, [3, 9, 100]] *= 40
    data = [tokens(16, factor=1.0, seed=seed) for seed in range(4)]
    before, after, _ = split(lambda x: jax.nn.gelu(x @ first) @ second, data)
    gates = [node for node in after.nodes if isinstance(node.op, Gelu)]
    assert len(gates) == 2
    assert isinstance(gates[0].inputs[0].op, Dot)
    assert isinstance(gates[1].inputs[0].op, Gather)
    assert all(
        value.range is not None
        for value in after.values()
        if not value.is_constant and value.type.is_float
    )
    check_same(before, after, data, SEEN_IN_FLOAT32)


def test_the_sum_stands_for_what_was_imported():
    kernel = weights(128, 64)
    data = [tokens(16)]
    before, after, _ = split(lambda x: x @ kernel, data)
    (old,), (new,) = before.outputs, after.outputs
    assert (new.name, new.origin, new.loc) == (old.name, old.origin, old.loc)
    assert new.range == old.range
    assert not any(value.origin for value in new.inputs)
    assert all(value.loc == old.loc for value in new.inputs)


def test_operands_that_are_sums_of_split_products_are_split_too():
    first, second = weights(128, 128), weights(128, 64, seed=2)
    first[:, [3, 9, 100]] *= 40
    data = [tokens(16, seed=seed) for seed in range(4)]
    before, after, context = split(lambda x: (x @ first) @ second, data)
    assert count(after, Dot) == 4
    assert len(context.diagnostics) == 2
    check_same(before, after, data, SEEN_IN_FLOAT32)


@pytest.mark.parametrize("width", [32, 128])
def test_what_has_no_outliers_or_few_channels_is_left_alone(width):
    rng = np.random.default_rng(0)
    factor = 50.0 if width < 64 else 1.0
    data = [rng.normal(0, 1, (16, width)).astype(np.float32) for _ in range(4)]
    for batch in data:
        batch[:, [3, 8]] *= factor
    kernel = weights(width, 16)
    before, after, _ = split(lambda x: x @ kernel, data)
    assert str(after) == str(before)


def test_without_observations_of_channels_nothing_is_split():
    kernel = weights(128, 64)
    data = [tokens(16)]
    graph = qir.from_jax(lambda x: x @ kernel, data[0], batch="B")
    context = Context()
    qir.optimize(graph, CALIBRATED, data=data, context=context)
    for name in context.statistics:
        context.statistics.add(name, channels=None)
    again = Context()
    after = qir.optimize(graph, SPLIT, statistics=context.statistics, context=again)
    assert count(after, Dot) == 1
    assert again.diagnostics == ["split-outliers: no channels known of %x"]


def test_outliers_no_longer_cost_accuracy():
    """A block of a transformer: an MLP with a gate over tokens with large channels."""
    first, second = weights(128, 256), weights(256, 128, seed=2)
    first[LARGE] /= 20
    first[:, [3, 9, 100]] *= 20

    def block(x):
        return x @ weights(128, 64, seed=7), jax.nn.gelu(x @ first) @ second

    data = [tokens(32, seed=seed) for seed in range(8)]
    test = tokens(64, seed=99)
    graph = qir.from_jax(block, data[0], batch="B")
    real = qir.evaluate(graph, test)
    # The first one is noise, and the check says so.
    with pytest.warns(qir.QirAccuracyWarning, match="shared code at %x"):
        whole = qir.quantize(graph, data, UNSPLIT)
    parts = qir.quantize(graph, data)
    for exact, coarse, fine in zip(
        real, qir.evaluate(whole, test), qir.evaluate(parts, test), strict=True
    ):
        # Of the 34 dB by which the large channels coarsen the step of the others, a part goes on
        # in their own products; the prediction is 14 dB for either.
        assert sqnr(exact, fine) > sqnr(exact, coarse) + 10
    for fine, compiled in zip(
        qir.evaluate(parts, test), qir.compile(parts, kernels=False)(test), strict=True
    ):
        assert np.array_equal(fine, compiled)


@st.composite
def channels(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = 4 * draw(st.integers(16, 40))
    array = rng.normal(0, 1, (32, width)) * np.exp2(rng.normal(0, draw(st.floats(0, 3)), width))
    return array.astype(np.float32), rng.normal(0, 1, (width, 8)).astype(np.float32)


@examples(100)
@given(channels())
def test_chosen_channels_are_the_largest_and_gain_what_is_promised(case):
    array, kernel = case
    statistic = observe_channels(array, (1,))
    graph = qir.Graph("g", [("x", qir.TensorType(array.shape, qir.DType.F32))])
    (x,) = graph.inputs
    x.observed = Interval.of(array.min(), array.max())
    choice = choose(x, [kernel], statistic, 3.0)
    if choice is None:
        return
    others = np.delete(np.arange(array.shape[1]), choice.channels)
    assert len(choice.channels) in (4, 8)
    assert choice.gain >= 3
    assert statistic.peaks[choice.channels].min() >= statistic.peaks[others].max()
    assert choice.inside.contains(array[:, others])
    assert choice.outside.contains(array[:, choice.channels])


def test_a_gain_below_zero_is_refused():
    with pytest.raises(QirError, match="expected a gain of at least 0 dB, got -1"):
        qir.optimize(
            qir.parse("graph @g(%x: f32[1]) {\n  return %x\n}"), "split-outliers(gain=-1.0)"
        )


def test_golden_text():
    array = np.ones((1, 64), np.float32)
    array[0, ::2] = -1
    array[0, 9:60:10] = [-80, 30, 0.5, 0.5, 0.5, 0.5]
    kernel = np.zeros((64, 2), np.float32)
    kernel[9] = [1, 2]
    graph = qir.parse(
        """
graph @outliers(%x: f32[1,64]) {
  %k = const : f32[64,2]
  %y = dot(%x, %k) : f32[1,2] loc("model.py:3")
  return %y
}""",
        {"k": kernel + 1},
    )
    after = qir.optimize(graph, "calibrate, split-outliers", data=[array])
    assert str(after).strip() == GOLDEN.strip()


GOLDEN = """
graph @outliers(%x: f32[1,64] seen [-80.0, 30.0]) {
  %x.inliers = clip(%x) {low = -1.0, high = 1.0} : f32[1,64] seen [-1.0, 1.0]
  %x.channels = const [0, 1, 9, 19] : i32[4]
  %x.outliers = gather(%x, %x.channels) {axis = 1} : f32[1,4] seen [-80.0, 30.0]
  %k.outliers = const [[1.0, 1.0], [1.0, 1.0], [2.0, 3.0], [1.0, 1.0]] : f32[4,2]
  %k = const : f32[64,2]
  %y.part = dot(%x.inliers, %k) : f32[1,2] seen [-4.0, 0.0]
  %y.part_1 = dot(%x.outliers, %k.outliers) : f32[1,2] seen [-210.0, -130.0]
  %y = add(%y.part, %y.part_1) : f32[1,2] seen [-214.0, -134.0]
  return %y
}
"""
