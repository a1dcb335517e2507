"""`qir opt`: passes over a program, and the list of them."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from qir.api import bisect, check_savable, load, save
from qir.cli.arguments import Commands, check_apart, files_of
from qir.cli.pipelines import add_pipeline_options, read_data, run_pipeline
from qir.errors import QirError
from qir.observe.methods import METHODS
from qir.ops.attributes import attribute_fields, describe
from qir.pipeline import PASSES, PIPELINES
from qir.pipeline.selectors import SELECTORS


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "opt",
        help="run passes over a program and print or write the result",
        description="Runs passes over a program. Without -o the result is printed.",
    )
    command.set_defaults(command=_opt)
    command.add_argument("program", type=Path, nargs="?", help="the program, a .qir file")
    command.add_argument(
        "-p", "--pipeline", default="", help='passes, such as "canonicalize, fold-batch-norm"'
    )
    command.add_argument(
        "-o", "--output", type=Path, help="where to write the program, a .qir file"
    )
    command.add_argument(
        "--data", type=Path, help="samples for passes that calibrate, as for qir quantize"
    )
    command.add_argument(
        "--list",
        action="store_true",
        help="list passes with their options, named pipelines, and how ops are selected",
    )
    command.add_argument(
        "--bisect",
        action="store_true",
        help="print no program but which pass makes it wrong, and the smallest part that shows it",
    )
    add_pipeline_options(command)


def _opt(options: argparse.Namespace) -> int:
    if options.list:
        _list_passes()
        return 0
    if options.program is None:
        raise QirError("opt: expected a program, or --list")
    if options.output is not None:
        inputs = [*files_of(options.program), options.data, options.statistics, options.recipe]
        check_apart(files_of(options.output), inputs, "opt")
        check_savable(options.output)
    if options.bisect:
        if not options.pipeline:
            raise QirError("opt: expected passes to bisect, as -p w8a8, got none")
        graph = load(options.program)
        data = None if options.data is None else read_data(options, graph)
        found = bisect(
            graph,
            data,
            options.pipeline,
            seed=options.seed,
            target=options.target,
            recipe=options.recipe,
        )
        print(found)
        return int(found.guilty is not None)
    result = run_pipeline(options, load(options.program))
    if options.output is None:
        print(result)
    else:
        save(result, options.output)
    return 0


def _list_passes() -> None:
    print("passes:")
    for name, cls in sorted(PASSES.items()):
        print(f"  {name}: {(cls.__doc__ or '').strip().splitlines()[0]}")
        for spec in attribute_fields(cls):
            print(f"      {spec.name}: {describe(spec.annotation)} (default: {spec.default})")
    print("calibration methods, calibrate(method=…, …):")
    for name, method in sorted(METHODS.items()):
        print(f"  {name}: {(method.__doc__ or '').strip().splitlines()[0]}")
        for spec in attribute_fields(method):
            print(f"      {spec.name}: {describe(spec.annotation)} (default: {spec.default})")
    print("pipelines:")
    for name, text in sorted(PIPELINES.items()):
        print(f"  {name} = {text}")
    print(f"selectors:\n{textwrap.indent(SELECTORS, '  ')}")
