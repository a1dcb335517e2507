"""What every comparison of an integer program with its float program holds to."""

from __future__ import annotations

import warnings
from unittest import mock

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run_all
from qir.errors import QirAccuracyWarning, QirError
from qir.report.compare.comparing import Comparing
from tests.drawing import drawn
from tests.models.random_programs import NumpyExecutor, quantizations
from tests.strategies.nested_programs import Setting, nested_programs

SMALL = Setting("floats", steps=2, nests=1)


def quantized(graph, data, pipeline):
    """The integer program, None where the pipeline refuses it."""
    with (
        warnings.catch_warnings(),
        mock.patch("qir.backends.xla.executor.XlaExecutor", NumpyExecutor),
    ):
        warnings.simplefilter("ignore", QirAccuracyWarning)
        try:
            return qir.quantize(graph, data, pipeline, accuracy_check=False)
        except QirError:
            return None


def check(graph, integer, inputs):
    """Errors are told apart without remainder."""
    found = Comparing(graph, integer, run_all).run([inputs], 4)
    for one in found.values:
        if not np.isfinite(one.noise):
            continue
        # Sums of float64 over at most some thousand numbers; own and inherited may be far larger
        # than the noise where they make up for one another.
        size = max(one.noise, abs(one.own), abs(one.inherited))
        assert abs(one.own + one.inherited - one.noise) <= 1e-9 * size
        parts = one.weights + one.clipping + one.rounding
        assert parts == pytest.approx(1) or parts == 0
    for culprit in found.culprits:
        assert 0 <= culprit.share <= 1 + 1e-9
    assert str(found)
    assert found.as_json()
    return found


@pytest.mark.hypothesis
def test_own_and_inherited_errors_add_up_to_the_whole_on_random_programs():
    compared = 0
    for case, pipeline, _ in drawn(quantizations(), 60, pack=10):
        integer = quantized(case.graph, [case.inputs], pipeline)
        if integer is not None:
            check(case.graph, integer, case.inputs)
            compared += 1
    assert compared > 1


@pytest.mark.hypothesis
def test_they_do_in_loops_and_branches_too():
    compared = 0
    for place, case in enumerate(drawn(nested_programs(SMALL), 20, pack=4)):
        pipeline = ("w8a8", "w8a16", "w8", "w8-dynamic")[place % 4]
        integer = quantized(case.graph, [case.inputs], pipeline)
        if integer is not None and all(np.size(array) for array in case.inputs):
            check(case.graph, integer, case.inputs)
            compared += 1
    assert compared > 1
