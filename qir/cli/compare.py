"""`qir compare`: where the accuracy of an integer program went."""

from __future__ import annotations

import argparse
from pathlib import Path

from qir.api import compare, load
from qir.cli.arguments import Commands, at_least, check_apart, check_suffix, files_of
from qir.cli.pipelines import add_batch_size, read_data
from qir.report.compare.comparing import SAMPLES
from qir.text.files import check_writable, write_atomically


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "compare",
        help="tell value by value where the accuracy of an integer program went",
        description="Computes a float program and the integer one that was made of it on samples. "
        "Prints how far each value is, what of that its op makes itself, which values cost the "
        "outputs most, and what each remedy would bring back.",
    )
    command.set_defaults(command=_compare)
    command.add_argument("float_program", type=Path, help="the float program, a .qir file")
    command.add_argument(
        "integer_program", type=Path, help="the program that was made of it, a .qir file"
    )
    command.add_argument("--data", type=Path, required=True, help="samples, as for qir quantize")
    command.add_argument(
        "--samples",
        type=at_least(1),
        default=SAMPLES,
        help="how many of the first samples are compared (default: %(default)s)",
    )
    command.add_argument(
        "-p",
        "--pipeline",
        help="what the integer program was made by: it is made again with the best remedy "
        "(default: that of the recipe, else w8a8)",
    )
    command.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="the recipe that it was made by, such as a search has left",
    )
    command.add_argument(
        "--no-measure",
        action="store_true",
        help="leave out quantizing again with the best remedy of the first culprit",
    )
    command.add_argument("--json", action="store_true", help="print JSON, all values among it")
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="also write the JSON, a .json file"
    )
    add_batch_size(command)


def _compare(options: argparse.Namespace) -> int:
    if options.output is not None:
        check_writable(options.output)
        check_suffix(options.output, (".json",), "compare")
        read = [*files_of(options.float_program), *files_of(options.integer_program)]
        check_apart([options.output], [*read, options.data, options.recipe], "compare")
    graph = load(options.float_program)
    found = compare(
        graph,
        load(options.integer_program),
        read_data(options, graph),
        samples=options.samples,
        measure=not options.no_measure,
        pipeline=options.pipeline,
        recipe=options.recipe,
    )
    text = found.as_json() + "\n"
    if options.output is not None:
        write_atomically({options.output: lambda file: file.write(text.encode())})
    print(text if options.json else found, end="" if options.json else "\n")
    return 0
