"""Where the accuracy of an integer program went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qir.api.devices import devices
from qir.api.quantizing import quantize
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ir import Graph, Node, expect_graph
from qir.observe.observations import Observations
from qir.passes.shared.calibration_data import read_batches
from qir.pipeline import Batch, Pipeline, Recipe, RecipeRule
from qir.pipeline.recipes import RecipeLike
from qir.report.compare.comparing import SAMPLES, Comparing
from qir.report.compare.result import ComparisonReport
from qir.report.explain import CASTS
from qir.types import Array


def compare(
    float_graph: Graph,
    integer_graph: Graph,
    data: Iterable[Batch],
    *,
    samples: int = SAMPLES,
    measure: bool = True,
    pipeline: str | Pipeline | None = None,
    recipe: RecipeLike | None = None,
) -> ComparisonReport:
    """Tells of every value how far an integer program is from the float one, and why.

    A value of the integer program is held against the one of the float program that it stands for,
    by `Value.origins`, in loops trip by trip. Its error is told apart into what its op makes itself
    and what comes with the operands, the own error into what weights, clipping and rounding make.
    Culprits are the values whose own error costs an output most, found by adding it alone to the
    float program; for the worst, what each remedy would gain there is predicted from the numbers,
    where the errors of values add independently. See `ComparisonReport`.

    Args:
        float_graph: The float program.
        integer_graph: The program that was made of it.
        data: Batches as for `quantize`.
        samples: How many samples are compared at most, the first ones; batches where the program
            can't be cut into samples.
        measure: Whether to quantize the float program again, as it was and with the best remedy of
            the first culprit, and tell what that gains. All of the data calibrates.
        pipeline: What the integer program was made by, for `measure`; as for `quantize`, but for
            `auto` or a budget, of which the recipe that was found is to be given.
        recipe: Likewise.

    Raises:
        QirError: An input does not fit or has NaN, there is no data, the first program computes on
            codes, the outputs of the programs are not as many, or the pipeline is none.
    """
    expect_graph(float_graph, "compare")
    expect_graph(integer_graph, "compare")
    for what in ("inputs", "outputs"):
        counts = [len(getattr(graph, what)) for graph in (float_graph, integer_graph)]
        if counts[0] != counts[1]:
            raise QirError(
                f"compare: expected a program made of @{float_graph.name}, with {counts[0]} "
                f"{what}, got one with {counts[1]}"
            )
    if (coded := next(filter(_computes_on_codes, float_graph.walk()), None)) is not None:
        turned = not any(map(_computes_on_codes, integer_graph.walk()))
        remedy = (
            "the float program comes first" if turned else "take the one that both were made of"
        )
        raise QirError(
            f"compare: expected a float program first, got @{float_graph.name}, in which "
            f"{coded.op.name} %{coded.outputs[0].name} computes on codes; {remedy}"
        )
    from qir.backends.xla.executor import XlaExecutor

    if pipeline == "auto":
        raise QirError(
            "compare: expected the pipeline that made the program, got auto, which searches; give "
            "what it found as recipe=, which qir.quantize leaves in the context's recipe"
        )
    if isinstance(pipeline, str):
        Pipeline.parse(pipeline)
    observations = Observations(data)
    known = None if recipe is None else Recipe.of(recipe)

    def again(rule: Mapping[str, Any]) -> tuple[Graph, Graph]:
        if not observations.repeatable:
            raise QirError("the data can be read only once; give a list of batches")
        more = (known or Recipe()).with_rules(RecipeRule(**rule))
        before, after = (
            quantize(float_graph, observations, pipeline, accuracy_check=False, recipe=each)
            for each in (known, more)
        )
        return before, after

    comparing = Comparing(float_graph, integer_graph, run_all, XlaExecutor())
    with devices():
        return comparing.run(
            _arrays(float_graph, observations), samples, again if measure else None
        )


def _arrays(graph: Graph, data: Iterable[Batch]) -> Iterator[Sequence[Array]]:
    for number, (arrays, _) in enumerate(read_batches(graph, data)):
        for value, array in zip(graph.inputs, arrays, strict=True):
            if value.type.is_float and (wrong := np.isnan(array)).any():
                place = [int(index) for index in np.argwhere(wrong)[0]]
                raise QirError(
                    f"compare: input %{value.name} in batch {number}: expected numbers, got "
                    f"{int(wrong.sum())} NaN, the first at {place}; leave such samples out"
                )
        yield arrays


def _computes_on_codes(node: Node) -> bool:
    operands = (value for value in node.inputs if not value.is_constant)
    return (
        bool(node.outputs)
        and not isinstance(node.op, CASTS)
        and any(value.type.quant is not None for value in operands)
    )
