"""Every edit of a graph is counted, so that the pass manager need not ask what a pass did."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import qir
from qir.ir import Graph, Node, Value
from qir.numbers.interval import Interval
from qir.ops import Clip, Neg, Relu, Scan
from qir.types import DType, TensorType

TEXT = """
graph @edited(%x: f32[2]) {
  %k = const [1.0, 2.0] : f32[2]
  %a = add(%x, %k) : f32[2]
  %y = clip(%a) {low = 0.0, high = 1.0} : f32[2]
  return %y
}"""


def clip(graph: Graph) -> Node:
    node = graph.value("y").node
    assert node is not None
    return node


def set_op(graph: Graph) -> None:
    node = clip(graph)
    assert isinstance(node.op, Clip)
    node.op = replace(node.op, high=2.0)


def set_note(graph: Graph) -> None:
    clip(graph).note = "a selector keeps it"


def set_location(graph: Graph) -> None:
    clip(graph).loc = "model.py:1"


def set_operand(graph: Graph) -> None:
    clip(graph).set_input(0, graph.value("x"))


def set_type(graph: Graph) -> None:
    graph.value("a").type = TensorType((2,), DType.F16)


def set_observed(graph: Graph) -> None:
    graph.value("a").observed = Interval.of(-1, 1)


def set_range(graph: Graph) -> None:
    graph.value("a").range = Interval.of(-1, 1)


def set_origin(graph: Graph) -> None:
    graph.value("a").origin = ("dense",)


def set_name(graph: Graph) -> None:
    graph.name = "renamed"


def rename(graph: Graph) -> None:
    graph.rename(graph.value("a"), "sum")


def rename_all(graph: Graph) -> None:
    graph.rename_all({graph.value("a"): "y", graph.value("y"): "a"})


def name_after(graph: Graph) -> None:
    graph.name_after(graph.value("a"), "a.q")


def insert(graph: Graph) -> None:
    graph.before(graph.returns).emit(Relu(), graph.value("y"))


def replace_value(graph: Graph) -> None:
    graph.value("a").replace_with(graph.value("x"))


def erase(graph: Graph) -> None:
    graph.value("y").replace_with(graph.value("a"))
    graph.erase(clip(graph))


def set_outputs(graph: Graph) -> None:
    graph.set_outputs([graph.value("a")])


def add_input(graph: Graph) -> None:
    graph.add_input("z", TensorType((2,), DType.F32))


EDITS: list[Callable[[Graph], None]] = [
    *(set_op, set_note, set_location, set_operand, set_type, set_observed, set_range, set_origin),
    *(set_name, rename, rename_all, name_after, insert, replace_value, erase, set_outputs),
    add_input,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_is_counted(edit: Callable[[Graph], None]) -> None:
    graph = qir.parse(TEXT)
    revision = graph.revision
    edit(graph)
    assert graph.revision > revision


def test_no_attribute_of_a_value_or_node_is_set_behind_its_back() -> None:
    """A new attribute is counted too: what is not are the links, which the graph itself sets."""
    graph = qir.parse(TEXT)
    fresh = qir.parse(TEXT)
    for old, new in ((graph.value("a"), fresh.value("x")), (clip(graph), fresh.returns)):
        for name in type(old).__slots__:
            if name in ("_next", "_previous", "erased"):
                continue
            kept, revision = getattr(old, name), graph.revision
            other = not kept if isinstance(kept, bool) else object()
            setattr(old, name, other if name != "graph" else new.graph)
            object.__setattr__(old, name, kept)
            assert graph.revision > revision, name


def test_what_is_read_copied_or_set_to_what_it_is_counts_for_nothing() -> None:
    graph = qir.parse(TEXT)
    node, a = clip(graph), graph.value("a")
    set_note(graph)
    set_range(graph)
    graph.value("y").observed = Interval.of(0, 1)
    graph.name_after(a, "a")
    revision = graph.revision
    assert graph.copy() == graph
    assert np.array_equal(graph.value("k").array, [1, 2])
    qir.evaluate(graph, np.zeros(2, np.float32))
    set_note(graph)
    set_range(graph)
    graph.value("y").observed = Interval.of(0, 1)
    graph.name_after(a, "a")
    node.op, node.loc, a.type, a.origin = node.op, node.loc, a.type, a.origin
    assert graph.revision == revision


def test_an_edit_in_a_region_is_one_of_the_graph_around_it() -> None:
    inner, outer = Graph("", [("c", TensorType((2,), DType.F32))]), Graph("outer")
    inner.set_outputs([inner.at_end().emit(Neg(), inner.inputs[0])])
    x: Value = outer.add_input("x", TensorType((2,), DType.F32))
    node = outer.at_end().emit_node(Scan(1, trips=3), [x], [inner])
    outer.set_outputs(node.outputs)
    revision = outer.revision
    inner.value("neg").range = Interval.of(0, 1)
    assert outer.revision > revision
