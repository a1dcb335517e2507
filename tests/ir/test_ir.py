"""The graph and the edits that passes are made of."""

from collections.abc import Iterable

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value, reachable
from qir.numbers.interval import Interval
from qir.ops import Add, Exp, Relu, Scan, Tanh
from qir.types import Affine, DType, TensorType

F32 = TensorType((2,), DType.F32)


@pytest.fixture
def chain():
    """%x -> %a -> %b -> %c, all of them exp."""
    return qir.parse("""
        graph @chain(%x: f32[2]) {
          %a = exp(%x) : f32[2] loc("net.py:1")
          %b = exp(%a) : f32[2] in [0.0, 3.0] of "b0" loc("net.py:2")
          %c = exp(%b) : f32[2]
          return %c
        }""")


@pytest.fixture
def looping():
    return qir.parse("""
        graph @looping(%x: f32[2]) {
          %y = scan(%x) {carries = 1, trips = 3} with (%h: f32[2]) {
            %w = const [1.0, 2.0] : f32[2]
            %s = add(%h, %w) : f32[2]
            return %s
          } : f32[2]
          return %y
        }""")


def names(graph: Graph) -> str:
    return " ".join(value.name for value in graph.values())


def ops(nodes: Iterable[Node]) -> str:
    return " ".join(node.op.name for node in nodes)


def error(call, *args):
    with pytest.raises(QirError) as caught:
        call(*args)
    return str(caught.value)


class TestEdits:
    def test_insert_before_and_at_the_end(self, chain):
        b = chain.value("b")
        new = chain.before(b.node).emit(Relu(), chain.value("a"))
        last = chain.at_end().emit(Relu(), b)
        assert ops(chain.nodes) == "exp relu exp exp relu return"
        assert (new.loc, last.loc) == ("net.py:2", None)
        assert (new.name, last.name) == ("relu", "relu_1")

    def test_uses_follow_every_edit(self, chain):
        a, b, x = chain.value("a"), chain.value("b"), chain.value("x")
        total = chain.at_end().emit(Add(), a, a)
        assert list(a.uses) == [(b.node, 0), (total.node, 0), (total.node, 1)]
        assert a.users == (b.node, total.node)
        total.node.set_input(0, x)
        assert list(a.uses) == [(b.node, 0), (total.node, 1)]
        assert total.inputs == (x, a)
        chain.erase(total.node)
        assert list(a.uses) == [(b.node, 0)]
        assert list(x.uses) == [(a.node, 0)]

    def test_what_is_used_is_not_erased(self, chain):
        message = "erase: %a is still used by <exp of %b>"
        assert error(chain.erase, chain.value("a").node) == message

    def test_first_and_last_nodes_can_go(self, chain):
        chain.set_outputs([chain.value("x")])
        for name in "cba":
            chain.erase(chain.value(name).node)
        assert names(chain) == "x"
        assert chain.outputs == chain.inputs

    def test_outputs_are_uses_of_the_return(self, chain):
        assert list(chain.value("c").uses) == [(chain.returns, 0)]
        chain.set_outputs([chain.value("b"), chain.value("b")])
        assert chain.outputs == (chain.value("b"),) * 2
        assert not chain.value("c").uses
        assert error(lambda: Graph("g").returns) == "graph: @g has no return"

    def test_values_match_by_op_and_operands(self, chain):
        match chain.value("c"):
            case Value(Exp(), [Value(Exp(), [inner])]):
                assert inner is chain.value("a")
            case _:
                pytest.fail("no match")
        assert chain.inputs[0].op is None
        assert chain.inputs[0].inputs == ()


