"""Rules and the driver that applies them."""

from typing import Any

import pytest

import qir
from qir.errors import PassError, QirError
from qir.ir import Value
from qir.ops import Abs, Add, Exp, Neg, Relu, Sub, Tanh
from qir.ops.unary import Unary
from qir.pipeline.rewrite import Skip, near_misses, rewrite, rule


def parse(*lines, params="%x: f32[2]"):
    return qir.parse("\n".join([f"graph @g({params}) {{", *lines, "}"]))


def lines(graph):
    return [line.strip() for line in str(graph).splitlines()[1:-1]]


def error(call, *args, **options):
    with pytest.raises(QirError) as caught:
        call(*args, **options)
    return str(caught.value)


@pytest.fixture
def negations():
    return parse(
        '%a = neg(%x) : f32[2] loc("net.py:1")',
        '%b = neg(%a) : f32[2] loc("net.py:2")',
        '%c = neg(%b) : f32[2] loc("net.py:3")',
        "%d = neg(%c) : f32[2]",
        "return %d",
    )


@rule(Neg)
def double_negation(y, b):
    match y.inputs[0]:
        case Value(Neg(), [x]):
            return x
        case other:
            return Skip("the operand is no negation", other)


@rule(Relu)
def relu_of_relu(y, b):
    match y.inputs[0]:
        case Value(Relu(), [x]) as inner:
            if len(inner.uses) > 1:
                return Skip("the inner relu has another user", inner)
            return b.emit(Relu(), x)
        case _:
            return None


@rule(exactness="within_1lsb")
def careless(y, b):
    return None


def test_rules_run_until_none_fires(negations):
    report = rewrite(negations, [double_negation])
    assert lines(negations) == ["return %x"]
    assert report.applied == {"double_negation": 2}
    assert str(report) == "double_negation: 2 times"


def test_near_misses_are_those_that_are_left(negations):
    negations.set_outputs([negations.value("c")])
    report = rewrite(negations, [double_negation])
    ((name, root, skip),) = report.skips
    assert (name, root.name, skip.reason) == ("double_negation", "c", "the operand is no negation")
    assert str(report).splitlines() == [
        "double_negation: 1 time",
        "double_negation: %c (the operand is no negation, %x)",
    ]
    assert rewrite(negations, [double_negation]).applied == {}


def test_near_misses_leave_the_graph_alone(negations):
    text = str(negations)
    assert near_misses(negations, double_negation) == [
        "double_negation: the operand is no negation (%x), at %a, net.py:1"
    ]
    assert str(negations) == text


def test_rules_are_tried_in_order():
    @rule()
    def everywhere(y, b):
        return None if isinstance(y.op, Abs) else b.emit(Abs(), y.inputs[0])

    @rule(Neg)
    def never(y, b):
        pytest.fail("the rule before fires")

    graph = parse("%a = neg(%x) : f32[2]", "return %a")
    rewrite(graph, [everywhere, never])
    assert lines(graph) == ["%a = abs(%x) : f32[2]", "return %a"]


def test_the_op_of_a_rule_may_be_a_base_class():
    @rule(Unary)
    def drop(y, b):
        return y.inputs[0]

    graph = parse("%a = tanh(%x) : f32[2]", "%b = add(%a, %a) : f32[2]", "return %b")
    rewrite(graph, [drop])
    assert lines(graph) == ["%b = add(%x, %x) : f32[2]", "return %b"]


def test_a_rule_sees_what_another_one_has_made():
    @rule(Sub)
    def difference(y, b):
        left, right = y.inputs
        return b.emit(Add(), left, b.emit(Neg(), right))

    graph = parse("%a = neg(%x) : f32[2]", "%b = sub(%x, %a) : f32[2]", "return %b")
    rewrite(graph, [difference, double_negation])
    assert lines(graph) == ["%b = add(%x, %x) : f32[2]", "return %b"]


def test_a_node_may_be_changed_in_place():
    @rule(Neg)
    def to_abs(y, b):
        y.node.op = Abs()
        return y

    graph = parse("%a = neg(%x) : f32[2]", "return %a")
    report = rewrite(graph, [to_abs])
    assert report.applied == {"to_abs": 1}
    assert lines(graph) == ["%a = abs(%x) : f32[2]", "return %a"]


def test_dead_code_goes_with_all_that_it_read():
    graph = parse(
        "%k = const [1.0, 2.0] : f32[2]",
        "%a = add(%x, %k) : f32[2]",
        "%b = exp(%a) : f32[2]",
        "return %x",
    )
    rewrite(graph, [])
    assert lines(graph) == ["return %x"]


