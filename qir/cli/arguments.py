"""Arguments that several commands take, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TypeAlias

from qir.backends import WRITERS
from qir.errors import QirError
from qir.types.names import check_dimension

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where a command adds itself."""

MOST = 2**31 - 1
"""The greatest number that an option takes: more elements than that no axis has in memory."""


def add_program(command: argparse.ArgumentParser, help: str = "the program, a .qir file") -> None:
    """Adds the program that a command works on."""
    command.add_argument("program", type=Path, help=help)


def add_seed(command: argparse.ArgumentParser, what: str) -> None:
    """Adds the seed of what is random."""
    command.add_argument(
        "--seed", type=at_least(0), default=0, help=f"seed of {what} (default: %(default)s)"
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
        QirError: One is not of the form NAME=SIZE, or a size is out of bounds.
    """
    found = {}
    for text in given:
        name, _, size = text.partition("=")
        try:
            checked, number = check_dimension(name), int(size)
        except (QirError, ValueError):
            raise QirError(f"{subject}: expected NAME=SIZE, got '{text}'") from None
        if broken := _broken_bound(number, 0):
            raise QirError(f"{subject}: expected {checked} to be {broken}, got {number}")
        found[checked] = number
    return found


def files_of(program: Path) -> list[Path]:
    """Returns the files of a program: the one that is named, and those beside it."""
    if program.suffix not in WRITERS.suffixes:
        return [program]
    companions = WRITERS.find_for(program, "program").companions
    return [program, *map(program.with_suffix, companions)]


def check_suffix(output: Path, suffixes: Sequence[str], subject: str) -> None:
    """Raises QirError for a file whose name says that it holds something else; pipes may."""
    if output.suffix not in suffixes and (output.is_file() or not output.exists()):
        raise QirError(
            f"{subject}: expected a path ending in {' or '.join(suffixes)}, got {output}"
        )


def check_apart(outputs: Sequence[Path], inputs: Sequence[Path | None], subject: str) -> None:
    """Checks that a command writes no file that it reads, by whichever links.

    Args:
        outputs: What it writes, first what the user named.
        inputs: What it reads.
        subject: What errors begin with.

    Raises:
        QirError: A file is both.
    """
    for path, read in product(outputs, inputs):
        with suppress(OSError):
            if read is None or not path.is_file() or not path.samefile(read):
                continue
            beside = "" if path == outputs[0] else f", which is written beside {outputs[0]}"
            raise QirError(f"{subject}: expected an output that is no input, got {path}{beside}")


def at_least(least: int) -> Callable[[str], int]:
    """Returns a reader of whole numbers from a least one to `MOST`, as argparse wants it."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # of text, or of thousands of digits
            raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'") from None
        if broken := _broken_bound(number, least):
            raise argparse.ArgumentTypeError(f"expected {broken}, got {number}")
        return number

    return read


def _broken_bound(number: int, least: int) -> str:
    if number < least:
        return f"at least {least}"
    return f"at most {MOST}" if number > MOST else ""