class TestReplaceWith:
    def test_a_new_value_takes_over_name_range_and_origin(self, chain):
        b = chain.value("b")
        new = chain.before(b.node).emit(Tanh(), chain.value("a"))
        b.replace_with(new)
        assert (new.name, b.name) == ("b", "tanh")
        assert (new.range, new.origin) == (Interval.of(0, 3), ("b0",))
        assert chain.value("c").inputs == (new,)
        assert not b.uses

    def test_an_older_value_keeps_its_name_and_adds_the_origin(self, chain):
        a, b = chain.value("a"), chain.value("b")
        a.origin = ("a0", "b0")
        b.replace_with(a)
        assert (a.name, b.name, a.origin) == ("a", "b", ("a0", "b0"))

    def test_a_range_in_other_codes_is_not_handed_on(self, chain):
        b = chain.value("b")
        b.type = F32.with_element(Affine.of(DType.I8, 0.5))
        new = chain.before(b.node).emit(Tanh(), chain.value("a"))
        b.replace_with(new)
        assert new.range is None

    def test_some_of_the_users(self, chain):
        a, b = chain.value("a"), chain.value("b")
        total = chain.at_end().emit(Add(), a, b)
        new = chain.before(b.node).emit(Tanh(), chain.value("x"))
        a.replace_with(new, where=lambda node: node is total.node)
        assert total.inputs == (new, b)
        assert b.inputs == (a,)
        assert (new.name, a.name, new.origin) == ("tanh", "a", ())

    def test_an_input_keeps_its_name(self, chain):
        x = chain.inputs[0]
        new = chain.before(next(chain.nodes)).emit(Relu(), x)
        x.replace_with(new, where=lambda node: node is not new.node)
        assert chain.value("a").inputs == (new,)
        other = chain.before(new.node).const(np.zeros(2, np.float32), "zero")
        x.replace_with(other)
        assert (x.name, new.name, other.name) == ("x", "relu", "zero")

    def test_shapes_and_graphs_must_agree(self, chain):
        a = chain.value("a")
        scalar = chain.at_end().const(1.0)
        message = "replace: expected a value of the shape of <%a: f32[2]>, got <%const: f64[]>"
        assert error(a.replace_with, scalar) == message
        message = "replace: expected a value of @chain, got <%a: f32[2]> of @chain"
        assert error(a.replace_with, chain.copy().value("a")) == message


class TestIteration:
    def test_an_erased_node_does_not_stop_a_loop(self, chain):
        met = []
        for node in chain.nodes:
            met.append(node.op.name)
            if isinstance(node.op, Exp):
                node.output.replace_with(chain.before(node).emit(Relu(), node.inputs[0]))
                chain.erase(node)
        assert met == ["exp", "exp", "exp", "return"]
        assert ops(chain.nodes) == "relu relu relu return"
        assert names(chain) == "x a b c"

    def test_nodes_erased_ahead_are_skipped(self, chain):
        nodes = chain.nodes
        first = next(nodes)
        chain.set_outputs([chain.value("x")])
        for name in "cb":
            chain.erase(chain.value(name).node)
        chain.erase(first)
        assert ops(nodes) == "return"

    def test_nodes_inserted_ahead_are_met(self, chain):
        met = []
        for node in chain.nodes:
            met.append(node.op.name)
            if node is chain.value("b").node:
                chain.before(chain.value("c").node).emit(Relu(), node.output)
                chain.before(node).emit(Tanh(), node.output)
        assert met == ["exp", "exp", "relu", "exp", "return"]

    def test_walk_enters_regions(self, looping):
        assert ops(looping.walk()) == "scan const add return return"


