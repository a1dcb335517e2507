"""Float passes keep what a program computes: both versions in float64, within 1e-9."""

from collections import Counter

import pytest
from hypothesis import Phase, given, settings

from qir.backends.reference.interpreter import run_all
from qir.errors import PassError
from qir.ir import Builder, Graph, Value
from qir.ops import Relu
from qir.passes.float import canonicalize, fold_batch_norm
from qir.passes.float.canonicalize import IDENTITIES
from qir.passes.shared import folding
from qir.passes.shared.constant_folding import constant_folding
from qir.pipeline import Context, PassManager, Pipeline
from qir.pipeline.rewrite import rewrite, rule
from tests.drawing import examples
from tests.strategies.float_programs import (
    FloatCase,
    float_programs,
    reaching_programs,
    simple_programs,
)

PASSES = ["canonicalize", "fold-batch-norm", "fold-batch-norm(depthwise=false)", "fold-scales"]
PROGRAMS = float_programs() | reaching_programs() | simple_programs()
GROUPS = [
    [constant_folding(0), *IDENTITIES],
    folding.AFFINE_RULES,
    [fold_batch_norm.into_depthwise],
    [fold_batch_norm.into_mul_and_add],
]


def run(pipeline: str, case: FloatCase) -> Graph:
    manager = PassManager(Pipeline.parse(pipeline), check_inputs=case.inputs)
    return manager.run(case.graph, Context(interpreter=run_all))


@pytest.mark.parametrize("pipeline", [*PASSES, "fold"])
@examples(200)
@given(case=float_programs())
def test_results_are_kept(pipeline, case):
    run(pipeline, case)


@pytest.mark.parametrize("pipeline", ["fold-batch-norm", "fold-scales"])
@examples(250)
@given(case=reaching_programs())
def test_maps_that_travel_keep_results(pipeline, case):
    run(pipeline, case)


@examples(250)
@given(case=simple_programs())
def test_identities_keep_results(case):
    run("canonicalize", case)


@examples(200)
@given(case=PROGRAMS)
def test_a_second_run_changes_nothing(case):
    for name in PASSES:
        once = run(name, case)
        assert run(name, FloatCase(once, case.inputs)) == once


def test_every_rule_fires():
    fired: Counter[str] = Counter()

    @settings(max_examples=600)
    @given(case=PROGRAMS)
    def collect(case):
        for rules in GROUPS:
            fired.update(rewrite(case.graph.copy(), rules).applied)

    collect()
    assert {each.name for rules in GROUPS for each in rules} == set(fired)


@rule(Relu)
def drop_relu(y: Value, _: Builder) -> Value:
    return y.inputs[0]


def test_a_wrong_rule_is_found(monkeypatch):
    monkeypatch.setattr(canonicalize, "IDENTITIES", [drop_relu])

    @settings(max_examples=100, phases=[Phase.generate])
    @given(case=float_programs())
    def search(case):
        run("canonicalize", case)

    with pytest.raises(PassError, match=r"changed at"):
        search()
