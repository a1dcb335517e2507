"""Names of weights: paths in pytrees, and in what a function closes over."""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from qir.frontends.jaxpr.locations import is_model

_DEPTH = 8
_VISITS = 10_000


def path_name(path: Iterable[str], root: str) -> str:
    """Spells the path of a leaf, `conv1.kernel`; the root's name leads where no name would.

    Keys are in the source's own spelling: `mlp/~/linear_0.w`.
    """
    keys = list(path)
    while keys and keys[-1] in ("value", "raw_value"):  # how flax nnx wraps an array
        keys.pop()
    if not keys or keys[0].isdigit():
        keys.insert(0, root)
    return ".".join(keys)


def leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the leaves of a pytree, each with the keys that lead to it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(jax.tree_util.keystr((key,), simple=True) for key in path), leaf


def identity(array: Any) -> Hashable:
    """Returns what tells an array from others after tracing, which wraps numpy's without a copy."""
    if isinstance(array, jax.Array):
        return id(array)
    view = np.asarray(array)
    return view.__array_interface__["data"][0], view.shape, view.strides


def closed_over(function: Any) -> dict[Hashable, str]:
    """Names the arrays that a callable holds: in its closure, its globals, its attributes.

    Returns:
        The name of each array, by its `identity`.
    """
    names: dict[Hashable, str] = {}
    seen: set[int] = set()

    def visit(thing: Any, root: str, path: tuple[str, ...]) -> None:
        if id(thing) in seen or len(seen) > _VISITS or len(path) > _DEPTH:
            return
        seen.add(id(thing))
        try:
            found = list(leaves(thing))
        except (TypeError, ValueError):  # a dict whose keys can't be sorted is no pytree
            return
        for inner, leaf in found:
            if isinstance(leaf, jax.Array | np.ndarray):
                names.setdefault(identity(leaf), path_name((*path, *inner), root))
            elif leaf is not thing:
                visit(leaf, root, (*path, *inner))
            elif (held := _held(thing)) is not None:
                for name, part in held:
                    visit(part, name, ())
            elif hasattr(thing, "__dict__") and not isinstance(thing, type | types.ModuleType):
                for name, part in vars(thing).items():
                    visit(part, root, (*path, name))

    visit(function, "weight", ())
    return names


def _held(function: Any) -> list[tuple[str, Any]] | None:
    """Lists what a function holds and under which names; None for what is no function."""
    match function:
        case types.FunctionType() if not is_model(function.__code__.co_filename):
            return []
        case types.FunctionType():
            code, scope = function.__code__, function.__globals__
            cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
            held = [(name, cell.cell_contents) for name, cell in cells if _is_assigned(cell)]
            return held + [(name, scope[name]) for name in _names_in(code) if name in scope]
        case types.MethodType():
            return [("self", function.__self__), ("function", function.__func__)]
        case functools.partial():
            given = [(str(place), argument) for place, argument in enumerate(function.args)]
            return [("function", function.func), *given, *function.keywords.items()]
        case _ if callable(getattr(function, "__wrapped__", None)):
            return [("function", function.__wrapped__)]
        case _:
            return None


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Yields the global names that a function uses, and functions within it, as loop bodies are."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names_in(inner)


def _is_assigned(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
