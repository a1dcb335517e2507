"""Names: no two alike, no number twice, and what a pass builds takes over the names it freed."""

from hypothesis import given
from hypothesis import strategies as st

from qir.ir import Graph
from qir.ir.names import Inheritance, Namespace
from qir.ops import Exp, Relu
from qir.text import parse

NAMES = st.sampled_from(["a", "a_1", "a_1_1", "a_2", "b"])


@given(st.lists(st.tuples(NAMES, st.booleans())))
def test_names_are_unique_and_the_first_has_no_number(asked):
    names = Namespace[int]()
    kept = {}
    for place, (name, keep) in enumerate(asked):
        unique = names.add(name, place)
        assert unique not in kept
        assert unique == name or name in kept or unique.startswith(f"{name}_")
        kept[unique] = place
        if not keep:
            del names[unique], kept[unique]
        assert names == kept


def test_a_number_is_not_given_twice():
    names = Namespace[None]()
    assert [names.add("a", None) for _ in range(3)] == ["a", "a_1", "a_2"]
    del names["a_2"]
    assert names.add("a", None) == "a_3"
    del names["a"]
    assert names.add("a", None) == "a"


def program() -> Graph:
    return parse("""
        graph @g(%x: f32[2]) {
          %a = exp(%x) : f32[2]
          %b_1 = exp(%a) : f32[2]
          return %b_1
        }""")


def test_new_values_take_over_the_names_that_became_free():
    graph = program()
    names = Inheritance(graph)
    b = graph.value("b_1")
    exp, reader, _ = graph.nodes
    new = graph.before(reader).emit(Relu(), graph.inputs[0], name="a")
    reader.set_input(0, new)
    names.settle()
    assert new.name == "a_1"
    graph.erase(exp)
    names.settle()
    assert (new.name, b.name) == ("a", "b_1")


def test_a_name_of_the_op_keeps_its_number_where_nothing_had_the_name():
    graph = program()
    names = Inheritance(graph)
    build = graph.at_end()
    first = build.emit_node(Exp(), [graph.inputs[0]])
    second = build.emit(Exp(), graph.inputs[0])
    graph.erase(first)
    names.settle()
    assert second.name == "exp_1"


def test_only_some_values_take_over_names():
    graph = program()
    names = Inheritance(graph)
    build = graph.at_end()
    first, second = (build.emit(Exp(), graph.inputs[0], name="new_1") for _ in range(2))
    names.settle([first])
    assert (first.name, second.name) == ("new", "new_1_1")
