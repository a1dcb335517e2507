"""`qir summary`: what a program costs, from its types."""

from __future__ import annotations

import argparse
from pathlib import Path

from qir.api import load
from qir.cli.arguments import Commands, add_program, add_sizes, check_suffix, sizes
from qir.report.plots import SUFFIXES, check_plots, drawing, save_plot
from qir.report.summary import summary
from qir.text.files import check_writable


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
    command.add_argument(
        "--draw",
        type=Path,
        metavar="FILE",
        help="also draw the ops and what reads what, into an .svg, .png or .pdf file; needs "
        "matplotlib (the extra plot)",
    )


def _summary(options: argparse.Namespace) -> int:
    page: Path | None = options.draw
    if page is not None:
        check_writable(page)
        check_suffix(page, SUFFIXES, "summary")
        check_plots()
    graph = load(options.program)
    print(summary(graph, sizes(options.size, "summary")))
    if page is not None:
        save_plot(drawing(graph), page)
    return 0
