"""Data to score on: inputs and, beside them, targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qir.errors import QirError, kind_of
from qir.report.progress import watched

ADVICE = "a batch is a pair (inputs, targets), inputs an array, a tuple of arrays or a dict by name"


def paired(data: Iterable[Any], inputs: int, needed: str) -> Iterator[tuple[Any, Any]]:
    """Yields the inputs and the targets of each batch, and shows on a terminal how many are done.

    Args:
        data: Pairs of inputs and targets; where no targets are needed, inputs alone as well.
        inputs: How many inputs the programs have.
        needed: The metric that reads targets; empty where none does.

    Raises:
        QirError: The data is no iterable of batches, has none, or a batch is no pair.
    """
    single = isinstance(data, Mapping | str | bytes) or hasattr(data, "dtype")
    if single or not isinstance(data, Iterable):
        raise QirError(
            f"score: expected data to be an iterable of batches, got {kind_of(data)}; a single "
            "batch goes into a list: [(inputs, targets)]"
        )
    number = -1
    for number, batch in enumerate(watched(data, "scoring")):
        pair = pair_of(batch, inputs)
        if pair is not None:
            yield pair
        elif not needed:
            yield batch, None
        else:
            got = f"a tuple of {len(batch)}" if isinstance(batch, tuple) else kind_of(batch)
            raise QirError(
                f"score: batch {number}: expected inputs and targets, which {needed} reads, got "
                f"{got}; {ADVICE}"
            )
    if number < 0:
        once = isinstance(data, Iterator)
        again = "; an iterator can be read only once, a list again" if once else ""
        raise QirError(f"score: expected at least one batch of data, got none{again}")


def pair_of(batch: Any, inputs: int) -> tuple[Any, Any] | None:
    """Returns inputs and targets; None where a batch is inputs alone.

    Args:
        batch: The batch; two arrays for a program of two inputs are these.
        inputs: How many inputs the programs have.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return None
    first, second = batch
    listed = isinstance(first, list) and all(hasattr(item, "shape") for item in first)
    grouped = listed or isinstance(first, tuple | Mapping)
    # A list of arrays is what data loaders make of a tuple; any other list is numbers.
    arrays = inputs != 2 and (isinstance(batch, tuple) or hasattr(first, "shape"))
    return (first, second) if grouped or arrays else None
