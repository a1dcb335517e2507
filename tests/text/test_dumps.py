"""A program printed after any pass and read back goes on as the program itself."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given

import qir
from qir.ir import Graph
from qir.ir.cloner import clone
from qir.passes.pipelines import FOLD, INTEGER
from qir.text import parse, to_program
from qir.types import DType
from tests.drawing import examples
from tests.strategies.float_programs import FloatCase, float_programs

BEFORE = f"{FOLD}, equalize".split(", ")
BEHIND = f"propagate-ranges, quantize, {INTEGER}, lower-requantize".split(", ")


def again(graph: Graph) -> Graph:
    program = to_program(graph)
    read = parse(program.text, program.arrays)
    assert read == graph
    return read


def unnamed(graph: Graph) -> Graph:
    """A copy without names: the text does not tell which of them a pass may give to another."""
    copy = graph.copy()
    copy.rename_all({value: f"v{index}" for index, value in enumerate(copy.values())})
    return copy


def goes_on(steps: Sequence[str], states: Sequence[Graph]) -> None:
    for step, (state, following) in zip(steps, pairwise(states), strict=False):
        assert unnamed(qir.optimize(again(state), step)) == unnamed(following)


@examples(20)
@given(float_programs())
def test_a_dump_after_any_pass_goes_on_to_the_same_program(case: FloatCase) -> None:
    states = [clone(case.graph, retype=lambda type: type.with_element(DType.F32))]
    for step in BEFORE:
        states.append(qir.optimize(states[-1], step))
    goes_on(BEFORE, states)

    rng, context = np.random.default_rng(0), qir.Context()
    data = [[rng.normal(size=value.type.known_shape) for value in states[-1].inputs]]
    calibrated = qir.optimize(states[-1], "calibrate", data=data, context=context)
    known = context.statistics
    assert qir.optimize(again(states[-1]), "calibrate", statistics=known) == calibrated

    states = [calibrated]
    for step in BEHIND:
        states.append(qir.optimize(states[-1], step))
        if step == "quantize" and all(value.type.quant is None for value in states[-1].values()):
            break  # nothing of the program can be quantized
    goes_on(BEHIND, states)
