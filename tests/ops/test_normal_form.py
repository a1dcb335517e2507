"""Attributes that mean the same make ops that are equal."""

from dataclasses import replace

import pytest

import qir
from qir.ops import AvgPool, Conv, ConvTranspose, MaxPool, Slice

TEXT = """
graph @same(%x: f32[1,4,4,2], %k: f32[1,1,2,2]) {
  %y = conv(%x, %k) {strides = [1, 1], padding = [[0, 0], [0, 0]], dilation = [1, 1]} : f32[1,4,4,2]
  %z = slice(%y) {axes = [1, 2], start = [0, 1], limit = [2, 3], stride = [1, 1]} : f32[1,2,2,2]
  return %z
}
"""


@pytest.mark.parametrize(
    ("spelt_out", "short"),
    [
        (Conv(strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)), Conv()),
        (ConvTranspose(strides=(1,), dilation=(1,)), ConvTranspose()),
        (MaxPool((2, 2), (1, 1), ((0, 0), (0, 0))), MaxPool((2, 2))),
        (AvgPool((2,), (1,)), AvgPool((2,))),
        (Slice((0, 1), (0, 0), (2, 2), (1, 1)), Slice((0, 1), (0, 0), (2, 2))),
    ],
)
def test_ones_and_no_padding_are_left_out(spelt_out, short):
    assert spelt_out == short
    assert hash(spelt_out) == hash(short)
    assert spelt_out.attributes() == short.attributes()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Conv(strides=(1, 2)), Conv()),
        (Conv(dilation=(2, 1)), Conv()),
        (Conv(padding=((0, 0), (0, 1))), Conv()),
        (ConvTranspose(padding=((0, 0), (0, 0))), ConvTranspose()),
        (MaxPool((2, 2), (1, 2)), MaxPool((2, 2))),
        (Slice((0,), (0,), (2,), (2,)), Slice((0,), (0,), (2,))),
    ],
)
def test_what_means_something_else_stays(one, other):
    assert one != other
    assert replace(one) == one


def test_a_text_that_spells_them_out_prints_without_them():
    graph = qir.parse(TEXT)
    first, second, _ = graph.nodes
    assert first.op == Conv()
    assert second.op == Slice((1, 2), (0, 1), (2, 3))
    again = str(graph)
    assert "conv(%x, %k) : f32" in again
    assert "stride" not in again
    assert str(qir.parse(again)) == again


def test_their_number_is_checked_first():
    with pytest.raises(qir.QirError, match="max_pool: expected 2 entries in strides, got 3"):
        MaxPool((2, 2), (1, 1, 1))
    with pytest.raises(qir.QirError, match="avg_pool: expected 1 entry in padding, got 2"):
        AvgPool((2,), padding=((0, 0), (0, 0)))
    with pytest.raises(qir.QirError, match="slice: expected a start, limit and stride for each"):
        Slice((0,), (0,), (2,), (1, 1))
