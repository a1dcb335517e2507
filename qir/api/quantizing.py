"""From a float program to an integer one, with a look at what that costs."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Iterable
from typing import Any

from qir.analysis.properties import QUANTIZED, is_float_op
from qir.api.optimizing import optimize
from qir.api.searching import quantize_to
from qir.backends.reference.interpreter import run_all
from qir.errors import QirAccuracyWarning, QirError
from qir.ir import Graph, expect_graph
from qir.passes.shared.calibration_data import first_rows
from qir.pipeline import Batch, Context, Pipeline, Recipe
from qir.pipeline.registry import check_options
from qir.report.accuracy import measure, threshold_of, warning_of
from qir.report.endless import MOST_TRIPS
from qir.report.unseen import unseen
from qir.search.budget import Budget, OutputMetric
from qir.search.search import begin

SEARCHING = ("budget", "metric", "seconds", "checkpoint")
"""Options of `quantize` that are about a search."""


def quantize(
    graph: Graph,
    data: Iterable[Batch] | None = None,
    pipeline: str | Pipeline | None = None,
    *,
    budget: str | float | None = None,
    metric: OutputMetric | None = None,
    seconds: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    accuracy_check: bool | float = True,
    context: Context | None = None,
    **options: Any,
) -> Graph:
    """Quantizes a float program; `optimize` with the pipeline that most people want.

    With a budget, `quantize(graph, data, budget="sqnr 30")`, as few activations and weights as it
    takes get 16 bits, those whose rounding makes the most noise in the outputs; with the pipeline
    `auto` at most a seventh of the activations do, where that gains the most. What is chosen is
    told by `qir.explain`, each with its reason; the context's `recipe` holds the rules, which
    can be saved and used without a search.

    At the end both programs are computed on a few rows of the first batch. The figures are the
    result's `accuracy`, what the passes had to say its `diagnostics`; `qir.explain` shows both.

    Args:
        graph: The float program, parts of which may have codes; it stays as it is.
        data: Calibration batches: arrays, tuples of arrays or dicts by input name.
        pipeline: A named pipeline or passes as text; by default that of the recipe, else `w8a8`.
        budget: A measure of the outputs against those of the float program and the least that it
            is to be: `sqnr` in dB, the mean `cosine` of rows, or `accuracy`, the share of rows
            whose greatest number stands where it stands in float, of outputs that are integers the
            share that is the same. It is measured on rows of the data, of the second batch where
            there are several: their ranges are known, others may do worse.
        metric: A function of your own instead: of the outputs of the float program and those of the
            integer program, lists of arrays, to a number that is greater where they are better; the
            budget then is the least that it is to be.
        seconds: The longest that the search may take, calibration included; what was found until
            then is what counts.
        checkpoint: A file to keep in what the search has measured. Where it is there, the search
            goes on from it.
        accuracy_check: Whether to compare the result with the float program, or the signal to
            noise in dB below which an output is warned of, 20 by default. False leaves out all
            that is warned of.
        context: As for `optimize`.
        options: As for `optimize`.

    Warns:
        QirAccuracyWarning: An output is far from that of the float program: below the threshold, by
            rows 10 dB below it, or not finite. It names the worst ops, why, and what to do. Or an
            input held one number only in all of the data, so that others are clamped or ignored.
            Or a search was cut short.

    Raises:
        QirError: As for `optimize`; the budget is met by nothing that was tried, the message has
            the best that was found; the checkpoint is of another search; or an option does not
            exist, or the threshold is no number.
    """
    expect_graph(graph, "quantize")
    own = inspect.signature(optimize).parameters.values()
    names = [each.name for each in own if each.kind is each.KEYWORD_ONLY]
    check_options("quantize", options, [*names, "accuracy_check", "pipeline", *SEARCHING])
    threshold = threshold_of(accuracy_check)
    context = context or Context()
    known = context.sample
    if options.get("recipe") is not None:
        options["recipe"] = recipe = Recipe.of(options["recipe"])
        pipeline = pipeline if pipeline is not None else recipe.pipeline
    pipeline = "w8a8" if pipeline is None else pipeline
    given = (metric, seconds, checkpoint)
    if budget is not None or pipeline == "auto":
        if budget is None and metric is not None:
            raise QirError(
                "quantize: metric is what a budget is measured by, got no budget; auto "
                "measures the signal to noise"
            )
        limits = begin(seconds, checkpoint)
        wanted = None if budget is None else Budget.of(budget, metric)
        base = "w8a8" if pipeline == "auto" else pipeline
        integer, found = quantize_to(graph, data, base, wanted, limits, context, options)
        if found.warning:
            warnings.warn(found.warning, QirAccuracyWarning, stacklevel=2)
    elif name := next(
        (name for name, one in zip(SEARCHING[1:], given, strict=True) if one is not None), None
    ):
        raise QirError(f"quantize: {name} is for a search; give a budget, or the pipeline auto")
    else:
        integer = optimize(graph, pipeline, data=data, context=context, **options)
    if QUANTIZED.missing(integer):
        if any("nothing was quantized" in told for told in integer.diagnostics):
            return integer
        sentence = (
            "quantize: nothing was quantized: the program is a float one still; qir.explain tells "
            "why of each op, and a named pipeline such as w8a8 has all the passes"
        )
        context.diagnostics.append(sentence)
        integer.diagnostics += (sentence,)
        return integer
    if threshold is None or not any(map(is_float_op, graph.walk())):
        return integer
    start = time.perf_counter()
    if data is not None and context.sample is known:  # The pipeline does not calibrate.
        context.sample, context.sample_outputs = first_rows(graph, data), ()
    for sentence in unseen(graph, integer):
        advice = "calibrate on data that varies as in use"
        warnings.warn(f"quantize: {sentence}; {advice}", QirAccuracyWarning, stacklevel=2)
    if context.sample is None:
        sentence = "quantize: the accuracy was not measured, as there was no data to read for it"
        context.diagnostics.append(sentence)
        integer.diagnostics += (sentence,)
        return integer
    integer.accuracy = measure(
        graph, integer, context.sample, run_all, threshold, context.sample_outputs
    )
    context.timings.append(("accuracy-check", time.perf_counter() - start))
    context.edited.append(False)
    if integer.accuracy is None:
        why = f"a loop takes more than {MOST_TRIPS:,} trips"
        sentence = f"quantize: the accuracy was not measured: {why}"
        context.diagnostics.append(sentence)
        integer.diagnostics += (sentence,)
    elif (message := warning_of(integer.accuracy)) is not None:
        warnings.warn(message, QirAccuracyWarning, stacklevel=2)
    return integer
