"""What `qir.explain` returns; its reasons and its table are golden (golden/explain)."""

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
