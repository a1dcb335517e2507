"""What may be a name, of letters and digits of any script; the text reads back all of these."""

from __future__ import annotations

import re

from qir.errors import QirError

VALUE = re.compile(r"\w[\w.\-]*")
SYMBOL = re.compile(r"\w[\w./\-]*")
DIMENSION = re.compile(r"[^\W\d]\w*")


OPERATORS = {"floordiv", "max", "min", "mod"}
"""Words that jax.export reads as operators, not as names of dimensions."""


def check_value(name: object) -> str:
    """Returns the name of a value, or raises QirError for what can't be one."""
    return _checked(name, VALUE, "value", "'_', '-' and '.', begun by none of '-.'")


def check_symbol(name: object, what: str) -> str:
    """Returns the name of a graph or array, or raises QirError for what can't be one."""
    return _checked(name, SYMBOL, what, "'_', '-', '.' and '/', begun by none of '-./'")


def check_dimension(name: object) -> str:
    """Returns the name of a dimension, or raises QirError for what can't be one."""
    checked = _checked(name, DIMENSION, "dimension", "'_', begun by no digit")
    if not checked.isidentifier() or checked in OPERATORS:
        raise QirError(f"dimension: expected a name that jax.export takes, got {name!r}")
    return checked


def _checked(name: object, pattern: re.Pattern[str], what: str, signs: str) -> str:
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise QirError(f"{what}: expected a name of letters, digits, {signs}, got {name!r}")
    return name
