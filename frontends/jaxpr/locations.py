"""Where in the user's model an equation comes from: file, line and name stack."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from qir import errors
from qir.interop.jax_internals import is_user_filename, lines_of, scopes_of

_OWN = (str(Path(__file__).resolve().parents[1]), str(Path(errors.__file__).resolve().parent))
_FRAMEWORKS = re.compile(
    r"[\\/](site|dist)-packages[\\/](jax|jaxlib|numpy|flax|haiku|equinox|keras|optax|einops|chex)[\\/]"
)


@cache
def is_model(path: str) -> bool:
    """Whether a source file is the model's: not of jax, a library of layers, or this package."""
    if path.startswith((*_OWN, "<frozen")) or _FRAMEWORKS.search(path):
        return False
    return is_user_filename(path)


@cache
def _short(path: str) -> str:
    file = Path(path)
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else path


def scope_of(equation: Any) -> tuple[str, ...]:
    """Returns the scopes that are open, outermost first; equations of jnp.einsum are left out."""
    return tuple(
        re.sub(r"[()\s]+", "_", part)
        for name in scopes_of(equation)
        for part in name.split("/")
        if part and "->" not in part
    )


def line_of(equation: Any) -> str | None:
    """Returns `file:line` of the innermost frame that is neither jax's nor a layer library's."""
    lines = (f"{_short(file)}:{line}" for file, line in lines_of(equation) if is_model(file))
    return next(lines, None)


def calling_line() -> str | None:
    """Returns `file:line` of the model's frame that is running."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if is_model(path := frame.f_code.co_filename):
            return f"{_short(path)}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def raised_at(trace: TracebackType | None) -> str | None:
    """Returns `file:line` of the innermost frame of the model that an exception passed through."""
    place = None
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if is_model(path):
            place = f"{_short(path)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
