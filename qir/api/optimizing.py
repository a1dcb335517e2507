"""Passes over a program."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

# Imported to register the passes and pipelines.
import qir.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.analysis.properties import RANGED
from qir.api.devices import devices
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.ir import Graph, expect_graph
from qir.ir.signature import fits
from qir.observe.batches import given_samples, random_inputs
from qir.observe.checkpoint import Checkpoint
from qir.observe.statistics import Statistics, expect_statistics
from qir.pipeline import Batch, Context, PassManager, Pipeline, Recipe, RecipeLike
from qir.targets import Target, find_target
from qir.types import Array


def optimize(
    graph: Graph,
    pipeline: str | Pipeline,
    *,
    data: Iterable[Batch] | None = None,
    statistics: Statistics | None = None,
    seed: int = 0,
    progress: bool = False,
    dump_dir: str | os.PathLike[str] | None = None,
    print_after_all: TextIO | None = None,
    check: bool | Array | Sequence[Array] = False,
    target: str | Target | None = None,
    recipe: RecipeLike | None = None,
    context: Context | None = None,
) -> Graph:
    """Runs a pipeline and returns a new graph.

    Args:
        graph: The program; it stays as it is.
        pipeline: Passes as text, such as `"fold-batch-norm, calibrate(method=entropy)"`, or a
            Pipeline.
        data: Calibration batches: arrays, tuples of arrays or dicts by input name.
        statistics: What an earlier calibration observed, to be solved again without data; it stays
            as it is, and the context gets a copy.
        seed: Seed of anything random.
        progress: Whether long passes show a progress bar.
        dump_dir: Folder for the text after every pass.
        print_after_all: Stream for the text after every pass.
        check: Whether to compute the program after every pass and compare; on random inputs, or on
            the given ones: a sequence of arrays, one for each input, or an array for a single one.
        target: The runtime that the program is for, one of `qir.targets`, by its name or itself:
            options at their default follow it, and what it does not accept is not made.
        recipe: What some ops have otherwise than the options of passes say: a `qir.Recipe`, the
            path of a TOML file with one, or a list of `qir.RecipeRule` or of dicts of its fields.
        context: Filled by the run: diagnostics, statistics and timings; a new one when None. A
            program goes on with the statistics that one has of its model.

    Raises:
        QirError: A pass, an option or a selector does not exist, data is missing or not finite, a
            pass failed, or there is no data and the statistics are of another model.
    """
    expect_graph(graph, "optimize")
    steps = pipeline if isinstance(pipeline, Pipeline) else Pipeline.parse(pipeline)
    context = context or Context()
    context.data, context.seed, context.progress = data, seed, progress
    context.target = None if target is None else find_target(target, "target")
    context.recipe = None if recipe is None else Recipe.of(recipe)
    context.interpreter = run_all
    if statistics is not None:
        expect_statistics(statistics)
        context.statistics = statistics.copy()
    if data is None or statistics is not None:
        context.statistics.check(graph)
    elif context.statistics.difference(graph):
        context.statistics = Statistics()
    if context.sample is not None and not fits(graph.inputs, context.sample):
        context.sample, context.sample_outputs = None, ()
    if data is not None:
        from qir.backends.xla.executor import XlaExecutor

        context.executor = XlaExecutor()
    samples = given_samples(graph, check)
    inputs = random_inputs(graph, seed) if samples is True else samples
    manager = PassManager(
        steps,
        Path(dump_dir) if dump_dir is not None else None,
        print_after_all,
        None if inputs is False else inputs,
    )
    with devices():
        return manager.run(graph, context)


def calibrate(
    graph: Graph,
    data: Iterable[Batch],
    pipeline: str | Pipeline = "w8a8",
    *,
    target: str | Target | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> Statistics:
    """Observes a float program on data: what `quantize` and `optimize` take as `statistics=`.

    Statistics serve any method and any number of bits. They are of the values that there are when
    the pipeline calibrates; pipelines that prepare programs alike, as `w8a8`, `w4a8` and `log4` do,
    share them, and for a network without attention all do.

    Args:
        graph: The float program; it stays as it is.
        data: Calibration batches: arrays, tuples of arrays or dicts by input name.
        pipeline: The pipeline that they are for: its passes up to `calibrate` are run.
        target: The runtime that they are for, which may have attention computed in other ops.
        checkpoint: Where to keep the statistics of the batches counted so far. Where the file is
            there already, the calibration goes on behind them: what comes out is equal to the last
            byte to that of a run without interrupt. See `qir.observe.checkpoint.Checkpoint`.
        every: Batches between one writing of the checkpoint and the next.
        seed: Seed of anything random.
        progress: Whether to show a progress bar.

    Raises:
        QirError: As for `optimize`; the pipeline does not calibrate; or the checkpoint is of
            another calibration.
    """
    expect_graph(graph, "calibrate")
    steps = pipeline if isinstance(pipeline, Pipeline) else Pipeline.parse(pipeline)
    last = next((index for index, step in enumerate(steps.steps) if RANGED in step.ensures), None)
    if last is None:
        raise QirError(
            f"calibrate: expected a pipeline with the pass calibrate, got '{pipeline}'; without "
            "it no statistics are needed"
        )
    context = Context()
    if checkpoint is not None:
        context.checkpoint = Checkpoint(Path(checkpoint), every)
        context.statistics = context.checkpoint.statistics.copy()
    optimize(
        graph,
        Pipeline(steps.steps[: last + 1], steps.allow),
        data=data,
        target=target,
        seed=seed,
        progress=progress,
        context=context,
    )
    return context.statistics
