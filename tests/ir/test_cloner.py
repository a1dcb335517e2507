"""Copies of graphs: everything survives in every use of the one cloner, and arrays are shared."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from qir.analysis.equivalence import in_float64
from qir.analysis.verify import verify
from qir.frontends.shared.naming import name_values
from qir.ir import Graph, Node, Value, clone
from qir.ops import Add, Cast, Conv, Mul, Relu
from qir.text import parse
from qir.types import DType, TensorType

PROGRAM = """
graph @g(%x: f32[2] in [-1.0, 1.0] of "in put") {
  %k = const [3.0, 4.0] : f32[2] of "a/b::k" loc("net.py:1")
  %a = add(%x, %k) : f32[2] seen [-1.0, 3.0] in [0.0, 3.0] of "a" loc("net.py:2") why("too wide")
  %y = scan(%a) {carries = 1, trips = 3} with (%h: f32[2] in [0.0, 4.0] of "h in") {
    %w = const [1.0, 2.0] : f32[2]
    %s = add(%h, %w) : f32[2] in [0.0, 6.0] of "sum" loc("net.py:3") why("in a loop")
    return %s
  } : f32[2] in [0.0, 9.0] of ["y", "z"] loc("net.py:4") why("a loop")
  %n = cast(%y) : i32[2]
  return %n
}"""


@pytest.fixture
def graph():
    return parse(PROGRAM)


def facts(graph: Graph, *, named: bool = True) -> tuple[list[Any], list[Any]]:
    """What a copy must keep beside ops, types and wiring."""

    def of_value(value: Value) -> tuple[Any, ...]:
        name = (value.name, value.named) if named else ()
        return *name, value.observed, value.range, value.origin

    def of_node(node: Node) -> tuple[Any, ...]:
        values = [of_value(value) for value in node.outputs]
        return node.loc, node.note, values, [facts(region, named=named) for region in node.regions]

    return [of_value(value) for value in graph.inputs], [of_node(node) for node in graph.nodes]


def test_a_copy_keeps_all_facts_and_shares_arrays(graph):
    copy = graph.copy()
    assert copy == graph
    assert facts(copy) == facts(graph)
    assert copy.value("k").array is graph.value("k").array
    assert not set(copy.walk()) & set(graph.walk())


def test_an_extract_keeps_all_facts(graph):
    part = graph.extract(graph.inputs, [graph.value("y")])
    inputs, nodes = facts(graph)
    assert facts(part)[0] == inputs
    assert facts(part)[1][:3] == nodes[:3]
    assert len(facts(part)[1]) == 4


def test_a_copy_in_float64_keeps_all_facts(graph):
    wide = in_float64(graph)
    assert facts(wide) == facts(graph)
    assert {str(value.type) for node in wide.walk() for value in node.outputs} == {
        "f64[2]",
        "i32[2]",
    }
    assert wide.value("k").array.dtype == np.float64


def test_new_types_reach_the_ops_that_tell_them(graph):
    narrow = clone(graph, retype=lambda type: type.with_element(DType.F16))
    assert narrow.value("n").op == Cast(DType.F16)
    assert narrow.value("k").array.dtype == np.float16
    verify(narrow)
    assert graph.value("n").op == Cast(DType.I32)


def test_new_names_keep_all_other_facts(graph):
    for value in graph.values_inside():
        value.named = False
    before = facts(graph, named=False)
    name_values(graph, ())
    assert [value.name for value in graph.values()] == ["x", "add.offset", "add", "scan", "cast"]
    assert not any(value.named for value in graph.values())
    assert facts(graph, named=False) == before


def test_a_copy_of_a_network_costs_no_arrays():
    graph = Graph("resnet50", [("x", TensorType((1, 8, 8, 64), DType.F32))])
    build, last = graph.at_end(), graph.inputs[0]
    for layer in range(53):
        kernel = build.const(np.ones((3, 3, 64, 64), np.float32), f"conv{layer}.kernel")
        factor, offset = (build.const(np.ones(64, np.float32)) for _ in range(2))
        last = build.emit(Conv(padding="same"), last, kernel, name=f"conv{layer}")
        last = build.emit(Relu(), build.emit(Add(), build.emit(Mul(), last, factor), offset))
    graph.set_outputs([last])
    graph.record_origins()
    graph.copy()
    tracemalloc.start()
    try:
        copy = graph.copy()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(list(copy.nodes)) == len(list(graph.nodes))
    assert peak < 2**20
