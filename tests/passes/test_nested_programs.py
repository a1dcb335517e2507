"""Passes keep what programs with regions compute: floats in float64, integers bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given

# Imported to register QIR's own passes.
import qir.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.analysis.verify import verify
from qir.backends.reference.interpreter import run_all
from qir.ir import Graph
from qir.pipeline import Context, PassManager, Pipeline
from qir.text import parse, to_program
from qir.types import Array, DType
from tests.drawing import examples
from tests.strategies import Case
from tests.strategies.nested_programs import Setting, nested_programs

FLOAT = [
    "canonicalize",
    "raise",
    "fold",
    "equalize",
    "unroll-loops",
    "hoist-projections",
]
INTEGER = ["canonicalize", "integer", "move-requantize", "lower-requantize"]
few = examples(60, phases=[Phase.generate])


def kept(pipeline: str, case: Case) -> Graph:
    """Runs a pipeline, and compares what the program computes before and after each pass."""
    manager = PassManager(Pipeline.parse(pipeline), check_inputs=case.inputs)
    made = manager.run(case.graph, Context(interpreter=run_all))
    verify(made)
    program = to_program(made)
    assert parse(program.text, program.arrays) == made
    pairs = zip(outputs(case.graph, case), outputs(made, case), strict=True)
    for before, after in pairs:
        assert (before.dtype, before.shape) == (after.dtype, after.shape), case.shown()
        if before.dtype.kind == "f":
            assert np.allclose(before, after, 1e-9, 1e-9), case.shown()
        else:
            assert np.array_equal(before, after), case.shown()
    return made


def outputs(graph: Graph, case: Case) -> list[Array]:
    values = run_all(graph, *case.inputs, precision=np.float64)
    return [values[value] for value in graph.outputs]


@pytest.mark.parametrize("pipeline", FLOAT)
def test_float_passes_keep_results(pipeline: str) -> None:
    @few
    @given(nested_programs(Setting("floats", DType.F64)))
    def check(case: Case) -> None:
        kept(pipeline, case)

    check()


@pytest.mark.parametrize("pipeline", INTEGER)
def test_integer_passes_keep_every_bit(pipeline: str) -> None:
    @few
    @given(nested_programs(Setting("codes")))
    def check(case: Case) -> None:
        kept(pipeline, case)

    check()


@few
@given(nested_programs(Setting("floats", DType.F64, depth=3)))
def test_a_second_run_of_canonicalize_changes_nothing(case: Case) -> None:
    once = kept("canonicalize", case)
    assert PassManager(Pipeline.parse("canonicalize")).run(once, Context()) == once
