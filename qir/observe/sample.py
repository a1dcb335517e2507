"""A few rows of a calibration batch, on which to look closer at a program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.ir import Graph, Value
from qir.types import Array, Dim

MOST_ROWS = 16
"""Rows of a batch that are looked at, where the program leaves their number open."""


def batch_name(graph: Graph) -> str | None:
    """Returns the named dimension along which batches can be cut, None where there is none.

    That is the name that leads the inputs, where it stands at no other place.
    """
    leading = {
        value.type.shape[0].names
        for value in graph.inputs
        if value.type.rank and isinstance(value.type.shape[0], Dim)
    }
    if len(leading) != 1 or len(names := next(iter(leading))) != 1:
        return None
    later = (size for value in graph.inputs for size in value.type.shape[1:])
    used = any(isinstance(size, Dim) and names[0] in size.names for size in later)
    return None if used else names[0]


def few_rows(graph: Graph, arrays: Sequence[Array], rows: int) -> tuple[Array, ...]:
    """Copies a batch, cut to at most some rows, evenly spaced; whole where it can't be cut.

    Args:
        graph: The program.
        arrays: An array for each input.
        rows: The most rows to keep, at least 1.
    """
    name = batch_name(graph)
    cut = []
    for value, array in zip(graph.inputs, arrays, strict=True):
        kept = None if name is None else _rows_of(value, array, name, rows)
        cut.append(np.array(array) if kept is None else kept)
    return tuple(cut)


def same_rows(graph: Graph, value: Value, array: Array, rows: int) -> Array | None:
    """Copies of one value the rows that `few_rows` keeps of the inputs.

    Args:
        graph: The program.
        value: A value of it.
        array: The value's numbers for a whole batch.
        rows: The most rows to keep, at least 1.

    Returns:
        An array; None where batches can be cut but the value is not led by them.
    """
    name = batch_name(graph)
    return np.array(array) if name is None else _rows_of(value, array, name, rows)


def _rows_of(value: Value, array: Array, name: str, rows: int) -> Array | None:
    first = value.type.shape[0] if value.type.rank else 1
    if not isinstance(first, Dim) or first.names != (name,):
        return None
    samples = array.reshape(len(array) // first.factor, first.factor, *array.shape[1:])
    kept = np.unique(np.linspace(0, len(samples) - 1, rows).round().astype(int))
    return np.asarray(samples[kept].reshape(kept.size * first.factor, *array.shape[1:]))
