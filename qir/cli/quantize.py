"""`qir quantize`: a float program and samples become an integer program."""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial
from pathlib import Path

from qir.api import check_savable, load, quantize, save
from qir.cli.arguments import Commands, add_program, check_apart, check_suffix, files_of
from qir.cli.pipelines import add_pipeline_options, run_pipeline
from qir.errors import QirAccuracyWarning, QirError
from qir.pipeline import Context
from qir.report.accuracy import THRESHOLD, warning_of
from qir.report.explain import explain
from qir.report.unseen import unseen
from qir.search.budget import BUDGETS
from qir.targets import find_target
from qir.text.files import check_writable

_SWITCHES = (
    "--no-accuracy-check skips this check, --accuracy-threshold sets another threshold; "
    "--pipeline takes passes with such options as quantize(keep_float=[...])"
)


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "quantize",
        help="calibrate a float program on data and make it an integer one",
        description="Calibrates a float program on samples and quantizes it. At the end both "
        "programs are compared on a few samples; an output that is far from the float program's is "
        "told on stderr, with the ops at fault, the cause and what to do; so is an input that held "
        "one number in all samples. The exit status stays 0.",
    )
    command.set_defaults(command=_quantize)
    add_program(command, "the float program, a .qir file")
    command.add_argument(
        "--data",
        type=Path,
        help="samples: .npy for one input, .npz with an array for each input by name; none where "
        "the pipeline does not calibrate, as w8-dynamic",
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="where to write the integer program, a .qir file",
    )
    command.add_argument(
        "-p",
        "--pipeline",
        help="passes, or a named pipeline, or auto: w8a8 with 16 bits for a few activations, where "
        "they gain the most (default: that of the recipe, else w8a8)",
    )
    searching = command.add_argument_group("search")
    searching.add_argument(
        "--budget",
        metavar="'NAME BOUND'",
        help="give 16 bits to as few activations and weights as it takes for the outputs to be as "
        f"near to float's as this: {', '.join(BUDGETS)} and the least that will do, as 'sqnr 30'; "
        "accuracy is the share of samples that go to the class that float puts them in",
    )
    searching.add_argument(
        "--seconds", type=float, help="the longest that a search may take, calibration included"
    )
    searching.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="where to keep what a search has measured; one that finds the file goes on from it",
    )
    searching.add_argument(
        "--save-recipe",
        type=Path,
        metavar="FILE",
        help="where to write the recipe that a search found, for --recipe, a .toml file",
    )
    command.add_argument(
        "--explain",
        action="store_true",
        help="print for every op whether it became integer, and why not; with --recipe which rule "
        "holds for it, with --target what stands in its way",
    )
    check = command.add_mutually_exclusive_group()
    check.add_argument(
        "--accuracy-threshold",
        type=float,
        default=THRESHOLD,
        metavar="DB",
        help="signal to noise below which an output is warned of (default: %(default)s)",
    )
    check.add_argument(
        "--no-accuracy-check",
        action="store_true",
        help="leave out the comparison with the float program, and all warnings",
    )
    add_pipeline_options(command)


def _quantize(options: argparse.Namespace) -> int:
    if options.pipeline is not None and not options.pipeline.strip():
        raise QirError("quantize: expected passes, or a named pipeline such as w8a8, got none")
    inputs = [*files_of(options.program), options.data, options.statistics, options.recipe]
    check_apart(files_of(options.output), inputs, "quantize")
    taken = [*inputs, *files_of(options.output)]
    if options.checkpoint is not None:
        check_apart([options.checkpoint], taken, "quantize")
    if (found := options.save_recipe) is not None:
        if options.budget is None and options.pipeline != "auto":
            raise QirError("quantize: --save-recipe is for a search; give --budget, or -p auto")
        check_suffix(found, (".toml",), "quantize")
        check_writable(found)
        check_apart([found], [*taken, options.checkpoint], "quantize")
    target = None if options.target is None else find_target(options.target, "quantize")
    check_savable(options.output, target=target)
    program = load(options.program)
    context = Context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QirAccuracyWarning)
        integer = run_pipeline(
            options,
            program,
            progress=sys.stderr.isatty(),
            context=context,
            run=partial(
                quantize,
                accuracy_check=not options.no_accuracy_check and options.accuracy_threshold,
                budget=options.budget,
                seconds=options.seconds,
                checkpoint=options.checkpoint,
            ),
        )
    if found is not None:
        assert context.recipe is not None
        context.recipe.save(found)
    # A .qir file holds programs for any target.
    save(integer, options.output, target=None if options.output.suffix == ".qir" else target)
    if target is not None:
        for obstacle in target.obstacles(integer):
            print(f"qir: warning: target {target.name}: {obstacle}", file=sys.stderr)
    if not options.no_accuracy_check:
        for sentence in unseen(program, integer):
            print(f"qir: warning: quantize: {sentence}", file=sys.stderr)
    accuracy = integer.accuracy
    if accuracy is not None and (message := warning_of(accuracy, _SWITCHES)) is not None:
        print(f"qir: warning: {message}", file=sys.stderr)
    if options.explain:
        print(explain(integer, target=target))
    return 0
