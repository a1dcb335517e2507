"""agree-roundings: what it certifies has the same bits in every rounding mode, all of it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.analysis.reach import StoredReach
from qir.analysis.verify import verify
from qir.errors import PassError, VerifyError
from qir.numbers.rounding import rounding_mode
from qir.ops import Conv, Dequantize, Dot, MaxPool, Requantize, Transpose
from qir.ops.rules import Coded
from qir.passes.integer.agree_roundings import AgreeRoundings
from qir.passes.shared.scale_search import Rows
from qir.pipeline import Context
from qir.types import FrozenArray
from tests.drawing import examples

PIPELINE = "allow(within_1lsb), agree-roundings"
MODES = AgreeRoundings().roundings


class Model:
    """A program under construction.

    Args:
        seed: Seed of its numbers.
    """

    def __init__(self, seed=0, shape=(1, 4, 4, 3)):
        self.rng = np.random.default_rng(seed)
        self.graph = qir.Graph("model")
        element = qir.Affine.of(qir.DType.I8, 0.02, int(self.rng.integers(-128, 128)))
        self.x = self.graph.add_input("x", qir.TensorType(shape, element))
        self.build = self.graph.at_end()

    def weights(self, *shape, per_channel=True):
        """Weights with random scales for each of their outputs or with one scale."""
        axes = (1,) * (len(shape) - 1)
        scales = self.rng.uniform(0.3, 1, (*axes, shape[-1])) / 100
        element = qir.Affine.of(qir.DType.I8, scales if per_channel else scales.max())
        array = self.rng.integers(-127, 128, shape).astype(np.int8)
        return self.build.const(array, "k", element)

    def sum(self, op, x, kernel, biased=True):
        """A sum of products, with a bias."""
        if not biased:
            return self.build.emit(op, x, kernel)
        scale = op.result(x.type, kernel.type).quant.scale.array
        array = self.rng.integers(-(2**12), 2**12, kernel.type.shape[-1]).astype(np.int32)
        element = qir.Affine.of(qir.DType.I32, scale.reshape(-1) if scale.ndim else scale)
        return self.build.emit(op, x, kernel, self.build.const(array, "b", element))

    def requantize(self, total, step=None, **options):
        """Brings a sum to 8 bits; a step of the result is about `step` of the sum."""
        scale = total.type.quant.scale.array.max() * (step or self.rng.uniform(20, 3000))
        point = int(self.rng.integers(-128, 128))
        to = qir.Affine.of(qir.DType.I8, scale, point)
        return self.build.emit(Requantize(to, **options), total)

    def done(self, *outputs):
        self.graph.set_outputs(outputs)
        return self.graph


def requantizes(graph):
    return [node.output for node in graph.walk() if isinstance(node.op, Requantize)]


def requantize(value):
    assert isinstance(value.op, Requantize)
    return value.op


def change(value, **fields):
    assert value.node is not None
    value.node.op = replace(requantize(value), **fields)


def code(value):
    return value.type.affine


def in_other_mode(graph):
    """The program with each requantize computed by the rounding that it is certified for."""
    copy = graph.copy()
    for value in requantizes(copy):
        if requantize(value).agrees:
            (other,) = requantize(value).agrees
            change(value, rounding=other, agrees=())
    return copy


def every_operand(graph, seed):
    """Inputs of random numbers and of nothing but the least and the greatest."""
    rng = np.random.default_rng(seed)
    shape = graph.inputs[0].type.known_shape
    yield from rng.integers(-128, 128, (4, *shape)).astype(np.int8)
    yield from rng.choice(np.array([-128, 127], np.int8), (4, *shape))


@st.composite
def layers(draw):
    """Convolutions and dots whose sums are moved about and read by one requantize or more."""
    model = Model(draw(st.integers(0, 2**32)))
    per_channel, biased = draw(st.booleans()), draw(st.booleans())
    op, shape = draw(
        st.sampled_from(
            [
                (Dot(), (3, 5)),
                (Conv(padding="same"), (3, 3, 3, 6)),
                (Conv(groups=3), (2, 2, 1, 6)),
            ]
        )
    )
    kernel = model.weights(*shape, per_channel=per_channel)
    totals = [model.sum(op, model.x, kernel, biased)]
    if draw(st.booleans()):
        # A second sum with the same weights, over other activations.
        totals.append(model.sum(op, model.requantize(model.x, 1.5), kernel, biased))
    outputs = []
    for total in totals:
        moved = draw(st.sampled_from([None, Transpose((3, 0, 2, 1)), MaxPool((2, 2))]))
        for read in [total] if moved is None else [total, model.build.emit(moved, total)]:
            rounding = draw(st.sampled_from(MODES))
            clamp = draw(st.sampled_from([None, (-100, 20)]))
            outputs.append(model.requantize(read, rounding=rounding, clamp=clamp))
    return model.done(*outputs)


@examples(40)
@given(layers(), st.integers(0, 2**32))
def test_certified_programs_have_the_same_bits_in_both_modes(graph, seed):
    context = Context()
    # The check compares the results of each requantize with those before, within one step.
    inputs = list(every_operand(graph, seed))
    after = qir.optimize(graph, PIPELINE, check=[inputs[0]], context=context)
    for value in requantizes(after):
        assert requantize(value).agrees or value.inputs[0] is after.inputs[0], context.diagnostics
    other = in_other_mode(after)
    for x in inputs:
        for left, right in zip(qir.evaluate(after, x), qir.evaluate(other, x), strict=True):
            assert np.array_equal(left, right)
    stored = [value.array for value in graph.values() if value.is_constant]
    kept = [value.array for value in after.values() if value.is_constant]
    assert all(any(np.array_equal(a, b) for a in stored) for b in kept)


def test_two_thousand_channels():
    """All are certified; most stay as they are, none moves far."""
    model = Model(7, (1, 2, 2, 64))
    kernel = model.weights(3, 3, 64, 2000)
    total = model.sum(Conv(padding="same"), model.x, kernel)
    graph = model.done(model.requantize(total, 130))
    context = Context()
    after = qir.optimize(graph, PIPELINE, context=context)
    assert requantize(after.outputs[0]).agrees == ("f32_rne",)
    assert context.diagnostics[0] == "agree-roundings: 2000 of 2000 channels agree"
    before, moved = (
        code(value).scale.array.reshape(-1).view(np.int32)
        for value in (graph.value("k"), after.value("k"))
    )
    ulps = np.abs(moved - before)
    assert np.median(ulps) == 0
    assert 1 < ulps.max() < 128


@pytest.mark.parametrize("mode", MODES)
def test_every_accumulator_of_some_channels(mode):
    """All accumulators that can occur, one by one: the certificate says the truth and no less."""
    model = Model(3, (1, 60))
    kernel = model.weights(60, 8)
    graph = model.done(model.requantize(model.sum(Dot(), model.x, kernel), 900, rounding=mode))
    after = qir.optimize(graph, PIPELINE)
    assert requantize(after.outputs[0]).agrees
    moved = after.value("k").type.quant != graph.value("k").type.quant
    assert moved, "a channel that disagrees at first is among them"
    assert np.array_equal(_differing_channels(after), np.zeros(8, bool))
    assert _differing_channels(graph).any()


def _differing_channels(graph):
    """Which channels differ between the modes on any accumulator in their reach."""
    x, kernel, bias = graph.value("x"), graph.value("k"), graph.value("b")
    steps = np.array(code(x).range) - int(code(x).zero_points)
    weights = kernel.array.astype(np.int64)
    corners = weights[None] * steps[:, None, None]
    low, high = (end.sum(axis=0) + bias.array for end in (corners.min(0), corners.max(0)))
    op, differ = requantize(graph.outputs[0]), []
    for channel in range(len(low)):
        column = np.arange(low[channel], high[channel] + 1)
        assert len(column) > 2**19
        scale = code(graph.value("dot")).scale.array[0, channel]
        acc = qir.TensorType((len(column),), qir.Affine.of(qir.DType.I32, scale))
        results = [
            replace(op, rounding=rounding, agrees=()).integer([Coded(column, acc)], acc)
            for rounding in MODES
        ]
        differ.append(not np.array_equal(results[0], results[1]))
    return np.array(differ)


def test_sums_beyond_float32():
    """Where the conversion to float32 rounds, all is proved as well, or refused."""
    model = Model(11, (1, 9000))
    total = model.sum(Dot(), model.x, model.weights(9000, 3))
    scale = code(total).scale.array.max() * 2**24 / 1.1
    few = model.build.emit(
        Requantize(qir.Affine.of(qir.DType.I8, scale, 72), clamp=(73, 75)), total
    )
    graph = model.done(few)
    after = qir.optimize(graph, PIPELINE)
    op = requantize(after.outputs[0])
    assert op.agrees == ("f32_rne",)
    type = after.value("dot").type
    thresholds = rounding_mode("fixed31").thresholds(op.factors(type), np.array([[2], [3]]))
    assert thresholds.min() > 2**24
    reach = StoredReach.of(after).steps_by_place(after.value("dot"))
    near = (thresholds + np.arange(-3, 4)[:, None, None]).reshape(-1, 3)
    accumulators = Coded(np.clip(near, *reach), type)
    other = replace(op, rounding="f32_rne", agrees=())
    assert np.array_equal(op.integer([accumulators], type), other.integer([accumulators], type))

    model = Model(11, (1, 9000))
    total = model.sum(Dot(), model.x, model.weights(9000, 3))
    graph = model.done(model.requantize(total, 2**18))
    context = Context()
    after = qir.optimize(graph, PIPELINE, context=context)
    assert requantize(after.outputs[0]).agrees == ()
    assert "no scale within 4096 ulps agrees in channel 0" in context.diagnostics[0]
    assert after.value("k").type == graph.value("k").type


def test_scales_are_chosen_by_proof(monkeypatch):
    """What is looked at first saves time and decides nothing."""
    model = Model(3, (1, 60))
    graph = model.done(
        model.requantize(model.sum(Dot(), model.x, model.weights(60, 40)), 900),
    )
    expected = qir.optimize(graph, PIPELINE)
    monkeypatch.setattr(Rows, "suspects", lambda _, rows, scales: np.zeros(scales.shape, bool))
    assert qir.optimize(graph, PIPELINE) == expected
    assert requantize(expected.outputs[0]).agrees


def test_needs_permission_to_move_scales():
    model = Model()
    graph = model.done(model.requantize(model.sum(Dot(), model.x, model.weights(3, 4)), 300))
    with pytest.raises(PassError, match="within 1 LSB"):
        qir.optimize(graph, "agree-roundings")
    assert qir.optimize(graph, "agree-roundings(ulps=0)").value("k").type == graph.value("k").type


def test_a_rewrite_drops_what_it_makes_untrue_and_keeps_what_stays_true():
    model = Model(5)
    total = model.sum(Conv(), model.x, model.weights(3, 3, 3, 16))
    first = model.requantize(total, 700)
    nearby = FrozenArray(code(first).scale.array * np.float32(0.97))
    second = model.build.emit(Requantize(replace(code(first), scale=nearby)), first)
    graph = qir.optimize(model.done(second), PIPELINE)
    assert requantize(requantizes(graph)[0]).agrees == ("f32_rne",)
    context = Context()
    merged = qir.optimize(graph, "allow(within_1lsb), fuse-requantize(merge=true)", context=context)
    (last,) = requantizes(merged)
    assert requantize(last).agrees == ()
    assert "fuse-requantize: drops a certificate" in " ".join(context.diagnostics)

    clamped = graph.copy()
    narrow = requantizes(clamped)[0]
    change(narrow, clamp=(-20, 100))
    verify(clamped)
    lowered = qir.optimize(graph, "lower-requantize")
    assert requantize(requantizes(lowered)[0]).agrees == ("f32_rne",)


def test_wider_reach_makes_a_certificate_false():
    """What comes in decides about it: the verifier looks at the whole program."""
    model = Model(5)
    point = int(code(model.x).zero_points)
    narrow = model.build.emit(Requantize(code(model.x), clamp=(point, point)), model.x)
    total = model.sum(Conv(), narrow, model.weights(3, 3, 3, 64), biased=False)
    graph = model.done(model.requantize(total, 700))
    graph = qir.optimize(graph, "agree-roundings(ulps=0)")
    assert requantize(requantizes(graph)[1]).agrees
    wide = requantizes(graph)[0]
    change(wide, clamp=None)
    with pytest.raises(VerifyError, match="does not agree with f32_rne in channel"):
        verify(graph)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dequantized", "%conv is read by dequantize too"),
        ("lowered", "has its multiplier written out"),
        ("activations", "its operand is no sum with constant weights"),
    ],
)
def test_says_why_scales_stay(kind, reason):
    model = Model(2)
    if kind == "activations":
        outputs = [model.requantize(model.x, 2.0)]
    else:
        total = model.sum(Conv(), model.x, model.weights(3, 3, 3, 64))
        outputs = [model.requantize(total, 900)]
        if kind == "dequantized":
            outputs.append(model.build.emit(Dequantize(), total))
    graph = model.done(*outputs)
    if kind == "lowered":
        graph = qir.optimize(graph, "lower-requantize")
    context = Context()
    after = qir.optimize(graph, PIPELINE, context=context)
    assert requantize(requantizes(after)[0]).agrees == ()
    assert reason in context.diagnostics[0]
