"""Q/DQ programs whose codes vary by channel or block, and whose biases are coded in many ways."""

from unittest.mock import patch

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.numbers.quantize_mode import QUANTIZE_MODES
from qir.observe.batches import random_inputs

PIPELINES = ["lift-qdq", "lift-qdq, integer"]

PRODUCT = """
  %xd = dequantize(%x) : f32[4,3]
  %w = const [[1, 2, 3, 4], [3, 4, 5, 6], [50, -60, 70, 80]] : i8[3,4]{scale=0.1}
  %wd = dequantize(%w) : f32[3,4]
  %y = dot(%xd, %wd) : f32[4,4]"""

MOVES = {
    "transpose": ("transpose(%y) {permutation = [1, 0]}", "4,4"),
    "reverse": ("reverse(%y) {axes = [1]}", "4,4"),
    "slice": ("slice(%y) {axes = [1], start = [2], limit = [4]}", "4,2"),
    "reshape": ("reshape(%y)", "2,8"),
}


def program(body: str, result: str, x: str = "i8[4,3]{scale=0.01}") -> qir.Graph:
    return qir.parse(f"graph @g(%x: {x}) {{{body}\n  return %{result}\n}}")


def check(graph: qir.Graph, pipeline: str) -> qir.Graph:
    """Returns what is lifted, which gives the integers of float64 in the same code."""
    lifted = qir.optimize(graph, pipeline)
    assert [value.type for value in lifted.outputs] == [value.type for value in graph.outputs]
    inputs = random_inputs(graph, seed=1)
    meant = run(graph, *inputs, precision=np.float64)
    for expected, found, compiled in zip(
        meant, run(lifted, *inputs), qir.compile(lifted)(*inputs), strict=True
    ):
        assert np.array_equal(expected, found), lifted
        assert np.array_equal(found, compiled)
    return lifted


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", MOVES)
def test_a_code_by_channel_behind_a_move_along_the_channels_is_that_of_the_result(name, pipeline):
    move, shape = MOVES[name]
    channels = int(shape.split(",")[1])
    scales = ", ".join(f"0.0{index + 1}" for index in range(channels))
    text = f"{PRODUCT}\n  %m = {move} : f32[{shape}]"
    text += f"\n  %q = quantize(%m) : i8[{shape}]{{scale=[{scales}], axis=1}}"
    lifted = check(program(text, "q"), pipeline)
    if pipeline == "lift-qdq":
        assert any(line.op == name and line.reason for line in qir.explain(lifted).floats)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(
    "to",
    [
        "{scale=[0.1, 0.2, 0.3, 0.4, 0.11, 0.12, 0.15, 0.16], blocks=[1, 1]}",
        "{scale=[0.11, 0.2, 0.3, 0.4], axis=0, zp=[5, 6, 7, -8]}",
        "{scale=[0.2, 0.4], blocks=[2, 2]}",
        "{scale=0.4}",
    ],
)
def test_numbers_coded_by_blocks_go_into_blocks_of_other_sizes(to, pipeline):
    x = "i4[4,2]{scale=[0.1, 0.2, 0.3, 0.4], blocks=[2, 1], zp=[1, 2, 3, -4]}"
    text = f"\n  %d = dequantize(%x) : f32[4,2]\n  %q = quantize(%d) : i8[4,2]{to}"
    check(program(text, "q", x), pipeline)


@pytest.mark.parametrize("behind", [False, True], ids=["an operand", "added behind"])
@pytest.mark.parametrize("w", ["scale=0.01", "scale=[0.01, 0.02], axis=1"])
@pytest.mark.parametrize(
    "bias",
    [
        "i32[2]{scale=0.001}",
        "i32[2]{scale=[0.001, 0.002], axis=0}",
        "i32[2]{scale=0.0025}",
        "i8[2]{scale=0.03, zp=4}",
        "i32[1]{scale=0.001}",
    ],
)
def test_a_bias_of_any_code_and_place_is_one_in_the_steps_of_the_sum(bias, w, behind):
    size = int(bias[bias.index("[") + 1])
    if size == 1 and not behind:
        return  # A dot has one number for each channel.
    product = f"""
  %xd = dequantize(%x) : f32[2,3]
  %w = const [[1, 2], [3, 4], [50, -60]] : i8[3,2]{{{w}}}
  %wd = dequantize(%w) : f32[3,2]"""
    constant = f"""
  %b = const {[100, -7][:size]} : {bias}
  %bd = dequantize(%b) : f32[{size}]"""
    if behind:
        text = product + "\n  %p = dot(%xd, %wd) : f32[2,2]"
        text += constant + "\n  %y = add(%p, %bd) : f32[2,2]"
    else:
        text = product + constant + "\n  %y = dot(%xd, %wd, %bd) : f32[2,2]"
    text += "\n  %q = quantize(%y) : i8[2,2]{scale=0.05}"
    lifted = check(program(text, "q", "i8[2,3]{scale=0.1}"), "lift-qdq")
    assert not qir.explain(lifted).floats


def test_a_factor_of_a_sum_goes_into_its_scale_on_either_side() -> None:
    text = PRODUCT + "\n  %c = const 0.3 : f32[]\n  %m = mul(%c, %y) : f32[4,4]"
    lifted = check(program(text + "\n  %q = quantize(%m) : i8[4,4]{scale=0.1}", "q"), "lift-qdq")
    assert not qir.explain(lifted).floats


HALF = """
  %w = const [[10, -20, 30, 4], [33, -4, 5, 60], [50, -60, 70, 8]] : i8[3,4]{scale=0.01}
  %wd = dequantize(%w) : f32[3,4]
  %y = dot(%x, %wd) : f32[8,4]"""


