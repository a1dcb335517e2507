"""Selectors name ops by their values, kind and place; one that names nothing is an error."""

import pytest

import qir
from qir.errors import QirError
from qir.passes.quantize.quantize import QuantizePass
from qir.pipeline.selectors import select, select_values

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
        (["%conv2", "%y*"], {"conv2", "y"}),
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
        ("op:conv2", "; did you mean 'conv2'?"),
        ("loc:examples/model.py:41", "; did you mean 'loc:*examples/model.py:41*'?"),
        ("loc:model.py:42", "; did you mean 'loc:*model.py:42*'?"),
        ("loc:*modle.py:41*", "; did you mean 'loc:examples/model.py:41 (conv1)'?"),
        ("loc:a.c", "; its places are examples/model.py:41 (conv1), examples/model.py:42 (conv2)"),
        ("*model.py*", "; did you mean 'loc:*model.py*'?"),
        ("lok:*conv1*", "; did you mean 'loc:*conv1*'?"),
        ("cnv1.*", "; did you mean 'conv1.dot'?"),
        ("zz*", "; its values are conv1.dot, conv1/dot, conv2, y"),
        ("k", "; %k is a constant; did you mean 'conv1.dot', which reads it?"),
        ("%k", "; %k is a constant; did you mean 'conv1.dot', which reads it?"),
        ("x", "; %x is an input; did you mean 'conv1.dot', which reads it?"),
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


def test_a_weight_with_the_name_of_an_op_leads_to_its_reader():
    graph = qir.parse(
        "graph @f(%x: f32[1,4,4,1]) { %conv = const 0.5 : f32[3,3,1,1] "
        "%conv_1 = conv(%x, %conv) {padding = same} : f32[1,4,4,1] return %conv_1 }"
    )
    with pytest.raises(QirError, match=r"%conv is a constant; did you mean 'conv_1', which reads"):
        select(graph, ["conv"])


def test_a_softmax_that_divides_later_has_another_name():
    graph = qir.parse(
        "graph @f(%x: f32[2,4]) { %e = exp_below_max(%x) {axis = 1} : f32[2,4] return %e }"
    )
    with pytest.raises(QirError, match="did you mean 'op:exp_below_max', a softmax whose products"):
        select(graph, ["op:softmax"])


def test_a_percent_sign_needs_no_quotes_in_a_pipeline():
    (step,) = qir.Pipeline.parse("quantize(keep_float=[%y, %conv*])").steps
    assert qir.Pipeline.parse(str(step)).steps == (step,)


@pytest.mark.parametrize(
    ("given", "quoted"),
    [
        ("[loc:a.py:20 (x)]", '"loc:a.py:20 (x)"'),
        ("[y, loc:(x), op:dot]", '"loc:(x)"'),
        ("loc:a.py:20 (x)", '"loc:a.py:20 (x)"'),
        ("[conv[0]]", '"conv[0]"'),
    ],
)
def test_a_selector_of_other_characters_is_shown_in_quotes(given, quoted):
    with pytest.raises(QirError) as caught:
        qir.Pipeline.parse(f"quantize(keep_float={given})")
    first = str(caught.value).splitlines()[0]
    assert first.endswith(f"; quote a name of other characters: {quoted}")


def rescaled():
    """A program of which a pass has rescaled one value, which stands for no imported one then."""
    graph = qir.parse(
        "graph @model(%x: f32[2]) { %norm.smooth = relu(%x) : f32[2] "
        "%layer.dense = exp(%norm.smooth) : f32[2] return %layer.dense }"
    )
    graph.value("norm.smooth").origin = ()
    return graph


def test_a_value_that_a_pass_rescaled_goes_by_the_name_that_it_had():
    (node,) = select(rescaled(), ["norm"])
    assert node.op.name == "relu"


@pytest.mark.parametrize("selector", ["layer", "nor", "norm.smoothed", "layer.dense.x"])
def test_the_head_of_a_name_is_no_name_of_what_stands_for_an_imported_value(selector):
    with pytest.raises(QirError, match="matches nothing in @model"):
        select(rescaled(), [selector])


def test_what_passes_took_out_leads_to_what_is_computed_from_it():
    earlier = qir.parse(PROGRAM)
    graph = qir.parse(PROGRAM.replace("%conv1.dot", "%fused").replace(' of "conv1/dot"', ""))
    with pytest.raises(QirError) as caught:
        select_values(graph, ["conv1.*"], earlier)
    assert str(caught.value) == (
        "selector: 'conv1.*' matches nothing in @model any more: passes took out 1 op or made it "
        "part of others; did you mean 'conv2', which is computed from it?"
    )
    assert [value.name for value in select_values(graph, ["x", "op:relu"], earlier)] == ["x", "y"]


def test_what_stands_in_a_loop_is_named_by_its_place_too():
    graph = qir.parse("""
        graph @f(%n: i32[], %h: f32[2]) {
          %loop = scan(%n, %h) {carries = 1, trips = 3} with (%n: i32[], %h: f32[2]) {
            %a = exp(%h) : f32[2]
            %b = cond(%n, %a) with (%h: f32[2]) {
              %a = exp(%h) : f32[2]
              return %a
            } with (%h: f32[2]) {
              %a = tanh(%h) : f32[2]
              return %a
            } : f32[2]
            return %b
          } : f32[2]
          %a = relu(%loop) : f32[2]
          return %a
        }""")
    found = {name: sorted(n.op.name for n in select(graph, [name])) for name in ("a", "loop/a")}
    assert found == {"a": ["exp", "exp", "relu", "tanh"], "loop/a": ["exp"]}
    assert [node.op.name for node in select(graph, ["loop/b/1/a"])] == ["tanh"]
    assert len(select(graph, ["loop/*"])) == 4