class TestNames:
    def test_names_are_made_unique(self):
        graph = Graph("g", [("x", F32), ("x", F32)])
        build = graph.at_end()
        build.emit(Relu(), graph.inputs[0], name="x_2")
        build.emit(Relu(), graph.inputs[0], name="x")
        assert names(graph) == "x x_1 x_2 x_3"

    def test_renaming(self, chain):
        a = chain.value("a")
        chain.rename(a, "first")
        assert chain.value("%first") is a
        assert error(chain.rename, a, "b") == "graph: @chain has a value %b already"
        assert a.named
        chain.name_after(a, "b")
        assert a.name == "b_1"
        assert not a.named
        message = "graph: @chain has no value %firts; did you mean 'first'?"
        chain.rename(a, "first")
        assert error(chain.value, "firts") == message

    def test_a_name_for_each_result(self, looping):
        inner = looping.copy().nodes
        loop = next(inner)
        graph = Graph("g", [("x", F32)])
        node = Node(graph, Scan(1, trips=1), [graph.inputs[0]] * 2, [F32, F32], loop.regions)
        graph.insert(node, name=["b", "loop"])
        graph.set_outputs(node.outputs)
        assert names(graph) == "x b loop"
        assert names(graph.copy()) == "x b loop"

    def test_constants_get_unique_names(self):
        build = Graph("g").at_end()
        first, second = build.const(np.ones(2), "w"), build.const(np.zeros(2), "w")
        assert (first.name, second.name) == ("w", "w_1")

    def test_renaming_together_swaps_names(self, chain):
        a, b = chain.value("a"), chain.value("b")
        chain.rename_all({a: "b", b: "a"})
        assert (a.name, b.name) == ("b", "a")
        assert chain.value("a") is b
        before = str(chain)
        message = "graph: @chain has a value %c already"
        assert error(chain.rename_all, {a: "z", b: "c"}) == message
        assert error(chain.rename_all, {a: "z", b: "z"}) == message.replace("%c", "%z")
        assert str(chain) == before
        assert chain.value("a") is b

    def test_constants_can_not_be_written_to(self):
        graph = Graph("g")
        array = np.ones(2)
        value = graph.at_end().const(array, "w")
        with pytest.raises(ValueError, match="read-only"):
            value.array[0] = 3
        assert error(lambda: Graph("g", [("x", F32)]).inputs[0].array).endswith("got %x")


class TestCopies:
    def test_a_copy_is_equal_and_apart(self, chain):
        chain.value("b").node.note = "a reason"
        copy = chain.copy()
        assert copy == chain
        assert copy.value("b").node.note == "a reason"
        assert copy.value("b").origin == ("b0",)
        copy.value("b").node.op = Tanh()
        assert copy != chain
        assert isinstance(chain.value("b").op, Exp)

    def test_a_copy_shares_arrays(self):
        graph = Graph("g")
        graph.set_outputs([graph.at_end().const(np.ones(2), "w")])
        assert graph.copy().value("w").array is graph.value("w").array

    def test_regions_are_copied_too(self, looping):
        copy = looping.copy()
        assert copy == looping
        (loop, _), (twin, _) = looping.nodes, copy.nodes
        assert twin.regions[0] is not loop.regions[0]
        twin.regions[0].value("s").node.op = Relu()
        assert copy != looping

    def test_extract_takes_what_is_needed(self, chain):
        part = chain.extract([chain.value("a")], [chain.value("c")], "part")
        assert str(part).splitlines() == [
            "graph @part(%a: f32[2]) {",
            "  %b = exp(%a) : f32[2] in [0.0, 3.0]",
            "  %c = exp(%b) : f32[2]",
            "  return %c",
            "}",
        ]
        assert part.value("b").node.loc == "net.py:2"

    def test_extract_adds_the_inputs_it_needs(self, chain):
        total = chain.at_end().emit(Add(), chain.value("x"), chain.value("b"))
        part = chain.extract([chain.value("b")], [total])
        assert [value.name for value in part.inputs] == ["b", "x"]


