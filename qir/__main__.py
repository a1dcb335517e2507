"""The command `qir`: quantize, optimize, run, look into and time programs in files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from qir.cli import bench, opt, partition, quantize, run, summary
from qir.errors import QirError

EPILOG = """\
A program is a `.qir` text with an `.npz` of its arrays beside it; save one from Python by
qir.save(qir.from_jax(function, example), "model.qir").

Selectors, pipelines and passes are listed by `qir opt --list`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 1 after an error of the user's.

    Raises:
        SystemExit: Help was asked for (status 0), or the arguments are wrong (status 2).
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except QirError as error:
        print(f"qir: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"qir: not enough memory{f': {error}' if str(error) else ''}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"qir: can't write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qir",
        description="A quantization compiler: float models in, exact integer programs out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (quantize, opt, run, summary, partition, bench):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
