"""The search for the pass that made a program wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from qir.api.optimizing import optimize
from qir.backends.reference.interpreter import run_all
from qir.errors import QirAccuracyWarning, QirError
from qir.ir import Graph, expect_graph
from qir.observe.batches import random_inputs
from qir.passes.shared.calibration_data import first_rows
from qir.pipeline import Batch, Context, Pipeline
from qir.report.accuracy import THRESHOLD
from qir.report.bisection import Bisection, Version, bisect_versions


def bisect(
    graph: Graph,
    data: Iterable[Batch] | None = None,
    pipeline: str | Pipeline = "w8a8",
    *,
    threshold: float = THRESHOLD,
    **options: Any,
) -> Bisection:
    """Finds the pass of a pipeline that makes a program wrong, for writers of passes.

    The pipeline is run once. Then versions of the program are computed on rows of the first batch
    by the reference interpreter, by halves: about four of fifteen.

    Args:
        graph: The program; it stays as it is.
        data: Calibration batches that can be read again; random inputs are tried without.
        pipeline: A named pipeline or passes as text.
        threshold: Signal to noise in dB that an integer program has at the least.
        options: As for `qir.optimize`.

    Returns:
        The pass at fault, if one is, and the smallest part of the program that shows it, as it was
        before the pass and behind it. It prints.

    Raises:
        QirError: As for `qir.optimize`; or the data can be read only once.
    """
    expect_graph(graph, "bisect")
    context = options.setdefault("context", Context())
    first = graph.copy()
    if not any(value.origin for value in first.values()):
        first.record_origins()
    context.versions = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QirAccuracyWarning)
        optimize(first, pipeline, data=data, **options)
    sample = random_inputs(graph) if data is None else first_rows(graph, data)
    if sample is None:
        raise QirError("bisect: expected data that can be read again, got an iterator; give a list")
    versions = [Version("input", True, first)]
    versions += [
        Version(str(step), step.effect != "approximate", after) for step, after in context.versions
    ]
    context.versions = None
    return bisect_versions(versions, sample, run_all, threshold)