class TestEquality:
    def test_what_counts(self, chain):
        def changed(change):
            copy = chain.copy()
            change(copy)
            return copy != chain

        def rename(graph):
            graph.rename(graph.value("a"), "z")

        def type(graph):
            graph.value("a").type = TensorType((2,), DType.F64)

        def range(graph):
            graph.value("a").range = Interval.of(0, 1)

        def observed(graph):
            graph.value("a").observed = Interval.of(0, 1)

        def wiring(graph):
            graph.value("b").node.set_input(0, graph.value("x"))

        def name(graph):
            graph.name = "other"

        assert all(map(changed, (rename, type, range, observed, wiring, name)))

        def facts(graph):
            node = graph.value("a").node
            node.loc, node.note, node.output.origin = "elsewhere", "why", ("z",)

        assert not changed(facts)
        assert chain != "a graph"

    def test_constants_are_equal_by_content(self):
        def graph(array):
            made = Graph("g")
            made.set_outputs([made.at_end().const(array, "k")])
            return made

        ones = np.ones(2, np.float32)
        assert graph(ones) == graph(ones.copy())
        assert graph(ones) != graph(-ones)


class TestBuilder:
    def test_constants_have_a_type(self):
        build = Graph("g").at_end()
        code = Affine.of(DType.I4, 0.5)
        assert build.const(np.zeros(2, np.int8), "a", code).type == TensorType((2,), code)
        assert build.const([1, 2]).type == TensorType((2,), DType.I64)

    def test_a_location_of_ones_own(self, chain):
        build = Builder(chain, chain.returns, loc="mine.py:7")
        assert build.emit(Relu(), chain.inputs[0]).loc == "mine.py:7"
        assert [node.loc for node in build.emitted] == ["mine.py:7"]

    def test_operands_that_do_not_fit(self, chain):
        other = chain.at_end().const(np.zeros(3, np.float32))
        message = "add: shapes [2] and [3] don't broadcast"
        assert error(chain.at_end().emit, Add(), chain.inputs[0], other) == message
        assert error(chain.at_end().emit, Add(), other) == "add: expected 2 operands, got 1"

    def test_regions_that_do_not_fit(self, looping):
        x = looping.inputs[0]
        build = looping.at_end()
        assert error(build.emit, Scan(1, trips=2), x) == "scan: expected 1 region, got 0"
        body = Graph("", [("h", F32.with_element(DType.F64))])
        body.set_outputs(body.inputs)
        message = "scan: expected what region 0 takes at place 0 to be f32[2], as operand 0 is"
        assert error(build.emit_node, Scan(1, trips=2), [x], [body]).startswith(message)


def test_ranges_are_kept_as_float32():
    value = Graph("g", [("x", F32)]).inputs[0]
    value.range = Interval.of(-0.1, 0.1)
    assert value.range.bounds == (float(np.float32(-0.1)), float(np.float32(0.1)))
    value.range = None
    assert value.range is None


def test_the_range_is_what_was_observed_unless_another_one_is_set():
    value = Graph("g", [("x", F32)]).inputs[0]
    value.observed = Interval.of(-1, 4)
    assert value.range == Interval.of(-1, 4)
    value.range = Interval.of(0, 4)
    assert (value.observed, value.range) == (Interval.of(-1, 4), Interval.of(0, 4))
    value.range = None
    assert value.range == Interval.of(-1, 4)
    value.range = Interval.of(0, 4)
    value.observed = Interval.of(-2, 2)
    assert value.range == Interval.of(-2, 2)


def test_networkx_has_an_edge_from_producer_to_user(chain):
    edges = chain.to_networkx().edges()
    spelled = [(source.op.name, target.op.name) for source, target in edges]
    assert spelled == [("exp", "exp"), ("exp", "exp"), ("exp", "return")]


def test_networkx_has_an_edge_for_each_operand_and_tells_what_it_is():
    graph = qir.parse("""
        graph @twice(%x: f32[2]) {
          %a = exp(%x) : f32[2] loc("net.py:1")
          %b = add(%a, %a) : f32[2]
          return %b
        }""")
    a, b, _ = graph.nodes
    whole = graph.to_networkx()
    assert (whole.name, list(whole)) == ("twice", list(graph.nodes))
    assert whole.nodes[a] == {"op": "exp", "loc": a.loc, "regions": ()}
    assert list(whole.edges(keys=True, data=True)) == [
        (a, b, 0, {"value": graph.value("a"), "operand": 0}),
        (a, b, 1, {"value": graph.value("a"), "operand": 1}),
        (b, graph.returns, 0, {"value": graph.value("b"), "operand": 0}),
    ]
    b.set_input(1, graph.inputs[0])
    assert whole.number_of_edges(a, b) == 2
    assert graph.to_networkx().number_of_edges(a, b) == 1


