"""Random float programs with regions, quantized: nothing is raised, and backends agree."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest

import qir
from qir.analysis.verify import verify
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ir import Graph
from tests.drawing import drawn
from tests.exact.test_nested_programs import NEAR, differing
from tests.strategies import Case
from tests.strategies.nested_programs import NestedCase, Setting, nested_programs

PIPELINES = ["w8a8", "w8a8", "w8a16", "w8", "w8-dynamic", "w4a8"]
SMALL = Setting("floats", steps=2, nests=1)
NO_SAMPLE = "expected batches with samples, got empty ones only"


def quantized(case: Case, pipeline: str) -> Graph | None:
    """Quantizes a program; returns None where its batch has no sample to calibrate with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return qir.quantize(case.graph, [case.inputs], pipeline)
    except QirError as error:
        if NO_SAMPLE not in error.message:
            raise AssertionError(f"{error}\n{case.shown()}") from error
        return None


def codes_inside(graph: Graph) -> int:
    """Counts the results with codes that regions compute."""
    return sum(
        value.type.quant is not None
        for node in graph.walk()
        if node.graph is not graph
        for value in node.outputs
    )


@pytest.mark.hypothesis
@pytest.mark.parametrize("chunk", range(2))
def test_quantized_programs_are_the_same_in_every_backend(chunk: int) -> None:
    cases = drawn(nested_programs(SMALL), 40, pack=6)[chunk::2]
    made: list[Case] = []
    counts: Counter[str] = Counter()
    for place, case in enumerate(cases):
        pipeline = PIPELINES[place % len(PIPELINES)]
        graph = quantized(case, pipeline)
        if graph is None:
            continue
        verify(graph)
        program = qir.to_program(graph)
        assert qir.parse(program.text, program.arrays) == graph
        counts["inside"] += codes_inside(graph)
        for before, after in zip(
            run(case.graph, *case.inputs), run(graph, *case.inputs), strict=True
        ):
            if before.dtype.kind != "f":
                assert np.array_equal(before, after), f"{case.shown()}\n{graph}"
        made.append(NestedCase(graph, case.inputs))
    assert counts["inside"] > 0
    for kernels in (False, True):
        assert differing(made, kernels, NEAR) == []