def test_what_a_rule_built_and_gave_up_goes():
    @rule(Exp)
    def undecided(y, b):
        return Skip("on second thoughts", b.emit(Tanh(), y.inputs[0]))

    graph = parse("%a = exp(%x) : f32[2]", "return %a")
    rewrite(graph, [undecided])
    assert lines(graph) == ["%a = exp(%x) : f32[2]", "return %a"]


def test_dead_users_do_not_stand_in_the_way():
    graph = parse(
        "%a = relu(%x) : f32[2]",
        "%b = relu(%a) : f32[2]",
        "%dead = exp(%a) : f32[2]",
        "return %b",
    )
    report = rewrite(graph, [relu_of_relu])
    assert lines(graph) == ["%b = relu(%x) : f32[2]", "return %b"]
    assert report.skips == []


def test_regions_are_rewritten():
    graph = parse(
        "%y = scan(%x) {carries = 1, trips = 3} with (%h: f32[2]) {",
        "  %a = relu(%h) : f32[2]",
        "  %b = relu(%a) : f32[2]",
        "  return %b",
        "} : f32[2]",
        "return %y",
    )
    rewrite(graph, [relu_of_relu])
    assert lines(graph)[1:3] == ["%b = relu(%h) : f32[2]", "return %b"]


def test_near_misses_in_regions_are_told_and_leave_the_program_as_it_is():
    @rule(Relu)
    def builds_first(y, b):
        assert b.graph is y.owner
        b.emit(Neg(), y.inputs[0])
        return Skip("it is not to be", y)

    graph = parse(
        "%y = scan(%x) {carries = 1, trips = 3} with (%h: f32[2]) {",
        "  %a = relu(%h) : f32[2]",
        "  return %a",
        "} : f32[2]",
        "return %y",
    )
    before = str(graph)
    assert near_misses(graph, builds_first) == ["builds_first: it is not to be (%a), at %a"]
    assert str(graph) == before


def test_rules_that_never_end_are_named(negations):
    @rule(Neg)
    def back_and_forth(y, b):
        return b.emit(Neg(), y.inputs[0])

    message = error(rewrite, negations, [back_and_forth]).splitlines()
    assert message[0].startswith("rewrite: rules don't come to an end; 'back_and_forth' fired ")
    assert message[1].startswith("  at %")


def test_a_rule_within_1_lsb_needs_permission(negations):
    message = "rewrite: 'careless' is within 1 LSB, not exact; allow it by allow(within_1lsb) in"
    assert error(rewrite, negations, [careless]).startswith(message)
    rewrite(negations, [careless], allow="within_1lsb")


def test_errors_name_the_rule_and_the_place(negations):
    @rule(Neg)
    def pair(y, b):
        return [y, y]

    assert error(rewrite, negations, [pair]).splitlines() == [
        "rewrite: expected 1 value from 'pair', got 2",
        "  at %a, net.py:1",
        "  in rule pair",
    ]

    @rule(Neg)
    def misshapen(y, b):
        return b.const(1.0)

    with pytest.raises(QirError) as caught:
        rewrite(negations, [misshapen])
    assert not isinstance(caught.value, PassError)
    assert caught.value.places == ["at %a, net.py:1", "in rule misshapen"]


@pytest.mark.parametrize("outcome", [5, "x", (1,), [None]])
def test_a_rule_that_returns_no_value_is_named(negations, outcome):
    @rule(Neg)
    def broken(y, b):
        return outcome

    assert error(rewrite, negations, [broken]).splitlines() == [
        "rewrite: expected a value, a Skip or None from 'broken', got "
        f"a{'n' if outcome == 5 else ''} {type(outcome).__name__}",
        "  at %a, net.py:1",
        "  in rule broken",
    ]


def test_any_other_exception_of_a_rule_says_the_rule_and_the_place(negations):
    @rule(Neg)
    def broken(y: Any, b: Any) -> Any:
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        rewrite(negations, [broken])
    assert caught.value.__notes__ == ["in rule broken at %a, net.py:1"]


def test_why_an_op_stays_float_is_known_of_the_same_op_in_its_place():
    graph = qir.parse("""
    graph @g(%x: f32[4]) {
      %c = const 2.0 : f32[4]
      %y = mul(%c, %x) : f32[4]
      return %y
    }""")
    (node,) = (node for node in graph.nodes if node.op.name == "mul")
    node.note = "a pass has said why"
    turned = qir.optimize(graph, "canonicalize")
    (node,) = (node for node in turned.nodes if node.op.name == "mul")
    assert (node.inputs[1].is_constant, node.note) == (True, "a pass has said why")
