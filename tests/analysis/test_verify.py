"""Each rule of the IR, broken by hand; texts can't break most of them."""

import numpy as np
import pytest

import qir
from qir.analysis.verify import verify
from qir.errors import ParseError, VerifyError
from qir.ir import Graph, Node
from qir.ops import Add, Const, Relu, Return
from qir.types import Affine, DType, FrozenArray, TensorType

F32 = TensorType((2,), DType.F32)


@pytest.fixture
def graph():
    return qir.parse("""
        graph @g(%x: f32[2]) {
          %w = const [1.0, 2.0] : f32[2]
          %a = add(%x, %w) : f32[2] loc("net.py:3")
          %b = relu(%a) : f32[2]
          return %b
        }""")


def error(graph):
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    return str(caught.value)


def test_a_valid_graph(graph):
    verify(graph)


def test_a_type_that_the_rule_does_not_infer(graph):
    graph.value("a").type = TensorType((3,), DType.F32)
    assert error(graph).splitlines() == [
        "verify: add: expected %a to be f32[2], got f32[3]",
        "  at %a, net.py:3",
        "  |  %a = add(%x, %w) : f32[3]",
        "verify: relu: expected %b to be f32[3], got f32[2]",
        "  at %b",
        "  |  %b = relu(%a) : f32[2]",
    ]


def test_operands_that_do_not_fit(graph):
    graph.value("w").type = TensorType((3,), DType.F32)
    graph.value("w").node.op = Const(graph.value("w").op.array, graph.value("w").type)
    assert "verify: add: shapes [2] and [3] don't broadcast\n  at %a, net.py:3" in error(graph)


def test_the_number_of_results(graph):
    node = Node(graph, Relu(), [graph.inputs[0]], [F32, F32])
    graph.insert(node, graph.returns)
    assert error(graph).startswith("verify: relu: expected 1 result, got 2\n  at %relu")


def test_no_return():
    graph = Graph("g", [("x", F32)])
    assert error(graph) == "verify: graph: @g does not end with a return"


def test_a_return_before_the_end(graph):
    graph.insert(Node(graph, Return(), [graph.inputs[0]], ()), graph.value("b").node)
    message = "verify: graph: @g has a return before its end\n  at return\n  |  return %x"
    assert error(graph) == message


def test_a_value_that_is_computed_below(graph):
    graph.value("a").node.set_input(0, graph.value("b"))
    message = "verify: add: reads %b, which is not computed above it in @g\n  at %a, net.py:3"
    assert error(graph).startswith(message)


def test_a_value_of_another_graph(graph):
    other = graph.copy().value("w")
    graph.value("a").node.set_input(1, other)
    assert "verify: add: reads %w, which is not computed above it in @g" in error(graph)


def test_regions_are_isolated():
    graph = qir.parse("""
        graph @g(%x: f32[2]) {
          %y = scan(%x) {carries = 1, trips = 3} with (%h: f32[2]) {
            %s = relu(%h) : f32[2]
            return %s
          } : f32[2]
          return %y
        }""")
    (body,) = next(graph.nodes).regions
    next(body.nodes).set_input(0, graph.inputs[0])
    assert error(graph).splitlines() == [
        "verify: relu: reads %x, which is not computed above it in its region",
        "  at %s",
        "  |  %s = relu(%x) : f32[2]",
        "  in the region of %y",
    ]


def test_uses_that_are_not_listed(graph):
    del graph.value("a").uses[graph.value("b").node, 0]
    assert error(graph).startswith("verify: relu: is missing among the uses of %a")


def test_uses_that_are_none(graph):
    graph.value("x").uses[graph.value("b").node, 0] = None
    assert error(graph).startswith("verify: graph: %x lists a use that is not one\n  at %b")


def test_two_values_of_one_name(graph):
    graph.value("b").name = "a"
    assert error(graph).startswith("verify: graph: @g has two values called %a")


def test_names_that_do_not_read_back(graph):
    graph.value("b").name = "conv 1"
    assert error(graph).startswith("verify: value: expected a name of letters, digits, '_', '-'")
    graph.value("b").name = "b"
    graph.name = "a graph"
    assert error(graph).endswith("begun by none of '-./', got 'a graph'")


def test_a_constant_of_another_type(graph):
    node = graph.value("w").node
    node.op = Const(FrozenArray(np.ones(3, np.float32)), node.op.type)
    message = "verify: const: expected an array of f32[2], got float32[3]"
    assert error(graph).startswith(message)


def test_a_constant_outside_its_bounds():
    graph = Graph("g")
    code = Affine.of(DType.I8, 1.0, bounds=(-127, 127))
    graph.set_outputs([graph.at_end().const(np.array([-128, 0], np.int8), "w", code)])
    message = "verify: const: expected stored numbers in [-127, 127], got -128 to 0"
    assert error(graph).startswith(message)


def test_a_bias_with_a_code_of_its_own():
    graph = qir.parse("""
        graph @g(%x: i8[2,4]{scale=0.5}) {
          %k = const 1 : i8[4,3]{scale=[1.0, 2.0, 4.0], axis=1}
          %b = const 1 : i32[3]{scale=%x*%k, axis=0}
          %a = dot(%x, %k, %b) : i32[2,3]{scale=%x*%k, axis=1}
          return %a
        }""")
    graph.inputs[0].type = graph.inputs[0].type.with_element(Affine.of(DType.I8, 0.25))
    message = "dot: expected a bias with the accumulator's scale, the product of the operands'"
    assert message in error(graph)


CERTIFIED = """
    graph @g(%x: i8[2,4]{scale=0.5, zp=3}) {
      %k = const 100 : i8[4,3]{scale=[0.0151, 0.0022, 0.0171], axis=1}
      %a = dot(%x, %k) : i32[2,3]{scale=%x*%k, axis=1}
      %t = transpose(%a) {permutation = [1, 0]} : i32[3,2]{scale=%x*%k, axis=0}
      %y = requantize(%t) {agrees = [f32_rne]} : i8[3,2]{scale=1.0, zp=-5} loc("net.py:9")
      return %y
    }"""


def test_a_certificate_that_is_false():
    graph = qir.parse(CERTIFIED)
    assert error(graph).splitlines() == [
        "verify: requantize: does not agree with f32_rne in channel 1: of the accumulator -45000 "
        "fixed31 makes -54 and f32_rne -55",
        "  at %y, net.py:9",
        "  |  %y = requantize(%t) {agrees = [f32_rne]} : i8[3,2]{scale=1.0, zp=-5}",
    ]
    x = np.array([[-128, -128, -128, -54]] * 2, np.int8)
    assert qir.evaluate(graph, x)[0][1, 0] == -54


def test_a_certificate_that_holds():
    verify(qir.parse(CERTIFIED.replace("0.0022", "0.0151")))


def test_a_certificate_within_what_can_occur():
    """Weights too small for any sum beyond the first half step tell no two roundings apart."""
    verify(qir.parse(CERTIFIED.replace("const 100", "const 1")))


def test_certificates_name_other_roundings_once():
    for names in ("fixed31", "f32_rne, f32_rne"):
        with pytest.raises(ParseError, match="expected agrees to name roundings other than fixed"):
            qir.parse(CERTIFIED.replace("f32_rne", names))


def test_builders_can_not_break_a_rule(graph):
    graph.set_outputs([graph.at_end().emit(Add(), *graph.outputs, *graph.outputs)])
    verify(graph)
