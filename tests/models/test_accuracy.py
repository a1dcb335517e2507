"""The judges themselves: what they count as noise, as wide and as exact."""

import numpy as np
import pytest

import qir
from tests.models.accuracy import Figures, decibels, exact_part, wide_products


def test_decibels_are_those_of_each_row():
    wanted = np.array([[10.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    found = np.array([[9.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert decibels(wanted, found).tolist() == [20.0, np.inf, 0.0]


def test_the_least_output_and_the_worst_rows_count():
    wanted, found = np.full((100, 1), 10.0), np.full((100, 1), 9.0)
    worse = found.copy()
    worse[:6] = 0.0
    figures = Figures(qir.Graph("none"), (wanted, wanted), (found, worse), 0, 0)
    assert figures.rows == 0.0
    # 94 rows are off by 1 and 6 by 10, of 10.
    assert figures.decibels == pytest.approx(10 * np.log10(10_000 / (94 + 600)))


FLOAT_BETWEEN = """
qir 2
graph @between(%x: f32[4], %w: i8[4,3]{scale=0.5}) {
  %a = quantize(%x) : i8[4]{scale=0.5}
  %r = dequantize(%a) : f32[4]
  %s = sin(%r) : f32[4]
  %b = quantize(%s) : i8[4]{scale=0.0078125}
  %y = dot(%b, %w) : i32[3]{scale=0.00390625}
  %z = dequantize(%y) : f32[3]
  return %z
}
"""


def test_what_floating_point_decides_is_not_compared():
    part = exact_part(qir.parse(FLOAT_BETWEEN))
    assert [value.name for value in part.outputs] == ["a"]


def test_a_program_without_floating_point_is_compared_whole():
    without = FLOAT_BETWEEN.replace("  %s = sin(%r) : f32[4]\n", "").replace("(%s)", "(%x)")
    graph = qir.parse(without)
    assert exact_part(graph) is graph


def test_products_of_codes_are_not_wide_and_those_of_reals_are():
    graph = qir.parse(FLOAT_BETWEEN)
    assert wide_products(graph) == []
    real = FLOAT_BETWEEN.replace("dot(%b, %w) : i32[3]{scale=0.00390625}", "dot(%s, %v) : f32[3]")
    real = real.replace("i8[4,3]{scale=0.5}", "f32[4,3]").replace("%w:", "%v:")
    real = real.replace("  %z = dequantize(%y) : f32[3]\n", "").replace("%z", "%y")
    assert wide_products(qir.parse(real)) == ["y"]
