"""Arguments that several commands take, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from qir.errors import QirError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a command adds itself."""


def add_program(command: argparse.ArgumentParser, help: str = "the program, a .qir file") -> None:
    """Adds the program that a command works on."""
    command.add_argument("program", type=Path, help=help)


def add_seed(command: argparse.ArgumentParser, what: str) -> None:
    """Adds the seed of what is random."""
    command.add_argument(
        "--seed", type=int, default=0, help=f"seed of {what} (default: %(default)s)"
    )


def add_sizes(command: argparse.ArgumentParser, default: str) -> None:
    """Adds the sizes of named dimensions; read them with `sizes`."""
    command.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help=f"size of a named dimension, such as B=8 (default: {default}); "
        "may be given several times",
    )


def sizes(given: Sequence[str], subject: str) -> dict[str, int]:
    """Returns the sizes of named dimensions.

    Raises:
        QirError: One is not of the form NAME=SIZE.
    """
    found = {}
    for text in given:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal():
            raise QirError(f"{subject}: expected NAME=SIZE, got '{text}'")
        found[name] = int(size)
    return found


def positive(text: str) -> int:
    """Reads a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number
