"""`qir summary`: what a program costs, from its types."""

from __future__ import annotations

import argparse

from qir.api import load
from qir.cli.arguments import Commands, add_program, add_sizes, sizes
from qir.report.summary import summary


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "summary",
        help="estimate parameters, bytes, multiply-accumulates and memory",
        description="Prints for every op and in total what a program costs, from its types alone.",
    )
    command.set_defaults(command=_summary)
    add_program(command)
    add_sizes(command, default="1")


def _summary(options: argparse.Namespace) -> int:
    print(summary(load(options.program), sizes(options.size, "summary")))
    return 0
