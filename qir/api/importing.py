"""Import of models: from JAX, and from files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Imported to register the passes and pipelines.
import qir.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.api.devices import devices
from qir.frontends import READERS, read_model
from qir.ir import Graph
from qir.passes.shared.raising import raise_imported
from qir.pipeline import Pipeline


def from_jax(
    function: Callable[..., Any],
    *example: Any,
    weight_argnums: int | Sequence[int] = (),
    batch: str | None = None,
    name: str | None = None,
) -> Graph:
    """Imports a JAX function; see `qir.frontends.jaxpr.from_jax`.

    The pipeline `raise` finds the ops in what the frontend translates. A rule of it that fails
    leaves the ops as they are; the graph's diagnostics say so.
    """
    with devices():
        from qir.frontends.jaxpr import from_jax as import_function

        return import_function(
            function,
            *example,
            weight_argnums=weight_argnums,
            batch=batch,
            name=name,
            improve=raise_ops,
        )


def load(path: str | os.PathLike[str], *, format: str | None = None) -> Graph:
    """Reads a model in the format of the path's suffix: `.qir`, as `save` writes it.

    See `qir.frontends.READERS` for further formats, what they read is raised as by `from_jax`.

    Args:
        path: The path; files that belong to it, such as the `.npz` of arrays, are read beside it.
        format: The name of the format, where the suffix does not tell it.

    Raises:
        QirError: No reader has the suffix or the name; a file is missing, truncated or corrupted,
            or belongs to another; or it holds something that QIR has no rule for.
    """
    source = Path(path)
    name = READERS.name_for(source, "load") if format is None else format
    graph = read_model(source, name, "load")
    if name != "qir":
        raise_ops(graph)
    return graph


def raise_ops(graph: Graph) -> None:
    """Raises the decomposed forms of an imported program to ops, in place."""
    raise_imported(graph, Pipeline.parse("raise").steps)
