"""A few rows of a calibration batch, on which to look closer at a program."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import numpy as np

from qir.ir import Graph, Value
from qir.ir.passages import passing
from qir.types import Array, Dim, Size

MOST_ROWS = 16
"""Rows of a batch that are looked at, where the program leaves their number open."""


def batch_name(graph: Graph) -> str | None:
    """Returns the named dimension along which batches can be cut, None where there is none.

    That is the name that leads the inputs, where it stands at no other place. It stands second in
    what a loop takes part by part, as each trip needs those before it.
    """
    trips = _trips(graph)
    places = [(value.type.shape, _place(value, trips)) for value in graph.inputs]
    first = [shape[place] for shape, place in places if place < len(shape)]
    leading = {size.names for size in first if isinstance(size, Dim)}
    if len(leading) != 1 or len(names := next(iter(leading))) != 1:
        return None
    later = (size for shape, place in places for size in shape[place + 1 :])
    is_trips = any(isinstance(size, Dim) and names[0] in size.names for size in trips)
    used = any(isinstance(size, Dim) and names[0] in size.names for size in later)
    return None if used or is_trips else names[0]


def _trips(graph: Graph) -> set[Size]:
    """Returns the sizes along which loops go through what they take part by part."""
    found: set[Size] = set()
    for node in graph.walk():
        for port in passing(node):
            if port.passage.kind == "stacked" and port.operand is not None:
                found.add(port.operand.type.shape[0])
    return found


def _place(value: Value, trips: Container[Size]) -> int:
    """Returns the axis along which samples stand."""
    return int(value.type.rank > 0 and value.type.shape[0] in trips)


def few_rows(graph: Graph, arrays: Sequence[Array], rows: int) -> tuple[Array, ...]:
    """Copies a batch, cut to at most some rows, evenly spaced; whole where it can't be cut.

    Args:
        graph: The program.
        arrays: An array for each input.
        rows: The most rows to keep, at least 1.
    """
    return _cut(graph, arrays, lambda count: _spaced(count, rows))


def rows_between(graph: Graph, arrays: Sequence[Array], start: int, stop: int) -> tuple[Array, ...]:
    """Copies the rows of a batch from one up to another; whole where it can't be cut.

    Args:
        graph: The program.
        arrays: An array for each input.
        start: The first row, from 0.
        stop: The one behind the last.
    """
    return _cut(graph, arrays, lambda count: np.arange(start, min(stop, count)))


def _cut(
    graph: Graph, arrays: Sequence[Array], choose: Callable[[int], Array]
) -> tuple[Array, ...]:
    name = batch_name(graph)
    cut = []
    for value, array in zip(graph.inputs, arrays, strict=True):
        kept = None if name is None else _rows_of(value, array, name, choose, _trips(graph))
        cut.append(np.array(array) if kept is None else kept)
    return tuple(cut)


def _spaced(count: int, rows: int) -> Array:
    return np.unique(np.linspace(0, count - 1, rows).round().astype(int))


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
    if name is None:
        return np.array(array)
    return _rows_of(value, array, name, lambda count: _spaced(count, rows), _trips(graph))


def _rows_of(
    value: Value,
    array: Array,
    name: str,
    choose: Callable[[int], Array],
    trips: Container[Size],
) -> Array | None:
    axis = _place(value, trips)
    size = value.type.shape[axis] if value.type.rank > axis else 1
    if not isinstance(size, Dim) or size.names != (name,):
        return None
    led = np.moveaxis(array, axis, 0)
    count = len(led) // size.factor
    samples = led.reshape(count, size.factor, *led.shape[1:])
    kept = choose(count)
    found = samples[kept].reshape(len(kept) * size.factor, *led.shape[1:])
    return np.ascontiguousarray(np.moveaxis(found, 0, axis))
