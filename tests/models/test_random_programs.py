"""No output of a random program is noise without a warning."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirAccuracyWarning
from qir.ir import clone
from qir.report.accuracy import ratio_in_decibels
from qir.types import DType
from tests.strategies.float_programs import FloatCase, float_programs, simple_programs

SILENT = 15.0
"""Signal to noise in dB that an output has at the least where nothing is warned of."""


@pytest.mark.hypothesis
@given(float_programs() | simple_programs())
def test_no_output_is_noise_without_a_warning(case: FloatCase) -> None:
    graph = clone(
        case.graph,
        retype=lambda type: type.with_element(DType.F32) if type.is_float else type,
    )
    inputs = [array.astype(np.float32) for array in case.inputs]
    exact = run(graph, *inputs)
    assume(all(np.isfinite(array).all() for array in exact))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", QirAccuracyWarning)
        integer = qir.quantize(graph, [tuple(inputs)])
    found = run(integer, *inputs)
    figures = [ratio_in_decibels(*pair)[0] for pair in zip(exact, found, strict=True)]
    assert caught or min(figures) >= SILENT, str(integer)
    assert all(np.isfinite(array).all() for array in found)
