"""Quantizing to a budget: the passes run once up to the codes, and those are searched."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qir.analysis.fewer_samples import with_fewer_samples
from qir.api.optimizing import optimize
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ir import Graph
from qir.observe.sample import batch_name, few_rows
from qir.passes.shared.calibration_data import read_batches
from qir.pipeline import Batch, Context, Pipeline, RecipeRule
from qir.report.summary import summary
from qir.search.budget import Budget
from qir.search.search import SearchLimits, SearchResult, search
from qir.search.subject import SearchedProgram
from qir.search.units import numbers_of_sample
from qir.targets import Target, find_target
from qir.types import Array, DType

WORK = 3 * 2**30
"""Products that one run of a simulation may compute: a tenth of a second on a few cores."""

MOST_ROWS = 64
"""The most rows that units are chosen by; those that integer programs are judged by are as many,
or twice as many in large programs."""

LEAST_ROWS = 4
"""The fewest of them: noise differs more from sample to sample than from number to number."""

ENOUGH = 2048
"""Numbers of the outputs that tell the noise in them well enough to choose by."""

ALIKE = 2.0**-10
"""How far an output of a sample may lie from that of the same in the whole batch, of the largest
number: more than float32 sums in another order make."""

ALONE = ("recipe", "statistics")
"""Options of `optimize` that a search does not take."""


def quantize_to(
    graph: Graph,
    data: Iterable[Batch] | None,
    pipeline: str | Pipeline,
    budget: Budget | None,
    limits: SearchLimits,
    context: Context,
    options: dict[str, Any],
) -> tuple[Graph, SearchResult]:
    """Quantizes a program so that it meets a budget, or with the most accuracy for a few bits.

    Args:
        graph: The float program.
        data: Calibration batches.
        pipeline: The pipeline to begin from.
        budget: What is asked for; None for the most accuracy.
        limits: How long the search may take.
        context: Filled by the run; its `recipe` is what was found.
        options: Those of `optimize`.

    Raises:
        QirError: There is no data, the pipeline gives activations no codes of 8 bits, an option
            does not go with a search, or the budget is not met.
    """
    given = [name for name in ALONE if options.get(name) is not None]
    if given:
        raise QirError(f"quantize: a search takes no {given[0]}; leave it out, or the budget")
    if data is None:
        raise QirError("quantize: expected data to search with, got none")
    steps = pipeline if isinstance(pipeline, Pipeline) else Pipeline.parse(pipeline)
    place = _place_of_codes(steps, pipeline if isinstance(pipeline, str) else str(pipeline))
    wide_weights = _takes_wide_weights(options.get("target"))
    head, codes, rest, tail = (
        Pipeline(part, steps.allow)
        for part in (
            steps.steps[:place],
            steps.steps[place : place + 1],
            steps.steps[place + 1 :],
            steps.steps[place:],
        )
    )
    shown = {name: options[name] for name in _SHOWN if options.get(name)}
    plain = {name: one for name, one in options.items() if name not in (*_SHOWN, *ALONE)}
    ranged = optimize(graph, head, data=data, context=context, **plain)
    observations = context.observations
    assert observations is not None
    rows, held_out = _rows(graph, observations)
    held_out = rows if budget is None else held_out
    executor = context.executor
    assert executor is not None

    quiet = {name: value for name, value in plain.items() if name != "progress"}

    def run(program: Graph, part: Pipeline, rules: Sequence[RecipeRule], context: Context) -> Graph:
        return optimize(program, part, recipe=list(rules) or None, context=context, **quiet)

    def aside() -> Context:
        fresh = replace(context, diagnostics=[], timings=[], edited=[], unattained=set())
        fresh.versions = None
        return fresh

    plainly = aside()
    coded = run(ranged, codes, [], plainly)
    made: dict[tuple[RecipeRule, ...], tuple[Graph, Context]]
    made = {(): (run(coded, rest, [], plainly), plainly)}

    def make(rules: Sequence[RecipeRule]) -> Graph:
        """Keeps the last program, which is mostly that which is found."""
        if (chosen := tuple(rules)) not in made:
            own = aside()
            program = run(ranged, tail, rules, own)
            for other in filter(None, list(made)):
                del made[other]
            made[chosen] = program, own
        return made[chosen][0]

    reference = context.reference or graph
    program, rows, exact = _few_samples(reference, coded, context) or (
        coded,
        rows,
        _outputs(reference, rows),
    )
    subject = SearchedProgram(
        reference,
        ranged,
        program,
        make,
        executor,
        run_all,
        rows,
        exact,
        held_out,
        with_weights=budget is not None and wide_weights,
        per="channel" if getattr(codes.steps[0], "per", "").startswith("block") else None,
    )
    start = time.perf_counter()
    named = pipeline if isinstance(pipeline, str) else str(pipeline)
    result = search(subject, budget, named, limits)
    context.timings.append(("search", time.perf_counter() - start))
    context.edited.append(False)
    if shown:
        integer = optimize(
            graph, steps, data=data, recipe=result.recipe, context=context, **plain, **shown
        )
    elif result.recipe.rules in made and context.versions is None:
        integer, own = made[result.recipe.rules]
        context.diagnostics += own.diagnostics
        context.timings += own.timings
        context.edited += own.edited
        context.unattained |= own.unattained
    else:
        integer = run(ranged, tail, result.recipe.rules, context)
    context.recipe = result.recipe
    told = [result.summary, *filter(None, [result.warning])]
    context.diagnostics += told
    integer.diagnostics += tuple(told)
    return integer, result


_SHOWN = ("dump_dir", "print_after_all", "check")
"""Options that show or check the passes, which are run once more for it with what was found."""


def _takes_wide_weights(target: str | Target | None) -> bool:
    """Whether a target accepts weights of 16 bits.

    Raises:
        QirError: It does not accept activations of 16 bits, or there is no such target.
    """
    if target is None:
        return True
    found = find_target(target, "quantize")
    if found.activations is not None and DType.I16 not in found.activations:
        accepted = " or ".join(one.value for one in found.activations)
        raise QirError(
            f"quantize: a search gives activations 16 bits, of which target {found.name} accepts "
            f"{accepted} alone; keep ops in floating point by a recipe, as qir.compare advises"
        )
    return found.weights is None or DType.I16 in found.weights


def _place_of_codes(pipeline: Pipeline, named: str) -> int:
    """Returns the place of the pass that gives activations codes of 8 bits."""
    for place, step in enumerate(pipeline.steps):
        if step.name == "quantize" and getattr(step, "activations", "float") in ("i8", "u8"):
            return place
    raise QirError(
        "quantize: expected a pipeline that gives activations codes of 8 bits, such as w8a8, to "
        f"search from, got '{named}'"
    )


def _rows(graph: Graph, data: Iterable[Batch]) -> tuple[Sequence[Array], Sequence[Array]]:
    """Returns rows to choose by and others to judge by; of a batch that can't be cut the same."""
    batches = []
    for arrays, sizes in read_batches(graph, data):
        if not sizes.empty:
            batches.append(arrays)
        if len(batches) == 2:
            break
    products = _products(graph)
    count, most = _enough(graph, 1), max(2, min(MOST_ROWS, 2 * WORK // products))
    if not batches:
        raise QirError("quantize: expected data with a sample to search with, got none")
    if len(batches) > 1:
        return few_rows(graph, batches[0], count), few_rows(graph, batches[1], most)
    (only,) = batches
    drawn = few_rows(graph, only, count + most)
    if batch_name(graph) is None:
        return drawn, drawn
    kept = few_rows(graph, drawn, count)
    return kept, drawn


def _products(graph: Graph) -> int:
    return max(1, sum(summary(graph).multiply_adds.values()))


def _enough(graph: Graph, batch: int) -> int:
    """Returns how many samples are enough to choose by, of a program of a batch of some size."""
    each = max(1, sum(numbers_of_sample(value) for value in graph.outputs) // batch)
    return max(LEAST_ROWS, min(MOST_ROWS, WORK * batch // _products(graph), ENOUGH // each))


def _outputs(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    found = run_all(graph, *inputs)
    return [found[value] for value in graph.outputs]


def _few_samples(
    reference: Graph, coded: Graph, context: Context
) -> tuple[Graph, Sequence[Array], Sequence[Array]] | None:
    """Finds how to choose by a few samples of a fixed batch that holds more than enough.

    That samples are computed each by itself is seen by the outputs: what is left of a dependence is
    far below the noise that is looked for.

    Returns:
        The program of codes of few samples, these, and the outputs of the float program; None where
        the batch is not fixed, small, or one thing.
    """
    sample, outputs = context.sample, context.sample_outputs
    if sample is None or not all(array.ndim for array in sample) or not outputs:
        return None
    batch = len(sample[0])
    count = _enough(reference, batch)
    float_program = with_fewer_samples(reference, count)
    program = with_fewer_samples(coded, count)
    if float_program is None or program is None:
        return None
    kept = np.linspace(0, batch - 1, count).round().astype(int)
    few = [np.ascontiguousarray(array[kept]) for array in sample]
    exact = _outputs(float_program, few)
    for found, right in zip(exact, outputs, strict=True):
        if right is None or right.ndim == 0 or len(right) % batch:
            return None
        wanted = right.reshape(batch, -1)[kept].reshape(found.shape)
        if not np.allclose(found, wanted, rtol=0, atol=ALIKE * np.abs(wanted).max()):
            return None
    return program, few, exact
