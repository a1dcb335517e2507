"""Passes over programs with regions: each graph alone, innermost first, unless a pass says else."""

from dataclasses import dataclass

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ops import Relu
from qir.pipeline import Context, Pass, PassManager, Pipeline

NESTED = """
graph @nested(%x: f32[5,3], %h: f32[3], %n: i32[]) {
  %last, %ys = scan(%n, %h, %x) {carries = 1, stacked = 1} with (
    %n: i32[],
    %h: f32[3],
    %x: f32[3]
  ) {
    %sum = add(%x, %h) : f32[3]
    %c = cond(%n, %sum) with (%a: f32[3]) {
      %b = relu(%a) : f32[3]
      return %b
    } with (%a: f32[3]) {
      %t = tanh(%a) : f32[3]
      return %t
    } : f32[3]
    return %c, %sum
  } : f32[3], f32[5,3]
  return %last, %ys
}"""


@dataclass(frozen=True, repr=False)
class Tell(Pass):
    """Tells what it is run on."""

    name = "tell"

    def run(self, graph, context):
        context.diagnostics.append(" ".join(node.op.name for node in graph.nodes))


@dataclass(frozen=True, repr=False)
class TellOnce(Tell):
    """Tells what the whole program is."""

    name = "tell-once"
    whole_program = True


@dataclass(frozen=True, repr=False)
class Refuse(Pass):
    """Refuses every relu."""

    name = "refuse"

    def run(self, graph, context):
        for node in graph.nodes:
            if isinstance(node.op, Relu):
                raise QirError("refuse: expected no relu", [node.place()])


def run(*steps, **options):
    context = Context(interpreter=run_all)
    result = PassManager(Pipeline(steps), **options).run(qir.parse(NESTED), context)
    return result, context


def test_a_pass_is_run_on_each_graph_innermost_first():
    _, context = run(Tell())
    assert context.diagnostics == [
        "relu return",
        "tanh return",
        "add cond return",
        "scan return",
    ]


def test_a_pass_that_takes_the_whole_program_is_run_once():
    _, context = run(TellOnce())
    assert context.diagnostics == ["scan return"]


def test_a_pass_has_one_entry_wherever_it_ran():
    _, context = run(Tell(), TellOnce())
    assert [name for name, _ in context.timings] == ["tell", "tell-once"]
    assert context.edited == [False, False]


def test_an_error_in_a_region_tells_which():
    with pytest.raises(QirError) as caught:
        run(Refuse())
    assert str(caught.value).splitlines() == [
        "refuse: expected no relu",
        "  at %b",
        "  in region 0 of %c",
        "  in the region of %last",
        "  in pass refuse",
    ]


def test_the_pipelines_keep_what_a_program_with_regions_computes():
    graph = qir.parse(NESTED)
    inputs = [np.random.default_rng(0).normal(size=(5, 3)), np.zeros(3), np.int32(1)]
    types = [np.float32, np.float32, np.int32]
    arrays = [np.asarray(each, type) for each, type in zip(inputs, types, strict=True)]
    for pipeline in ("raise", "fold", "defer-division"):
        qir.optimize(graph, pipeline, check=arrays)