@pytest.mark.parametrize("pipeline", ["w8a8", "w4a8", "w8a16", "w8"])
def test_a_program_that_returns_stored_numbers_is_quantized_and_its_accuracy_is_told(pipeline):
    graph = program(HALF + "\n  %q = quantize(%y) : i8[8,4]{scale=0.02, zp=3}", "q", "f32[8,3]")
    (x,) = random_inputs(graph, seed=2)
    integer = qir.quantize(graph, [x], pipeline)
    assert integer.outputs[0].type == graph.outputs[0].type
    (expected,), (found,) = qir.evaluate(graph, x), qir.evaluate(integer, x)
    assert np.abs(expected.astype(int) - found).max() <= 2  # 0.008 of x, times weights of up to 1.4
    assert integer.accuracy is not None
    assert integer.accuracy.outputs[0].sqnr > 30


def test_a_program_with_codes_that_quantize_makes_worse_is_warned_of() -> None:
    # What rounding loses is gone where the other operand is rounded to the same code.
    text = """
  %q = quantize(%x) : i8[8,3]{scale=0.03}
  %d = dequantize(%q) : f32[8,3]
  %lost = sub(%x, %d) : f32[8,3]"""
    graph = program(text, "lost", "f32[8,3]")
    with pytest.warns(qir.QirAccuracyWarning, match="%lost has 0.0 dB"):
        qir.quantize(graph, [random_inputs(graph, seed=2)], "w8a8")


@pytest.mark.parametrize("w", ["scale=0.1", "scale=[0.1, 0.2, 0.3], axis=1"])
def test_a_bias_of_a_sum_whose_scale_varies_by_row_is_added_in_floating_point(w: str) -> None:
    text = f"""
  %d = dequantize(%x) : f32[3,2]
  %w = const [[1, 2, 3], [4, 5, -6]] : i8[2,3]{{{w}}}
  %wd = dequantize(%w) : f32[2,3]
  %b = const [1.0, -2.0, 3.0] : f32[3]
  %y = dot(%d, %wd, %b) : f32[3,3]
  %q = quantize(%y) : i8[3,3]{{scale=0.05}}"""
    lifted = check(program(text, "q", "i8[3,2]{scale=[0.1, 0.2, 0.4], axis=0}"), "lift-qdq")
    (line,) = qir.explain(lifted).floats
    assert "one scale for all rows" in line.reason


def test_numbers_coded_by_blocks_are_padded_by_what_each_block_stores_for_the_value() -> None:
    x = "i8[2,4]{scale=[0.1, 0.2], blocks=[2, 2], zp=[4, 6]}"
    text = "\n  %p = pad(%x) {low = [1, 0], high = [0, 0], value = 0.5} : "
    graph = program(text + "i8[3,4]{scale=[0.1, 0.2], blocks=[3, 2], zp=[4, 6]}", "p", x)
    numbers = np.arange(8, dtype=np.int8).reshape(2, 4)
    for (found,) in (qir.evaluate(graph, numbers), qir.compile(graph)(numbers)):
        assert np.array_equal(found[0], [9, 9, 8, 8])
        assert np.array_equal(found[1:], numbers)


def test_a_function_of_numbers_whose_scales_vary_is_tried_at_all_that_they_mean() -> None:
    text = """
  %q = quantize(%x) : i8[8,3]{scale=[0.03, 0.02, 0.01], axis=1}
  %d = dequantize(%q) : f32[8,3]
  %y = gelu(%d) : f32[8,3]"""
    graph = program(text, "y", "f32[8,3]")
    inputs = random_inputs(graph, seed=2)
    integer = qir.quantize(graph, [inputs], "w8a8")
    (exact,), (found,) = qir.evaluate(graph, *inputs), qir.evaluate(integer, *inputs)
    assert np.abs(exact - found).max() <= np.ptp(exact) / 255


def test_clip_of_a_code_that_varies_is_refused_where_types_are_inferred() -> None:
    with pytest.raises(qir.QirError, match="expected a code per tensor"):
        program(
            "\n  %c = clip(%x) {low = 0.0, high = 1.0} : i8[2,3]{scale=[0.1, 0.2], axis=0}",
            "c",
            "i8[2,3]{scale=[0.1, 0.2], axis=0}",
        )


def test_codes_that_a_target_does_not_accept_stay_and_are_told_of() -> None:
    text = """
  %q = quantize(%x) {rounding = divide} : u8[8,3]{scale=0.004, zp=-300}
  %d = dequantize(%q) : f32[8,3]
  %y = relu(%d) : f32[8,3]"""
    graph = program(text, "y", "f32[8,3]")
    data = [np.full((8, 3), 1.5, np.float32) + np.linspace(0, 0.5, 3, dtype=np.float32)]
    told = qir.quantize(graph, data, target="onnx", accuracy_check=False).diagnostics
    assert any("quantize of %q, zero_point_inside" in sentence for sentence in told)
    told = qir.quantize(graph, data, target="xla", accuracy_check=False).diagnostics
    assert not any("does not accept" in sentence for sentence in told)


def test_a_mode_of_ones_own_does_not_tell_how_sums_are_rounded():
    own = {"mine": QUANTIZE_MODES["reciprocal"]}
    with patch.dict(QUANTIZE_MODES, own):
        body = "\n  %q = quantize(%y) {rounding = mine} : i8[4,4]{scale=1.0}"
        graph = program(PRODUCT + body, "q")
        kept = qir.optimize(graph, "lift-qdq")
        assert [node.op.name for node in kept.nodes][-3:] == ["dequantize", "quantize", "return"]
        lifted = qir.optimize(graph, "lift-qdq(rounding=fixed31)")
        assert [node.op.name for node in lifted.nodes][-2:] == ["requantize", "return"]
