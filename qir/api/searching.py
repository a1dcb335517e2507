"""Quantizing to a budget: the passes run once up to the codes, and those are searched."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from qir.api.optimizing import optimize
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ir import Graph
from qir.observe.sample import batch_name, few_rows
from qir.passes.shared.calibration_data import read_batches
from qir.pipeline import Batch, Context, Pass, Pipeline, RecipeRule
from qir.report.summary import summary
from qir.search.budget import Budget
from qir.search.search import SearchLimits, SearchResult, search
from qir.search.subject import SearchedProgram
from qir.search.units import UnitKind
from qir.targets import Target
from qir.types import Array, DType

WORK = 3 * 2**30
"""Products that one run of a simulation may compute: a tenth of a second on a few cores."""

MOST_ROWS = 64
"""The most rows that units are chosen by; those that integer programs are judged by are as many,
or twice as many in large programs."""

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
    named = pipeline if isinstance(pipeline, str) else str(pipeline)
    place = _place_of_codes(steps, named)
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
    executor = context.executor
    assert executor is not None

    quiet = {name: value for name, value in plain.items() if name != "progress"}

    def run(program: Graph, part: Pipeline, rules: Sequence[RecipeRule], context: Context) -> Graph:
        return optimize(program, part, recipe=list(rules) or None, context=context, **quiet)

    def aside() -> Context:
        return replace(context, diagnostics=[], timings=[], edited=[], unattained=set())

    coded = run(ranged, codes, [], aside())

    def make(rules: Sequence[RecipeRule]) -> Graph:
        if not rules:
            return run(coded, rest, [], aside())
        return run(ranged, tail, rules, aside())

    subject = SearchedProgram(
        context.reference or graph,
        ranged,
        coded,
        make,
        executor,
        run_all,
        rows,
        rows if budget is None else held_out,
        _widening(steps.steps[place], context.target, with_weights=budget is not None),
    )
    start = time.perf_counter()
    result = search(subject, budget, named, limits)
    context.timings.append(("search", time.perf_counter() - start))
    context.edited.append(False)
    if shown:
        integer = optimize(
            graph, steps, data=data, recipe=result.recipe, context=context, **plain, **shown
        )
    else:
        integer = run(ranged, tail, result.recipe.rules, context)
    context.recipe = result.recipe
    told = [result.summary(integer), *filter(None, [result.warning])]
    context.diagnostics += told
    integer.diagnostics += tuple(told)
    return integer, result


_SHOWN = ("dump_dir", "print_after_all", "check")
"""Options that show or check the passes, which are run once more for it with what was found."""


def _widening(
    quantize: Pass, target: Target | None, *, with_weights: bool
) -> dict[UnitKind, dict[str, Any]]:
    """Returns what rules say to give activations and weights 16 bits, where a target has them."""
    found: dict[UnitKind, dict[str, Any]] = {}
    if target is None or target.activations is None or DType.I16 in target.activations:
        found["activations"] = {"activations": "i16"}
    if with_weights and (target is None or target.weights is None or DType.I16 in target.weights):
        found["weights"] = {"weights": "i16"}
        # Blocks are for fewer bits.
        if str(getattr(quantize, "per", "")).startswith("block:"):
            found["weights"]["per"] = "channel"
    return found


def _place_of_codes(pipeline: Pipeline, named: str) -> int:
    """Returns the place of the pass that gives activations codes of 8 bits."""
    for place, step in enumerate(pipeline.steps):
        if step.name == "quantize" and getattr(step, "activations", "float") in ("i8", "u8"):
            return place
    raise QirError(
        "quantize: expected a pipeline that gives activations codes of 8 bits, such as w8a8, to "
        f"search from, got '{named}'; without a budget any is taken"
    )


def _rows(graph: Graph, data: Iterable[Batch]) -> tuple[Sequence[Array], Sequence[Array]]:
    """Returns rows to choose by and others to judge by; of a batch that can't be cut the same."""
    batches = []
    for arrays, sizes in read_batches(graph, data):
        if not sizes.empty:
            batches.append(arrays)
        if len(batches) == 2:
            break
    products = max(1, sum(summary(graph).multiply_adds.values()))
    count = max(2, min(MOST_ROWS, WORK // products))
    most = max(2, min(MOST_ROWS, 2 * WORK // products))
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
