"""The command `qir`: quantize, optimize, run, look into and time programs in files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import qir
from qir.cli import bench, calibrate, compare, opt, partition, quantize, run, score, summary
from qir.errors import QirError, did_you_mean

EPILOG = """\
A program is a `.qir` text with an `.npz` of its arrays beside it; save one from Python by
qir.save(qir.from_jax(function, example), "model.qir").

Selectors, pipelines and passes are listed by `qir opt --list`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Returns:
        0, 1 after an error of the user's, or 130 where the user interrupted it.

    Raises:
        SystemExit: Help was asked for (status 0), or the arguments are wrong (status 2).
    """
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except QirError as error:
        print(f"qir: {error}", file=sys.stderr)
    except MemoryError as error:
        print(f"qir: not enough memory{f': {error}' if str(error) else ''}", file=sys.stderr)
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        if error.filename is None:
            _drop_output()
        place = error.filename or "the output"
        print(f"qir: can't write {place}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("qir: interrupted", file=sys.stderr)
        return 130
    else:
        return status
    return 1


def _drop_output() -> None:
    """Lets what was printed and can't be written go nowhere, or Python would try it once more."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="qir",
        description="A quantization compiler: float models in, exact integer programs out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qir {qir.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (calibrate, quantize, compare, opt, run, score, summary, partition, bench):
        command.add(commands)
    word = next(iter(arguments), "-")
    if word not in commands.choices and not word.startswith("-"):
        parser.error(f"no command '{word}'{did_you_mean(word, commands.choices)}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
