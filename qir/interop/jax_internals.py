"""What QIR takes from jax beyond its documented interface, all of it, and which jax it is for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax

from qir.errors import QirError

OLDEST, NEWEST = (0, 10), (0, 12)
"""The first and the last minor release of jax that QIR is tested with."""

SUPPORTED = "QIR supports jax 0.10 to 0.12"


def check_version(version: str) -> None:
    """Checks that QIR can work with a jax, and warns about one that it was not tested with.

    Args:
        version: The version of jax, such as `0.12.1`.

    Raises:
        QirError: It is older than any that QIR supports.
    """
    major, minor, *_ = version.split(".")
    found = int(major), int(minor)
    if found < OLDEST:
        raise QirError(f"jax: expected 0.10 or newer, got {version}; pip install 'jax>=0.10,<0.13'")
    if found > NEWEST:
        warnings.warn(
            f"jax: expected at most 0.12, got {version}, which QIR was not tested with; "
            "pip install 'jax>=0.10,<0.13'",
            stacklevel=2,
        )


check_version(jax.__version__)
try:
    from jax._src.source_info_util import NameStack, Scope, is_user_filename, user_frames
    from jax.experimental.xla_metadata import set_xla_metadata
    from jax.extend.core import (
        ClosedJaxpr,
        InconclusiveDimensionOperation,
        Jaxpr,
        Literal,
        Primitive,
        jaxpr_as_fun,
    )
    from jax.interpreters import ad, batching, mlir
except ImportError as error:
    raise QirError(f"jax: {error} in jax {jax.__version__}; {SUPPORTED}") from error

__all__ = [
    "ClosedJaxpr",
    "InconclusiveDimensionOperation",
    "Jaxpr",
    "Literal",
    "Primitive",
    "check_version",
    "guarded",
    "is_user_filename",
    "jaxpr_as_fun",
    "lines_of",
    "scan_counts",
    "scopes_of",
    "set_xla_metadata",
]


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many operands of a scan are constants of its body, and how many are carried.

    Args:
        params: The parameters of the equation, which jax 0.12 has in a tree.
    """
    if "ft_in" in params:
        consts, carries, _ = (len(list(part)) for part in params["ft_in"].unpack())
        return consts, carries
    return params["num_consts"], params["num_carry"]


def scopes_of(equation: Any) -> list[str]:
    """Returns the named scopes that are open at an equation of a jaxpr, outermost first."""
    stack: NameStack = equation.source_info.name_stack
    return [element.name for element in stack.stack if isinstance(element, Scope)]


def lines_of(equation: Any) -> list[tuple[str, int]]:
    """Returns file and line of the calls that made an equation, innermost first, jax's left out."""
    frames = user_frames(equation.source_info.traceback)
    return [(frame.file_name, frame.start_line) for frame in frames]


def guarded(x: jax.Array, gradient: str, export: str = "", elsewhere: str = "") -> jax.Array:
    """Returns an array as it is, where nothing is asked of the program that it can't do.

    Args:
        x: The array.
        gradient: The error that is raised where jax differentiates the array.
        export: The error that is raised where the program is exported; none when empty.
        elsewhere: The error that is raised where the program is for another platform than cpu,
            which takes the place of `{}` in it; none when empty.
    """
    guard: jax.Array = _GUARD.bind(x, gradient=gradient, export=export, elsewhere=elsewhere)
    return guard


def _refuse_gradient(
    primals: Any, tangents: Any, *, gradient: str, export: str, elsewhere: str
) -> Any:
    raise QirError(gradient)


def _lower(context: Any, x: Any, *, gradient: str, export: str, elsewhere: str) -> list[Any]:
    if export and context.module_context.lowering_parameters.for_export:
        raise QirError(export)
    others = [name for name in context.module_context.platforms if name != "cpu"]
    if elsewhere and others:
        raise QirError(elsewhere.format(" and ".join(others)))
    return [x]


def _same_axes(operands: Any, axes: Any, **messages: str) -> tuple[Any, Any]:
    return _GUARD.bind(*operands, **messages), axes[0]


_GUARD: Any = Primitive("qir_guard")
_GUARD.def_impl(lambda x, **_: x)
_GUARD.def_abstract_eval(lambda x, **_: x)
ad.primitive_jvps[_GUARD] = _refuse_gradient
batching.primitive_batchers[_GUARD] = _same_axes
mlir.register_lowering(_GUARD, _lower)
