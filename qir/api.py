"""The words that users see: import, quantize, compile, evaluate, save."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, overload

# Imported to register the passes and pipelines.
import qir.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.analysis.properties import QUANTIZED, RANGED, is_float_op
from qir.backends import (
    RUNNERS,
    Runnable,
    check_backend_options,
    expect_files,
    find_writer,
)
from qir.backends.reference.interpreter import run, run_all
from qir.errors import QirAccuracyWarning, QirError, kind_of
from qir.frontends import READERS, read_model
from qir.ir import Graph, expect_graph
from qir.ir.signature import fits
from qir.observe.batches import given_samples, random_inputs
from qir.observe.checkpoint import Checkpoint
from qir.observe.statistics import Statistics, expect_statistics
from qir.passes.shared.calibration_data import first_rows
from qir.passes.shared.raising import raise_imported
from qir.pipeline import Batch, Context, PassManager, Pipeline
from qir.pipeline.registry import check_options
from qir.report.accuracy import measure, threshold_of, warning_of
from qir.report.endless import MOST_TRIPS
from qir.report.unseen import unseen
from qir.targets import Target, find_target, refuse
from qir.text.files import check_companions, check_writable, write_atomically
from qir.types import Array

if TYPE_CHECKING:
    from qir.backends.xla.compile import Compiled


def from_jax(
    function: Callable[..., Any],
    *example: Any,
    weight_argnums: int | Sequence[int] = (),
    batch: str | None = None,
    name: str | None = None,
) -> Graph:
    """Imports a JAX function; see `qir.frontends.jaxpr.from_jax`.

    The pipeline `raise` finds the ops in what the frontend translates. A rule of it that fails
    leaves the ops as they are; the graph's diagnostics say so.
    """
    with _devices():
        from qir.frontends.jaxpr import from_jax as import_function

        return import_function(
            function,
            *example,
            weight_argnums=weight_argnums,
            batch=batch,
            name=name,
            improve=_raise,
        )


def _raise(graph: Graph) -> None:
    """Raises the decomposed forms of an imported program to ops, in place."""
    raise_imported(graph, Pipeline.parse("raise").steps)


@contextmanager
def _devices() -> Generator[None]:
    """Says in a sentence that jax has no device to run on, which it says in many ways."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        import jax

        try:
            jax.devices()
        except (AssertionError, RuntimeError) as reason:
            asked = os.environ.get("JAX_PLATFORMS", "")
            raise QirError(
                f"jax: found no device for JAX_PLATFORMS='{asked}'; "
                "unset it, or set it to cpu, to run on what is there",
                str(reason).splitlines()[:1],
            ) from error
        raise


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
    with _devices():
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


