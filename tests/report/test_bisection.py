"""Which pass made a program wrong, and the part that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ops import Const, Gelu, Relu
from qir.pipeline import PASSES

PROGRAM = """
graph @block(%x: f32[B,8]) {
  %k = const : f32[8,8]
  %dot = dot(%x, %k) : f32[B,8]
  %gelu = gelu(%dot) : f32[B,8]
  %k_1 = const : f32[8,4]
  %dot_1 = dot(%gelu, %k_1) : f32[B,4]
  %softmax = softmax(%dot_1) {axis = 1} : f32[B,4]
  return %softmax
}
"""
DRAWN = np.random.default_rng(0)
ARRAYS = {
    "k": DRAWN.normal(0, 0.5, (8, 8)).astype(np.float32),
    "k_1": DRAWN.normal(0, 0.5, (8, 4)).astype(np.float32),
}
DATA = [DRAWN.normal(size=(32, 8)).astype(np.float32)]


Plant = Callable[[Callable[[qir.Graph], None]], str]
"""Registers a pass, called `planted`, that does something wrong; returns its name."""


def ops(graph: qir.Graph | None) -> list[str]:
    assert graph is not None
    return [node.op.name for node in graph.nodes]


def block() -> qir.Graph:
    return qir.parse(PROGRAM, ARRAYS)


@pytest.fixture
def wrong() -> Iterator[Plant]:
    """Takes the pass out again behind a test."""
    made: list[str] = []

    def make(change: Callable[[qir.Graph], None]) -> str:
        class Planted(qir.Pass):
            """Says that it keeps all numbers."""

            name = "planted"

            def run(self, graph: qir.Graph, context: qir.Context) -> None:
                change(graph)

        made.append(qir.register(Planted).name)
        return made[-1]

    yield make
    for name in made:
        del PASSES[name]


def test_nothing_is_at_fault_in_the_named_pipelines() -> None:
    found = qir.bisect(block(), DATA)
    assert found.guilty is None
    assert found.before is None
    assert "no pass is at fault" in str(found)


def test_a_wrong_rewrite_of_a_float_program(wrong: Plant) -> None:
    def relus(graph: qir.Graph) -> None:
        for node in list(graph.nodes):
            if isinstance(node.op, Gelu):
                node.output.replace_with(graph.before(node).emit(Relu(), node.inputs[0]))
                graph.erase(node)

    name = wrong(relus)
    found = qir.bisect(block(), DATA, f"fold, {name}, scores, calibrate, ranges, quantize, integer")
    assert found.guilty == name
    assert found.value == "gelu"
    assert ops(found.before) == ["gelu", "return"]
    assert ops(found.after) == ["relu", "return"]
    assert "%gelu = relu(%dot)" in str(found)
    assert len(found.figures) < 7  # not every version was computed


def test_a_pass_that_changes_one_integer(wrong: Plant) -> None:
    """Accuracy hardly changes, but a pass that is exact keeps each number."""

    def one_more(graph: qir.Graph) -> None:
        node = next(node for node in graph.nodes if node.outputs and node.output.name == "k_1")
        stored = node.output.array.copy()
        stored[0, 0] += 3 if stored[0, 0] < 0 else -3
        code = node.output.type.quant
        node.output.replace_with(graph.before(node).const(stored, "k_2", code))
        graph.erase(node)

    name = wrong(one_more)
    found = qir.bisect(
        block(), DATA, f"fold, scores, calibrate, ranges, quantize, integer, {name}, canonicalize"
    )
    assert found.guilty == name
    assert "numbers differ from those behind quantize" in found.reason
    assert found.value == "dot_1"
    assert "dot" in ops(found.after)


def test_the_rounding_itself() -> None:
    pipeline = "fold, scores, calibrate, ranges, quantize(weights=i2), integer"
    found = qir.bisect(block(), DATA, pipeline, threshold=25)
    assert found.guilty == "quantize(weights=i2)"
    assert found.value in ("dot", "dot_1")


def test_without_data_random_inputs_tell(wrong: Plant) -> None:
    def halve(graph: qir.Graph) -> None:
        for node in list(graph.nodes):
            if isinstance(node.op, Const) and node.output.name == "k":
                node.op = replace(node.op, array=type(node.op.array)(node.op.array.array / 2))
                graph.touch()

    found = qir.bisect(block(), None, f"canonicalize, {wrong(halve)}")
    assert found.guilty == "planted"
    assert found.value == "dot"


def test_data_that_can_be_read_only_once() -> None:
    with pytest.raises(QirError, match="expected data that can be read again"):
        qir.bisect(block(), iter(DATA))
