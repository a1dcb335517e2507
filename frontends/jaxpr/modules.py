"""Modules of flax nnx as functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax


def pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function as it is; for a module of flax nnx one that builds it as it is traced.

    There the module may change what it holds, such as its count of random numbers; what was given
    keeps its state.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(function, nnx.Module):
        return function
    structure, state = nnx.split(function)

    def call(*given: Any) -> Any:
        own = jax.tree.map(lambda leaf: leaf, state)
        return nnx.merge(structure, own)(*given)

    return call
