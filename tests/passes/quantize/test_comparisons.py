"""A comparison whose other side calibration never saw is made in floating point."""

import numpy as np
import pytest

import qir
from qir.errors import QirAccuracyWarning

ADDEND = """
  %one = const 1.0 : f32[]
  %dropped = sub(%one, %m) : f32[B,4]
  %least = const -1e+09 : f32[]
  %addend = mul(%dropped, %least) : f32[B,4]
  %bound = const -10000.0 : f32[]
  %kept = greater(%addend, %bound) : bool[B,4]
"""
MASKED = f"""
graph @f(%x: f32[B,4], %m: f32[B,4]) {{{ADDEND}
  %y = softmax(%x, %kept) {{axis = 1}} : f32[B,4]
  return %y
}}
"""
X = np.array([[0, 1, 2, -1], [8, 0, 0, 0], [0, 1, -2, 3]], np.float32)
KEPT = np.ones((3, 4), np.float32)
DROPPED = np.tile(np.array([1, 0, 1, 0], np.float32), (3, 1))


def test_a_mask_counts_that_calibration_data_never_dropped_anything_by():
    graph = qir.parse(MASKED)
    integer = qir.quantize(graph, [(X, KEPT)])
    (exact,), (found,) = (qir.evaluate(program, X, DROPPED) for program in (graph, integer))
    np.testing.assert_array_equal(found[:, 1::2], 0)
    # Half a step of 10/255 in each of two scores, and a step of 1/256 in their shares.
    np.testing.assert_allclose(found, exact, rtol=10 / 255, atol=1 / 256)
    floats = {verdict.value: verdict.reason for verdict in qir.explain(integer).floats}
    assert floats.keys() == {"dropped", "addend", "kept"}
    assert floats["kept"] == "calibration saw %addend on one side of %bound only"


@pytest.mark.parametrize(("threshold", "is_float"), [(0.5, False), (5.0, True)])
def test_only_a_number_beyond_the_range_keeps_what_it_is_compared_with(threshold, is_float):
    graph = qir.parse(f"""
graph @f(%x: f32[B,4]) {{
  %t = const {threshold} : f32[]
  %a = tanh(%x) : f32[B,4]
  %over = greater(%a, %t) : bool[B,4]
  %y = select(%over, %x, %a) : f32[B,4]
  return %y
}}
""")
    integer = qir.quantize(graph, [X])
    floats = {verdict.value for verdict in qir.explain(integer).floats}
    assert ("a" in floats) == is_float


def test_nothing_behind_a_product_is_kept():
    graph = qir.parse(
        MASKED.replace(
            "%dropped = sub(%one, %m)",
            "%w = const [[1.0, 0.5], [0.5, 1.0]] : f32[2,2]\n"
            "  %p = dot(%m, %w) : f32[B,2]\n  %dropped = sub(%one, %p)",
        )
        .replace("f32[B,4]", "f32[B,2]")
        .replace("bool[B,4]", "bool[B,2]")
    )
    with pytest.warns(QirAccuracyWarning, match="input %m was 1 in all of the calibration data"):
        integer = qir.quantize(graph, [(X[:, :2], KEPT[:, :2])])
    floats = {verdict.value for verdict in qir.explain(integer).floats}
    assert floats == {"kept"}
