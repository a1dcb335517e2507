"""The command `qir`: quantize, optimize, run and summarize programs in files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qir.api import compile, evaluate, optimize
from qir.attributes import attribute_fields, describe
from qir.errors import QirError
from qir.explain import explain
from qir.inputs import batches, random_inputs, read_samples
from qir.ir import Graph
from qir.pipeline import PASSES, PIPELINES, Context
from qir.storage import load, save, write_arrays, write_atomically
from qir.summary import summary
from qir.types import Array

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
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.command(options)
    except QirError as error:
        print(f"qir: {error}", file=sys.stderr)
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
    _add_quantize(commands)
    _add_opt(commands)
    _add_run(commands)
    _add_summary(commands)
    return parser


def _add_quantize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "quantize",
        help="calibrate a float program on data and make it an integer one",
        description="Calibrates a float program on samples and quantizes it.",
    )
    command.set_defaults(command=_quantize)
    command.add_argument("program", type=Path, help="the float program, a .qir file")
    command.add_argument(
        "--data",
        type=Path,
        required=True,
        help="samples: .npy for one input, .npz with an array for each input by name",
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
        default="w8a8",
        help="passes, or a named pipeline (default: %(default)s)",
    )
    command.add_argument(
        "--batch-size",
        type=_positive,
        default=32,
        help="samples a batch where the program leaves it open (default: %(default)s)",
    )
    command.add_argument(
        "--explain",
        action="store_true",
        help="print for every op whether it became integer, and why not",
    )
    _add_pass_options(command)


def _add_opt(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
        "--batch-size",
        type=_positive,
        default=32,
        help="samples a batch where the program leaves it open (default: %(default)s)",
    )
    command.add_argument(
        "--list", action="store_true", help="list passes with their options, and named pipelines"
    )
    _add_pass_options(command)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _add_pass_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dump-dir", type=Path, help="folder for the text after every pass")
    command.add_argument(
        "--print-after-all", action="store_true", help="print the text after every pass to stderr"
    )
    command.add_argument(
        "--verify-each",
        action="store_true",
        help="compute the program after every pass with the reference interpreter and compare",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="seed of anything random (default: %(default)s)"
    )


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "run",
        help="compute a program's outputs",
        description="Computes a program on arrays from a file, or on random ones, and prints or "
        "writes the outputs.",
    )
    command.set_defaults(command=_run)
    command.add_argument("program", type=Path, help="the program, a .qir file")
    command.add_argument(
        "--input", type=Path, help=".npy for one input, .npz with an array for each input by name"
    )
    command.add_argument(
        "--backend",
        choices=["xla", "reference", "both"],
        default="xla",
        help="both: run, compare, and exit with status 1 where numbers differ",
    )
    command.add_argument(
        "-o", "--output", type=Path, help="where to write the outputs, an .npz file"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="seed of random inputs (default: %(default)s)"
    )


def _add_summary(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "summary",
        help="estimate parameters, bytes, multiply-accumulates and memory",
        description="Prints for every op and in total what a program costs, from its types alone.",
    )
    command.set_defaults(command=_summary)
    command.add_argument("program", type=Path, help="the program, a .qir file")
    command.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="size of a named dimension, such as B=8 (default: 1); may be given several times",
    )


def _summary(options: argparse.Namespace) -> int:
    sizes = {}
    for given in options.size:
        name, _, size = given.partition("=")
        if not name or not size.isdecimal():
            raise QirError(f"summary: expected NAME=SIZE, got '{given}'")
        sizes[name] = int(size)
    print(summary(load(options.program), sizes))
    return 0


def _quantize(options: argparse.Namespace) -> int:
    integer = _optimize(options, load(options.program), progress=sys.stderr.isatty())
    save(integer, options.output)
    if options.explain:
        print(explain(integer))
    return 0


def _opt(options: argparse.Namespace) -> int:
    if options.list:
        _list_passes()
        return 0
    if options.program is None:
        raise QirError("opt: expected a program, or --list")
    result = _optimize(options, load(options.program))
    if options.output is None:
        print(result)
    else:
        save(result, options.output)
    return 0


def _optimize(options: argparse.Namespace, graph: Graph, progress: bool = False) -> Graph:
    data = _read_data(options, graph) if options.data is not None else None
    context = Context()
    result = optimize(
        graph,
        options.pipeline,
        data=data,
        seed=options.seed,
        progress=progress,
        dump_dir=options.dump_dir,
        print_after_all=sys.stderr if options.print_after_all else None,
        check=options.verify_each,
        context=context,
    )
    for sentence in context.diagnostics:
        print(sentence, file=sys.stderr)
    return result


def _read_data(options: argparse.Namespace, graph: Graph) -> list[dict[str, Array]]:
    samples = read_samples(options.data, graph)
    data = list(batches(samples, graph, options.batch_size))
    for name, array in samples.items():
        if left := len(array) - sum(len(batch[name]) for batch in data):
            size = len(data[0][name])
            print(
                f"qir: the last {left} of {len(array)} samples are left out: "
                f"the program takes {size} at a time",
                file=sys.stderr,
            )
            break
    return data


def _list_passes() -> None:
    print("passes:")
    for name, cls in sorted(PASSES.items()):
        print(f"  {name}: {(cls.__doc__ or '').strip().splitlines()[0]}")
        for spec in attribute_fields(cls):
            print(f"      {spec.name}: {describe(spec.annotation)} (default: {spec.default})")
    print("pipelines:")
    for name, text in sorted(PIPELINES.items()):
        print(f"  {name} = {text}")


def _run(options: argparse.Namespace) -> int:
    graph = load(options.program)
    inputs: Sequence[Array] = random_inputs(graph, options.seed)
    if options.input is not None:
        samples = read_samples(options.input, graph)
        inputs = [samples[value.name] for value in graph.inputs]
    names = [value.name for value in graph.outputs]
    outputs: Sequence[Array] = ()
    status = 0
    if options.backend != "reference":
        outputs = [np.asarray(array) for array in compile(graph)(*inputs)]
    if options.backend != "xla":
        reference = evaluate(graph, *inputs)
        if options.backend == "both":
            status = int(_compare(names, outputs, reference) > 0)
        outputs = reference
    if options.output is not None:
        arrays = dict(zip(names, outputs, strict=True))
        write_atomically({options.output: lambda file: write_arrays(file, arrays)})
        return status
    for name, array in zip(names, outputs, strict=True):
        print(f"%{name}: {array.dtype}{list(array.shape)}\n{array}")
    return status


def _compare(names: Sequence[str], outputs: Sequence[Array], reference: Sequence[Array]) -> int:
    """Prints for each output in how many numbers it differs, and returns their sum."""
    total = 0
    for name, array, right in zip(names, outputs, reference, strict=True):
        both_nan = (array != array) & (right != right)
        different = int(np.count_nonzero((array != right) & ~both_nan))
        total += different
        print(
            f"%{name}: {different} of {right.size} numbers differ between XLA and the reference",
            file=sys.stderr,
        )
    return total


if __name__ == "__main__":
    sys.exit(main())
