"""Calibration observes channels and rows of the values that passes ask for, behind moves too."""

from __future__ import annotations

import numpy as np

import qir
from qir.backends.xla.executor import XlaExecutor
from qir.passes.shared import segments
from qir.pipeline import Context, PassManager, Pipeline

MOVED = """
graph @moved(%x: f32[B,2,3,4]) {
  %t = transpose(%x) {permutation = [0, 2, 1, 3]} : f32[B,3,2,4]
  %r = reshape(%t) : f32[B,3,8]
  %c = relu(%r) : f32[B,3,8]
  %k = const : f32[8,2]
  %y = dot(%r, %k) : f32[B,3,2]
  %f = reshape(%c) : f32[B,24]
  %l = const : f32[24,2]
  %z = dot(%f, %l) : f32[B,2]
  return %y, %z
}
"""
ATTENTION = """
graph @attention(%q: f32[B,2,3,4], %k: f32[B,2,4,3], %m: f32[B,1,1,3]) {
  %s = dot(%q, %k) {batch = 2} : f32[B,2,3,3]
  %a = add(%s, %m) : f32[B,2,3,3]
  %p = softmax(%a) {axis = 3} : f32[B,2,3,3]
  return %p
}
"""


def observed(source, data, arrays=None):
    context = Context(data=data, executor=XlaExecutor())
    PassManager(Pipeline.parse("calibrate")).run(qir.parse(source, arrays), context)
    return context


def known(context, kind):
    """One kind of the statistics, by name, where there are any."""
    return {
        name: getattr(seen, kind)
        for name, seen in context.statistics.items()
        if getattr(seen, kind) is not None
    }


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_channels_follow_values_through_moves_and_clips(monkeypatch):
    arrays = {"k": draw(8, 2), "l": draw(24, 2)}
    data = [draw(count, 2, 3, 4, seed=count) for count in (2, 1, 3)]
    seen = np.concatenate(data).transpose(0, 2, 1, 3).reshape(-1, 3, 8)
    flat = np.maximum(seen, 0).reshape(-1, 24)
    for size in (segments.SEGMENT_BYTES, 1):  # the whole program in one segment, and one node each
        monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
        channels = known(observed(MOVED, data, arrays), "channels")
        assert set(channels) == {"r", "f"}
        assert channels["r"].axes == (2,)
        assert np.array_equal(channels["r"].minimum, seen.min(axis=(0, 1)))
        assert np.array_equal(channels["f"].maximum, flat.max(axis=0))
        assert np.array_equal(channels["f"].minimum, flat.min(axis=0))
        np.testing.assert_allclose(
            channels["f"].mean_square, np.square(flat.astype(np.float64)).mean(axis=0), rtol=2**-23
        )


CONVOLVED = """
graph @convolved(%x: f32[B,5,4,3]) {
  %c = relu(%x) : f32[B,5,4,3]
  %k = const : f32[1,1,3,2]
  %y = conv(%c, %k) : f32[B,5,4,2]
  %z = conv(%x, %k) : f32[B,5,4,2]
  return %y, %z
}
"""


def test_convolutions_read_values_of_known_moments():
    data = [draw(count, 5, 4, 3, seed=count) for count in (2, 1)]
    context = observed(CONVOLVED, data, {"k": draw(1, 1, 3, 2)})
    assert set(known(context, "moments")) == {"x", "c"}
    assert known(context, "channels") == {}
    seen = np.concatenate(data).astype(np.float64)
    for name, numbers in (("x", seen), ("c", np.maximum(seen, 0))):
        found = known(context, "moments")[name]
        # Within 2^-24 of the mean, of numbers that may cancel to a tenth of what they are.
        np.testing.assert_allclose(found.means, numbers.mean(axis=(0, 1, 2)), rtol=2**-20)
        np.testing.assert_allclose(found.variances, numbers.var(axis=(0, 1, 2)), rtol=2**-20)


def test_heads_and_rows_of_attention_are_observed():
    data = [
        (draw(2, 2, 3, 4, seed=i), draw(2, 2, 4, 3, seed=9 + i), draw(2, 1, 1, 3)) for i in (1, 2)
    ]
    context = observed(ATTENTION, data)
    assert set(known(context, "channels")) == {"q", "k"}
    assert known(context, "channels")["q"].axes == (1,)
    queries = np.concatenate([q for q, _, _ in data])
    assert np.array_equal(known(context, "channels")["q"].maximum, queries.max(axis=(0, 2, 3)))
    scores = np.concatenate([q @ k + m for q, k, m in data])
    assert known(context, "rows")["a"].axes == (3,)
    # Four products and two sums, each rounded to float32 in the executor's order.
    slack = 8 * 2**-24 * np.abs(scores).max() * 4
    assert abs(known(context, "rows")["a"].least - scores.max(axis=3).min()) <= slack


def test_new_data_replaces_what_was_observed_before():
    context = Context(data=[draw(1, 2, 3, 4)], executor=XlaExecutor())
    arrays = {"k": draw(8, 2), "l": draw(24, 2)}
    for scale in (3, 1):
        context.data = [scale * draw(1, 2, 3, 4)]
        PassManager(Pipeline.parse("calibrate")).run(qir.parse(MOVED, arrays), context)
    assert known(context, "channels")["r"].peaks.max() == np.abs(draw(1, 2, 3, 4)).max()
