"""What a region computes, computed around it."""

from collections.abc import Callable

import numpy as np

import qir
from qir.numbers.interval import Interval
from qir.ops.branches import Cond
from qir.passes.shared.inlining import inline

TEXT = """qir 2
graph @main(%n: i32[], %x: f32[2]) {
  %y, %z = cond(%n, %x) with (%a: f32[2]) {
    %one = const 1 : f32[2]
    %b = add(%a, %one) : f32[2] in [0, 3]
    %c = cond(%n2, %b) with (%d: f32[2]) {
      %e = neg(%d) : f32[2]
      return %e
    } : f32[2]
    return %c, %a
  } : f32[2], f32[2]
  return %y, %z
}"""


def _graph() -> qir.Graph:
    text = TEXT.replace("(%n2, %b)", "(%zero, %b)").replace(
        "    %one =", "    %zero = const 0 : i32[]\n    %one ="
    )
    graph = qir.parse(text)
    graph.record_origins()
    return graph


def _inlined(graph: qir.Graph, name: Callable[[str], str] | None = None) -> qir.Graph:
    node = next(node for node in graph.nodes if isinstance(node.op, Cond))
    found = inline(node.regions[0], node.inputs[1:], graph.before(node), name)
    for old, new in zip(node.outputs, found, strict=True):
        old.replace_with(new)
    graph.erase(node)
    qir.verify(graph)
    return graph


def test_the_copies_compute_what_the_region_does_and_keep_its_facts():
    graph = _graph()
    x = np.array([1, 2], np.float32)
    wanted = qir.evaluate(graph, np.int32(0), x)
    inlined = _inlined(graph)
    found = qir.evaluate(inlined, np.int32(0), x)
    assert all(map(np.array_equal, found, wanted))
    assert inlined.value("b").range == Interval.of(0, 3)
    assert inlined.value("b").origin == ("b",)
    assert inlined.outputs[1] is inlined.value("x")
    (inner,) = [node for node in inlined.nodes if node.regions]
    assert inner.regions[0].value("e").origin == ("e",)


def test_names_and_origins_of_several_copies_are_told_apart():
    inlined = _inlined(_graph(), lambda name: f"{name}.3")
    assert inlined.value("b.3").origin == ("b.3",)
    (inner,) = [node for node in inlined.nodes if node.regions]
    assert inner.regions[0].value("e.3").origin == ("e.3",)
