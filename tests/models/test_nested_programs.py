"""Random float programs with regions, quantized: nothing is raised, and backends agree."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import strategies as st

import qir
from qir.analysis.verify import verify
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ir import Graph
from qir.pipeline import RecipeRule
from tests.drawing import drawn
from tests.exact.test_nested_programs import NEAR, differing
from tests.strategies import Case
from tests.strategies.base import Draw
from tests.strategies.nested_programs import NestedCase, Setting, nested_programs
from tests.strategies.recipes import recipes

PIPELINES = ["w8a8", "w8a8", "w8a16", "w8", "w8-dynamic", "w4a8"]
SMALL = Setting("floats", steps=2, nests=1)
NO_SAMPLE = "expected batches with samples, got empty ones only"


Quantized: TypeAlias = tuple[Case, str, tuple[RecipeRule, ...]]
"""A program, the pipeline that quantizes it, and the rules of a recipe, or none."""


@st.composite
def quantizations(draw: Draw) -> Quantized:
    """Draws a program, a pipeline, and for every other program a recipe."""
    case: Case = draw(nested_programs(SMALL))
    pipeline = draw(st.sampled_from(PIPELINES))
    return case, pipeline, draw(recipes(case.graph, pipeline)) if draw(st.booleans()) else ()


def quantized(case: Case, pipeline: str, recipe: Sequence[RecipeRule] = ()) -> Graph | None:
    """Quantizes a program; returns None where a rule selects what was folded away, or has no use.

    Nor is there a program where the batch has no sample to calibrate with.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return qir.quantize(case.graph, [case.inputs], pipeline, recipe=recipe or None)
    except QirError as error:
        of_rule = any(place.startswith("in rule ") for place in error.places)
        if NO_SAMPLE not in error.message and not of_rule:
            raise AssertionError(f"{error}\n{case.shown()}\n{recipe}") from error
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
    cases = drawn(quantizations(), 40, pack=6)[chunk::2]
    made: list[Case] = []
    counts: Counter[str] = Counter()
    for case, pipeline, recipe in cases:
        graph = quantized(case, pipeline, recipe)
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
