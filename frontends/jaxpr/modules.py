"""Modules of flax nnx as functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import jax

from qir.errors import QirError
from qir.frontends.jaxpr.locations import raised_at


def pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function as it is; for a module of flax nnx one that builds it as it is traced.

    There the module may change what it holds, such as its count of random numbers; what was given
    keeps its state. The same goes for a method of a module, and for a `functools.partial` of both.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return function
    if isinstance(function, partial):
        return partial(pure(function.func), *function.args, **function.keywords)
    method = function.__func__ if isinstance(function, MethodType) else None
    module = function.__self__ if isinstance(function, MethodType) else function
    if not isinstance(module, nnx.Module):
        return function
    structure, state = nnx.split(module)

    def call(*given: Any, **named: Any) -> Any:
        own = nnx.merge(structure, jax.tree.map(lambda leaf: leaf, state))
        return own(*given, **named) if method is None else method(own, *given, **named)

    return call


def refusal_of(error: Exception) -> QirError | None:
    """Returns what is wrong with a function that changes a module that it closes over, else None.

    Args:
        error: What tracing the function raised.
    """
    errors = sys.modules.get("flax.errors")
    if errors is None or not isinstance(error, errors.TraceContextError):
        return None
    refusal = QirError(
        "from_jax: expected a function that changes nothing outside of it, got one that closes "
        "over a module of flax nnx with a state, such as the count of random numbers of an RNN; "
        "import the module itself, its method or a functools.partial of these, or hand the state "
        "in: with structure, state = nnx.split(module) a function of (state, x) that calls "
        "nnx.merge(structure, state)(x), and weight_argnums=0"
    )
    place = raised_at(error.__traceback__)
    return refusal.at(f"at {place}") if place else refusal
