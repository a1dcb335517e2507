"""What `qir.explain` returns; its reasons and its table are golden (golden/explain)."""

import re

import numpy as np
import pytest

import qir
from qir.errors import QirAccuracyWarning

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
    with pytest.warns(QirAccuracyWarning, match=re.escape(text)) as caught:
        integer = qir.quantize(graph, [(x, constant)])
    assert caught[0].filename == __file__
    assert text in str(qir.explain(integer))
    assert qir.explain(qir.quantize(graph, [(x, varying)])).inputs == ()


@pytest.mark.parametrize("storage", ["i8", "u8"])
def test_an_input_that_the_caller_quantizes_is_told_of_too(storage):
    graph = qir.parse(
        "graph @f(%x: f32[2,2], %s: f32[2,1]) { %y = mul(%x, %s) : f32[2,2] return %y }"
    )
    x, constant = np.array([[1, 2], [-3, 4]], np.float32), np.ones((2, 1), np.float32)
    pipeline = f"calibrate, quantize(inputs={storage}), check-overflow"
    with pytest.warns(QirAccuracyWarning, match=r"input %s was 1 .* clamped to \[0, 1\]") as caught:
        integer = qir.quantize(graph, [(x, constant)], pipeline)
    assert len(caught) == 1
    assert integer.inputs[1].type.dtype.value == storage


def test_a_program_of_zeros_is_warned_of_once_for_each_input():
    graph = qir.parse("graph @f(%x: f32[2,2]) { %y = tanh(%x) : f32[2,2] return %y }")
    with pytest.warns(QirAccuracyWarning, match="input %x was 0 in all of the") as caught:
        qir.quantize(graph, [np.zeros((2, 2), np.float32)])
    assert len(caught) == 1


def test_a_term_that_was_only_ever_0_is_warned_of_and_kept_on_the_result():
    graph = qir.parse(
        "graph @f(%x: f32[2,2], %s: f32[2,2], %unused: f32[2,2]) {\n"
        "  %t = tanh(%x) : f32[2,2]\n  %y = add(%t, %s) : f32[2,2]\n  return %y\n}"
    )
    x, zeros = np.array([[1, 2], [-3, 4]], np.float32), np.zeros((2, 2), np.float32)
    with pytest.warns(QirAccuracyWarning, match="input %s was 0 .* it is left out") as caught:
        integer = qir.quantize(graph, [(x, zeros, zeros)])
    assert len(caught) == 1
    (sentence,) = integer.diagnostics
    assert sentence.startswith("quantize: %y is %t alone: the other term was 0")
    assert sentence in str(qir.explain(integer))
    assert integer.copy().diagnostics == integer.diagnostics
    again = qir.optimize(integer, "lower-requantize", context=qir.Context(diagnostics=["else"]))
    assert again.diagnostics == integer.diagnostics


def test_accuracy_check_false_leaves_out_warnings_of_inputs():
    graph = qir.parse("graph @f(%x: f32[2,2]) { %y = tanh(%x) : f32[2,2] return %y }")
    qir.quantize(graph, [np.zeros((2, 2), np.float32)], accuracy_check=False)


class TestPipelinesThatDoNotCalibrate:
    RANGED = qir.parse(
        "graph @f(%x: f32[2,4] in [-1.0, 1.0]) {\n"
        "  %y = tanh(%x) : f32[2,4] in [-1.0, 1.0]\n  return %y\n}"
    )
    PIPELINE = "quantize, integer"
    X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)

    def test_data_is_read_for_the_accuracy_alone(self):
        accuracy = qir.quantize(self.RANGED, [self.X], self.PIPELINE).accuracy
        assert accuracy == qir.quantize(self.RANGED, [self.X, self.X], self.PIPELINE).accuracy
        assert accuracy is not None
        assert accuracy.outputs[0].sqnr > 20

    def test_an_output_that_is_far_from_it_is_warned_of(self):
        with pytest.warns(QirAccuracyWarning, match="at least 20 dB"):
            qir.quantize(self.RANGED, [self.X * 100], self.PIPELINE)

    @pytest.mark.parametrize("data", [None, iter([X])])
    def test_without_data_to_read_the_absence_is_told(self, data):
        context = qir.Context()
        integer = qir.quantize(self.RANGED, data, self.PIPELINE, context=context)
        assert integer.accuracy is None
        assert "the accuracy was not measured" in str(qir.explain(integer))
        assert integer.diagnostics == tuple(context.diagnostics)

    @pytest.mark.parametrize("pipeline", ["", "fold"])
    def test_a_program_in_which_nothing_has_a_code_is_told_of(self, pipeline):
        program = "graph @g(%x: f32[2,2]) { %y = dot(%x, %x) : f32[2,2] return %y }"
        graph = qir.parse(program)
        (sentence,) = qir.quantize(graph, None, pipeline).diagnostics
        assert sentence.startswith("quantize: nothing was quantized: ")

    def test_nothing_is_told_where_no_check_was_asked_for(self):
        integer = qir.quantize(self.RANGED, None, self.PIPELINE, accuracy_check=False)
        assert integer.diagnostics == ()