def quantize(
    graph: Graph,
    data: Iterable[Batch] | None = None,
    pipeline: str | Pipeline = "w8a8",
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
        pipeline: A named pipeline or passes as text.
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


@overload
def compile(
    graph: Graph,
    backend: Literal["xla"] = "xla",
    *,
    report: bool = False,
    measure: bool = False,
    kernels: bool | None = None,
    check: bool | Array | Sequence[Array] = False,
) -> Compiled: ...


@overload
def compile(graph: Graph, backend: str, *, report: bool = False, **options: Any) -> Runnable: ...


def compile(
    graph: Graph, backend: str = "xla", *, report: bool = False, **options: Any
) -> Runnable:
    """Compiles a program to one callable; that of XLA composes with `jax.jit`.

    See `qir.backends.xla.compile.Compiled`. Many ops can be computed in several ways, all of which
    give the same integers. Which one is the fastest was measured on this machine, or else is
    guessed. Compiling never measures of itself, because that compiles and runs every way, which
    takes half a second or more for each kind of op; the results are kept in `$QIR_CACHE_DIR`, else
    `$XDG_CACHE_HOME/qir`, else `~/.cache/qir`, and later calls use them.

    Args:
        graph: The program.
        backend: What runs it: `xla`, `reference` (numpy, slow, what all others are compared with),
            or what was added to `qir.backends.RUNNERS`.
        report: Whether to print how it is computed: for XLA, which way each op took and why;
            `Compiled.report` is the same text.
        options: Those of the backend. `xla` has these:
            measure: whether to measure first what has not been measured on this machine, and no
            kernel computes.
            kernels: whether to compute by machine code that QIR generates for this CPU, with the
            same integers; None to do so where llvmlite (the extra `cpu`) and a kernel are there.
            check: whether to compare the program with the reference interpreter first, on random
            and extreme inputs or on the given ones: a sequence of arrays, one for each input, or an
            array for a single one. Integers must be equal, floats as near as roundings let them be.
            XLA has computed wrong numbers before. Where it does, the op at fault takes its next
            way, or XLA's instead of a kernel; the report says so, and the cache keeps it for later
            calls.

    Raises:
        QirError: The backend or the option does not exist, it has no rule for an op, kernels are
            insisted on where there are none, or every way to compute an op is wrong: the op, its
            place and the difference are named.
    """
    expect_graph(graph, "compile")
    with _devices():
        runner = RUNNERS.find(backend, "compile")
        check_backend_options(runner, backend, options)
        if backend == "xla" and "check" in options:
            options["check"] = given_samples(graph, options["check"])
        compiled = runner(graph, **options)
    if not callable(compiled):
        raise QirError(
            f"compile: expected the backend '{backend}' to return a function of arrays, got "
            f"{kind_of(compiled)}"
        )
    if report:
        print(getattr(compiled, "report", f"the backend '{backend}' has no report"))
    return compiled


def save(graph: Graph, path: str | os.PathLike[str], *, target: str | Target | None = None) -> None:
    """Writes a program in the format of the path's suffix: `.qir`, with its arrays in an `.npz`.

    All files are written under temporary names and then renamed, so that none is ever half there
    and an error leaves what was there before. See `qir.backends.WRITERS` for further formats.

    Args:
        graph: The program.
        path: The path.
        target: The runtime that the program is for, one of `qir.targets`. Where no writer has the
            suffix, the one that has the target's name writes the file.

    Raises:
        QirError: No writer has the suffix, the target does not accept the program or is not the
            writer's, the program can't be said in its format, the path can't be written, or a file
            of another kind lies where one that goes with it would.
    """
    expect_graph(graph, "save")
    place = Path(path)
    writer, runtime = find_writer(place, target)
    if runtime is not None:
        refuse(runtime.obstacles(graph), runtime, "save")
    files = expect_files(writer.files(graph, place), place)
    check_companions(place, [companion for companion in files if companion != place])
    write_atomically(files)


def check_savable(path: str | os.PathLike[str], *, target: str | Target | None = None) -> None:
    """Raises QirError where `save` could not write a program: before the work on it begins."""
    place = Path(path)
    companions = [place.with_suffix(suffix) for suffix in find_writer(place, target)[0].companions]
    check_companions(place, companions)
    check_writable(place, *companions)


def load(path: str | os.PathLike[str], *, format: str | None = None) -> Graph:
    """Reads a model in the format of the path's suffix: `.qir`, as `save` writes it.

    See `qir.frontends.READERS` for further formats, what they read is raised as by `from_jax`.

    Args:
        path: The path; files that belong to it, such as the `.npz` of arrays, are read beside it.
        format: The name of the format, where the suffix does not tell it.

    Raises:
        QirError: No reader has the suffix or the name; a file is missing, truncated or corrupted,
            or belongs to another; or it holds something that QIR has no rule for.
    """
    source = Path(path)
    name = READERS.name_for(source, "load") if format is None else format
    graph = read_model(source, name, "load")
    if name != "qir":
        _raise(graph)
    return graph


def evaluate(graph: Graph, *inputs: Any) -> tuple[Array, ...]:
    """Computes a program with the reference interpreter.

    Every backend reproduces its integers bit for bit.

    Args:
        graph: The program.
        inputs: One array for each input; stored numbers where the input has a code.

    Returns:
        One array for each output.

    Raises:
        QirError: An input does not fit, or a stored number leaves its type.
    """
    expect_graph(graph, "evaluate")
    return run(graph, *inputs)
