"""Selectors name ops by their values, kind and place; one that names nothing is an error."""

import pytest

import qir
from qir.errors import QirError
from qir.passes.quantize.quantize import QuantizePass
from qir.pipeline.selectors import select

PROGRAM = """\
graph @model(%x: f32[1,2]) {
  %k = const [[0.5], [0.25]] : f32[2,1]
  %conv1.dot = dot(%x, %k) : f32[1,1] of "conv1/dot" loc("examples/model.py:41 (conv1)")
  %conv2 = tanh(%conv1.dot) : f32[1,1] loc("examples/model.py:42 (conv2)")
  %y = relu(%conv2) : f32[1,1]
  return %y
}
"""


def names(*selectors):
    return {node.output.name for node in select(qir.parse(PROGRAM), selectors)}


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ([], set()),
        (["y"], {"y"}),
        (["conv*"], {"conv1.dot", "conv2"}),
        (["conv1/*"], {"conv1.dot"}),
        (["op:dot"], {"conv1.dot"}),
        (["op:*"], {"conv1.dot", "conv2", "y"}),
        (["loc:*model.py:42*"], {"conv2"}),
        (["loc:*(conv1)", "op:relu"], {"conv1.dot", "y"}),
    ],
)
def test_globs(selectors, expected):
    assert names(*selectors) == expected


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("conv3", "; did you mean 'conv2'?"),
        ("CONV2", "; did you mean 'conv2'?"),
        ("dot", "; did you mean 'op:dot'?"),
        ("relu", "; did you mean 'op:relu'?"),
        ("op:thanh", "; did you mean 'op:tanh'?"),
        ("op:softmax", "; its ops are dot, relu, tanh"),
        ("loc:examples/model.py:41", "; did you mean 'loc:examples/model.py:41 (conv1)'?"),
        ("k", ""),
        ("x", ""),
    ],
)
def test_a_selector_that_names_nothing(selector, hint):
    with pytest.raises(QirError) as caught:
        names("y", selector)
    assert str(caught.value) == f"selector: '{selector}' matches nothing in @model{hint}"


def test_names_of_any_script_need_no_quotes_in_a_pipeline():
    (step,) = qir.Pipeline.parse("quantize(keep_float=[θ*, 层.conv, op:softmax])").steps
    assert isinstance(step, QuantizePass)
    assert step.keep_float == ("θ*", "层.conv", "op:softmax")
    assert qir.Pipeline.parse(str(step)).steps == (step,)
