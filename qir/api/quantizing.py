"""From a float program to an integer one, with a look at what that costs."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Iterable
from typing import Any

from qir.analysis.properties import QUANTIZED, is_float_op
from qir.api.optimizing import optimize
from qir.backends.reference.interpreter import run_all
from qir.errors import QirAccuracyWarning
from qir.ir import Graph, expect_graph
from qir.passes.shared.calibration_data import first_rows
from qir.pipeline import Batch, Context, Pipeline, Recipe
from qir.pipeline.registry import check_options
from qir.report.accuracy import measure, threshold_of, warning_of
from qir.report.endless import MOST_TRIPS
from qir.report.unseen import unseen


def quantize(
    graph: Graph,
    data: Iterable[Batch] | None = None,
    pipeline: str | Pipeline | None = None,
    *,
    accuracy_check: bool | float = True,
    context: Context | None = None,
    **options: Any,
) -> Graph:
    """Quantizes a float program; `optimize` with the pipeline that most people want.

    At the end both programs are computed on a few rows of the first batch. The figures are the
    result's `accuracy`, what the passes had to say its `diagnostics`; `qir.explain` shows both.

    Args:
        graph: The float program, parts of which may have codes; it stays as it is.
        data: Calibration batches: arrays, tuples of arrays or dicts by input name.
        pipeline: A named pipeline or passes as text; by default that of the recipe, else `w8a8`.
        accuracy_check: Whether to compare the result with the float program, or the signal to
            noise in dB below which an output is warned of, 20 by default. False leaves out all
            that is warned of.
        context: As for `optimize`.
        options: As for `optimize`.

    Warns:
        QirAccuracyWarning: An output is far from that of the float program: below the threshold, by
            rows 10 dB below it, or not finite. It names the worst ops, why, and what to do. Or an
            input held one number only in all of the data, so that others are clamped or ignored.

    Raises:
        QirError: As for `optimize`; or an option does not exist, or the threshold is no number.
    """
    expect_graph(graph, "quantize")
    own = inspect.signature(optimize).parameters.values()
    names = [each.name for each in own if each.kind is each.KEYWORD_ONLY]
    check_options("quantize", options, [*names, "accuracy_check", "pipeline"])
    threshold = threshold_of(accuracy_check)
    context = context or Context()
    known = context.sample
    if options.get("recipe") is not None:
        options["recipe"] = recipe = Recipe.of(options["recipe"])
        pipeline = pipeline if pipeline is not None else recipe.pipeline
    pipeline = "w8a8" if pipeline is None else pipeline
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