def test_networkx_keeps_regions_apart(looping):
    whole = looping.to_networkx()
    (node, _) = whole
    assert [vertex.op.name for vertex in whole] == ["scan", "return"]
    (region,) = whole.nodes[node]["regions"]
    assert [vertex.op.name for vertex in region] == ["const", "add", "return"]


def test_a_cone_is_what_computes_values_up_to_those_that_are_given(chain):
    a, b, c = (chain.value(name) for name in "abc")
    assert chain.cone([b]).keys() == {a.node, b.node}
    assert chain.cone([b, c], [a]).keys() == {b.node, c.node}
    assert chain.cone([a], [a]).keys() == set()
    assert chain.cone(chain.inputs).keys() == set()


def test_what_is_reachable_is_met_once_and_asked_once():
    steps = {0: [1, 2], 1: [3], 2: [3], 3: [0], 4: [0]}
    asked = []

    def near(here):
        asked.append(here)
        return steps[here]

    assert set(reachable([0], near)) == {0, 1, 2, 3}
    assert sorted(asked) == [0, 1, 2, 3]
    assert list(reachable([], near)) == []


def test_places_name_the_value_and_the_location(chain):
    assert chain.value("a").place() == "at %a, net.py:1"
    assert chain.value("c").node.place() == "at %c"
    assert chain.returns.place() == "at return"
    assert repr(chain.returns) == "<return of chain>"


def test_a_graph_prints_as_its_text(chain):
    assert str(chain) == qir.to_text(chain)
    assert str(chain).startswith("graph @chain(%x: f32[2]) {\n  %a = exp(%x) : f32[2]\n")


@pytest.mark.parametrize("bounds", [(1, 0), (np.nan, 1), (0, np.nan), (-np.inf, 1), (0, 1e39)])
def test_a_range_is_two_finite_numbers_in_order(bounds):
    value = Graph("g", [("x", F32)]).inputs[0]
    value.range = Interval.of(-1, 1)
    for field in ("range", "observed"):
        with pytest.raises(QirError, match="range: expected two finite numbers of float32"):
            setattr(value, field, Interval.of(*bounds))
    assert value.range.bounds == (-1, 1)


def test_origins_know_the_order_of_the_axes():
    graph = qir.parse(
        """graph @f(%x: f32[2,3,4]) {
          %y = relu(%x) : f32[2,3,4] of ["a" [0, 2, 1], "b"]
          %z = transpose(%y) {permutation = [2, 0, 1]} : f32[4,2,3]
          return %z
        }"""
    )
    y, z = graph.value("y"), graph.value("z")
    assert (y.origin, y.origins) == (("a", "b"), {"a": (0, 2, 1), "b": None})
    z.origin = ()
    z.stand_for(y, (2, 0, 1))
    assert z.origins == {"a": (1, 0, 2), "b": (2, 0, 1)}
    z.origins = {"a": (0, 1, 2)}
    assert z.origins == {"a": None}
    with pytest.raises(QirError, match=r"an order of the 3 axes of %z behind 'a', got \[0, 1, 1\]"):
        z.origins = {"a": (0, 1, 1)}
    graph.record_origins()
    assert graph.copy().value("y").origins == y.origins
    assert z.node is not None
    replacement = graph.before(z.node).emit(Relu(), graph.inputs[0])
    y.replace_with(replacement)
    assert replacement.origins == {"a": (0, 2, 1), "b": None}
