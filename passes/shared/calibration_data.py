"""Calibration data: from what users have to an array for each input of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from qir.errors import QirError, did_you_mean, kind_of
from qir.ir import Graph
from qir.ir.signature import Sizes, bind, to_array
from qir.observe.observations import Observations
from qir.observe.sample import MOST_ROWS, few_rows
from qir.observe.statistics import Statistics
from qir.pipeline import Batch
from qir.types import Array, Dim, DType

_ADVICE = "; a batch is an array, a tuple of arrays or a dict by input name"


def read_batches(graph: Graph, data: Iterable[Batch]) -> Iterator[tuple[Sequence[Array], Sizes]]:
    """Yields the arrays of each batch in the order of the inputs, and the named sizes they tell.

    Numbers of another type than the input's are converted; see `qir.ir.signature.to_array`.

    Args:
        graph: The graph that takes the batches.
        data: Each batch is an array (for a graph of one input), a tuple of arrays in the order of
            the inputs, or a dict by input name.

    Raises:
        QirError: There is no batch, or a batch does not fit the inputs: its number (from 0) and the
            input are named.
    """
    given = data.data if isinstance(data, Observations) else data
    try:
        iterator = iter(data)
    except TypeError:
        iterator = None
    if iterator is None or isinstance(given, Mapping | str | bytes) or hasattr(given, "dtype"):
        remedy = (
            f"a pipeline is the third argument, pipeline={given!r}, and data=None is none"
            if isinstance(given, str)
            else "statistics are given by statistics="
            if isinstance(given, Statistics)
            else "a single batch goes into a list"
        )
        raise QirError(
            f"calibrate: expected data to be an iterable of batches, got {kind_of(given)}; {remedy}"
        )
    number = -1
    for number, batch in enumerate(iterator):
        subject = f"calibrate: batch {number}"
        arrays = batch_arrays(graph, batch, subject)
        yield arrays, batch_sizes(graph, arrays, subject)
    if number < 0:
        once = isinstance(given, Iterator)
        again = "; an iterator can be read only once, a list again" if once else ""
        raise QirError(f"calibrate: expected at least one batch of data, got none{again}")


def first_rows(graph: Graph, data: Iterable[Batch]) -> Sequence[Array] | None:
    """Returns rows of the first batch with any; None for data that can be read only once."""
    if isinstance(data, Iterator):
        return None
    for arrays, sizes in read_batches(graph, data):
        if not sizes.empty:
            return few_rows(graph, arrays, MOST_ROWS)
    return None


def batch_sizes(graph: Graph, arrays: Sequence[Array], subject: str) -> Sizes:
    """Returns the named sizes that the arrays of a batch tell.

    Args:
        graph: The graph that takes the batch.
        arrays: One array for each input.
        subject: What errors begin with.

    Raises:
        QirError: The arrays do not fit the inputs; says what to do.
    """
    try:
        return bind(graph.inputs, arrays, subject)
    except QirError as error:
        raise _advise(error, graph, arrays) from error


def batch_arrays(graph: Graph, batch: Batch, subject: str) -> list[Array]:
    """Returns an array for each input, in their order.

    Args:
        graph: The graph that takes the batch.
        batch: As for `read_batches`.
        subject: What errors begin with.

    Raises:
        QirError: An input is missing or unknown, or what is given for one is no array of numbers.
    """
    names = [value.name for value in graph.inputs]
    if isinstance(batch, Mapping):
        given = {str(name).removeprefix("%"): array for name, array in batch.items()}
        for name in given:
            if name not in names:
                hint = did_you_mean(name, names)
                raise QirError(f"{subject}: the graph has no input %{name}{hint}")
        for name in names:
            if name not in given:
                raise QirError(f"{subject}: expected an array for input %{name}, got none")
        return [to_array(given[value.name], value, subject, _ADVICE) for value in graph.inputs]
    # A list of arrays is what data loaders make of a tuple; any other list is numbers.
    listed = isinstance(batch, list) and all(hasattr(item, "shape") for item in batch)
    items: Sequence[Any] = batch if isinstance(batch, tuple) or listed else (batch,)
    if len(items) != len(names):
        listing = ", ".join(f"%{name}" for name in names)
        extra = "; leave labels out" if len(items) > len(names) else ""
        count = f"{len(names)} array{'s' if len(names) != 1 else ''}"
        raise QirError(f"{subject}: expected {count} ({listing}), got {len(items)}{extra}")
    pairs = zip(items, graph.inputs, strict=True)
    return [to_array(item, value, subject, _ADVICE) for item, value in pairs]


def _advise(error: QirError, graph: Graph, arrays: Sequence[Array]) -> QirError:
    for value, array in zip(graph.inputs, arrays, strict=True):
        sizes = value.type.shape
        if value.type.is_float and not DType.of(array.dtype).is_float:
            return error.at("convert and scale the data as for the model itself")
        if len(array.shape) == len(sizes) - 1:
            return error.at("a batch has one dimension more than a sample")
        if len(array.shape) == len(sizes) and tuple(array.shape[1:]) == sizes[1:]:
            size = sizes[0]
            if not isinstance(size, Dim) and size != array.shape[0]:
                return error.at(
                    f"the batch size of the model is fixed at {size}: "
                    "cut the data so, or import the model with a named batch dimension"
                )
    return error
