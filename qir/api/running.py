"""Programs as functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from qir.api.devices import devices
from qir.backends import RUNNERS, Runnable, check_backend_options
from qir.backends.reference.interpreter import run
from qir.errors import QirError, kind_of
from qir.ir import Graph, expect_graph
from qir.observe.batches import given_samples
from qir.types import Array

if TYPE_CHECKING:
    from qir.backends.xla.compile import Compiled


@overload
def compile(
    graph: Graph,
    backend: Literal["xla"] = "xla",
    *,
    report: bool = False,
    measure: bool = False,
    kernels: bool | None = None,
    check: bool | Array | Sequence[Array] = False,
) -> Compiled: ...


@overload
def compile(graph: Graph, backend: str, *, report: bool = False, **options: Any) -> Runnable: ...


def compile(
    graph: Graph, backend: str = "xla", *, report: bool = False, **options: Any
) -> Runnable:
    """Compiles a program to one callable; that of XLA composes with `jax.jit`.

    See `qir.backends.xla.compile.Compiled`. Many ops can be computed in several ways, all of which
    give the same integers. Which one is the fastest was measured on this machine, or else is
    guessed. Compiling never measures of itself, because that compiles and runs every way, which
    takes half a second or more for each kind of op; the results are kept in `$QIR_CACHE_DIR`, else
    `$XDG_CACHE_HOME/qir`, else `~/.cache/qir`, and later calls use them.

    Args:
        graph: The program.
        backend: What runs it: `xla`, `reference` (numpy, slow, what all others are compared with),
            or what was added to `qir.backends.RUNNERS`.
        report: Whether to print how it is computed: for XLA, which way each op took and why;
            `Compiled.report` is the same text.
        options: Those of the backend. `xla` has these:
            measure: whether to measure first what has not been measured on this machine, and no
            kernel computes.
            kernels: whether to compute by machine code that QIR generates for this CPU, with the
            same integers; None to do so where llvmlite (the extra `cpu`) and a kernel are there.
            check: whether to compare the program with the reference interpreter first, on random
            and extreme inputs or on the given ones: a sequence of arrays, one for each input, or an
            array for a single one. Integers must be equal, floats as near as roundings let them be.
            XLA has computed wrong numbers before. Where it does, the op at fault takes its next
            way, or XLA's instead of a kernel; the report says so, and the cache keeps it for later
            calls.

    Raises:
        QirError: The backend or the option does not exist, it has no rule for an op, kernels are
            insisted on where there are none, or every way to compute an op is wrong: the op, its
            place and the difference are named.
    """
    expect_graph(graph, "compile")
    with devices():
        runner = RUNNERS.find(backend, "compile")
        check_backend_options(runner, backend, options)
        if backend == "xla" and "check" in options:
            options["check"] = given_samples(graph, options["check"])
        compiled = runner(graph, **options)
    if not callable(compiled):
        raise QirError(
            f"compile: expected the backend '{backend}' to return a function of arrays, got "
            f"{kind_of(compiled)}"
        )
    if report:
        print(getattr(compiled, "report", f"the backend '{backend}' has no report"))
    return compiled


def evaluate(graph: Graph, *inputs: Any) -> tuple[Array, ...]:
    """Computes a program with the reference interpreter.

    Every backend reproduces its integers bit for bit.

    Args:
        graph: The program.
        inputs: One array for each input; stored numbers where the input has a code.

    Returns:
        One array for each output.

    Raises:
        QirError: An input does not fit, or a stored number leaves its type.
    """
    expect_graph(graph, "evaluate")
    return run(graph, *inputs)
