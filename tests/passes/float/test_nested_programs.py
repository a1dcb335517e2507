"""Float and integer rewrites of programs with loops and branches: what they compute stays."""

import numpy as np
import pytest
from hypothesis import given

import qir
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.types import Array
from tests.drawing import examples
from tests.strategies import Case
from tests.strategies.nested_programs import Setting, nested_programs

FLOAT = ("canonicalize", "move-transposes, hoist-projections", "raise, fold, scores")
INTEGER = ("canonicalize", "integer", "move-requantize, integer, lower-requantize")


def computed(graph: qir.Graph, case: Case) -> list[Array]:
    arrays = run_all(graph, *case.inputs, precision=np.float64)
    return [arrays[value] for value in graph.outputs]


def check(case: Case, pipeline: str) -> None:
    """Holds a pipeline's result against the program, in float64 and in stored integers."""
    after = qir.optimize(case.graph, pipeline)
    try:
        wanted = computed(case.graph, case)
    except QirError:  # a loop without an end, or a range that a code can't hold
        return
    for value, right, found in zip(case.graph.outputs, wanted, computed(after, case), strict=True):
        if value.type.is_float and value.type.quant is None:
            np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-6, err_msg=case.shown())
        else:
            assert np.array_equal(found, right), case.shown()


@pytest.mark.hypothesis
@pytest.mark.parametrize("pipeline", FLOAT)
@examples(60)
@given(nested_programs(Setting("exact")))
def test_float_programs(pipeline: str, case: Case) -> None:
    check(case, pipeline)


@pytest.mark.hypothesis
@pytest.mark.parametrize("pipeline", INTEGER)
@examples(60)
@given(nested_programs(Setting("codes")))
def test_integer_programs(pipeline: str, case: Case) -> None:
    check(case, pipeline)


@pytest.mark.hypothesis
@examples(60)
@given(nested_programs(Setting("exact")))
def test_canonicalize_leaves_nothing_to_do(case: Case) -> None:
    once = qir.optimize(case.graph, "canonicalize")
    assert qir.optimize(once, "canonicalize") == once, case.shown()
