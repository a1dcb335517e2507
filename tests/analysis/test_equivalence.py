"""The check after each pass: what a fold rounds is no difference, what it computes wrongly is."""

from dataclasses import dataclass

import numpy as np
import pytest

from qir.analysis.equivalence import in_float64
from qir.backends.reference.interpreter import run, run_all
from qir.errors import PassError
from qir.ir import Graph
from qir.ops import Mul
from qir.passes.float.canonicalize import Canonicalize
from qir.passes.float.fold_batch_norm import FoldBatchNorm
from qir.pipeline import Context, Pass, PassManager, Pipeline
from qir.text import parse

NETWORK = """graph @net(%x: f32[B,2]) {
  %k = const [[0.1, 0.2], [0.3, 0.7]] : f32[2,2]
  %i = const [[1], [2]] : i32[2,1]
  %factor = const [0.3, 0.9] : f32[2]
  %c = dot(%x, %k) : f32[B,2]
  %y = mul(%c, %factor) : f32[B,2]
  %n = cast(%i) : f32[2,1]
  %z = dot(%y, %n) : f32[B,1]
  return %z
}"""
X = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


@dataclass(frozen=True)
class SlightlyOff(Pass):
    """Multiplies every result by a factor near 1."""

    name = "slightly-off"

    def run(self, graph: Graph, context: Context) -> None:
        (y,) = graph.outputs
        builder = graph.at_end()
        factor = builder.const(np.asarray(1.0001, y.type.dtype.numpy), "factor")
        graph.set_outputs([builder.emit(Mul(), y, factor)])


def check(pipeline: Pipeline) -> Graph:
    manager = PassManager(pipeline, check_inputs=[X])
    return manager.run(parse(NETWORK), Context(interpreter=run_all))


def test_a_fold_may_round_constants_to_f32():
    folded = check(Pipeline((FoldBatchNorm(), Canonicalize())))
    exact = run(parse(NETWORK), X, precision=np.float64)[0]
    assert np.any(run(folded, X, precision=np.float64)[0] != exact)


def test_a_mistake_is_found_in_f32():
    with pytest.raises(PassError, match=r"changed at \[0, 0\](.|\n)*after pass slightly-off"):
        check(Pipeline((SlightlyOff(),)))


def test_a_program_in_float64_computes_the_same():
    graph = parse(NETWORK)
    graph.record_origins()
    wide = in_float64(graph)
    types = [str(value.type).replace("f32", "f64") for value in graph.values()]
    assert [str(value.type) for value in wide.values()] == types
    assert [value.origin for value in wide.values()] == [value.origin for value in graph.values()]
    expected = run(graph, X, precision=np.float64)
    np.testing.assert_array_equal(run(wide, X.astype(np.float64), precision=np.float64), expected)
