"""`qir partition`: which ops generated kernels compute, and how."""

from __future__ import annotations

import argparse

from qir.api import compile, load
from qir.cli.arguments import Commands, add_program, add_sizes, sizes
from qir.ir.signature import named_dimensions


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "partition",
        help="show which ops generated kernels compute, and how",
        description="Prints how a program is divided into calls of kernels that are generated for "
        "this CPU, the steps of each call and the memory that they use, and why other ops are "
        "left to XLA.",
    )
    command.set_defaults(command=_partition)
    add_program(command)
    add_sizes(command, default="1")


def _partition(options: argparse.Namespace) -> int:
    graph = load(options.program)
    given = sizes(options.size, "partition")
    ones = dict.fromkeys(named_dimensions(graph.inputs), 1)
    print(compile(graph, kernels=True).partition(ones | given))
    return 0
