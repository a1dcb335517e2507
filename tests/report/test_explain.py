"""What `qir.explain` returns; its reasons and its table are golden (golden/explain)."""

import numpy as np

import qir

MODEL = """\
graph @g(%x: f32[2,4] in [-1.0, 1.0]) {
  %t = tanh(%x) : f32[2,4] in [-1.0, 1.0]
  %s = softmax(%t) {axis = 1} : f32[2,4] in [0.0, 1.0]
  return %s
}
"""
PROGRAM = qir.optimize(qir.parse(MODEL), "quantize(keep_float=[t])")


def test_floats_are_the_lines_with_reasons():
    explanation = qir.explain(PROGRAM)
    assert [line.value for line in explanation.floats] == ["t"]
    assert all(bool(line.reason) != line.integer for line in explanation.lines)
    assert explanation.summary == "1 of 2 ops integer"


def test_a_program_read_back_has_its_reasons(tmp_path):
    qir.save(PROGRAM, tmp_path / "g.qir")
    explanation = qir.explain(qir.load(tmp_path / "g.qir"))
    assert explanation == qir.explain(PROGRAM)
    assert explanation.floats[0].reason == "a selector keeps it in floating point"


def test_an_input_that_calibration_saw_one_number_of_is_told_of():
    graph = qir.parse(
        "graph @f(%x: f32[2,2], %s: f32[2,1]) { %y = mul(%x, %s) : f32[2,2] return %y }"
    )
    x = np.array([[1, 2], [-3, 4]], np.float32)
    text = "input %s was 1 in all of the calibration data: other numbers are clamped to [0, 1]"
    constant, varying = np.ones((2, 1), np.float32), np.array([[1], [2]], np.float32)
    assert text in str(qir.explain(qir.quantize(graph, [(x, constant)])))
    assert qir.explain(qir.quantize(graph, [(x, varying)])).inputs == ()
