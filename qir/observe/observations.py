"""Calibration data as passes see it: to be read again where that is possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np

from qir.errors import QirError

MOST_BYTES = 2**24
"""Bytes of batches that are kept of data that can be read only once."""


class Observations(Iterable[Any]):
    """A view of calibration data that gives the same batches each time it is read.

    A list, or anything else that Python can iterate over again, is read again. What can be read
    only once, such as a generator, is kept as copies while it is read, up to 16 MB; beyond that,
    reading it again is an error that says so.

    Args:
        data: Batches, as the caller gave them.

    Attributes:
        data: The same.
    """

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data
        self._once = _is_read_once(data)
        self._started = False
        self._kept: list[Any] | None = []

    @property
    def repeatable(self) -> bool:
        """Whether it can be read any number of times from now on.

        Of data that can be read only once that is known when all of it was read.
        """
        return not self._once or (self._started and self._kept is not None)

    @property
    def size(self) -> int | None:
        """How many batches there are; None where the data does not tell."""
        return len(self.data) if isinstance(self.data, Sized) else None

    def __iter__(self) -> Iterator[Any]:
        """Reads the batches.

        Raises:
            QirError: They were read before, can be read only once, and were too many to be kept.
        """
        if not self._once:
            return iter(self.data)
        if self._started:
            if self._kept is None:
                raise QirError(
                    "data: expected batches that can be read again, got a "
                    f"{type(self.data).__name__} that was read and is not kept, as it is longer "
                    f"than {MOST_BYTES >> 20} MB or was not read to its end; give a list"
                )
            return iter(self._kept)
        return self._read_once()

    def _read_once(self) -> Iterator[Any]:
        self._started = True
        kept, size = self._kept, 0
        self._kept = None  # until all of it was read
        for batch in self.data:
            if kept is not None:
                copy = _copied(batch)
                size += sum(np.asarray(array).nbytes for array in _arrays(copy))
                kept.append(copy)
                del copy
                if size > MOST_BYTES:
                    kept = None
            yield batch
            del batch
        self._kept = kept


def _is_read_once(data: Any) -> bool:
    try:
        return iter(data) is data
    except TypeError:  # no data at all, of which the reader says what it is
        return False


def _arrays(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple | list) else [batch]


def _copied(batch: Any) -> Any:
    """Copies the arrays of a batch, which may come in the same buffers as the next one's."""
    if isinstance(batch, Mapping):
        return {name: np.array(array) for name, array in batch.items()}
    if isinstance(batch, tuple):
        return tuple(map(np.array, batch))
    listed = isinstance(batch, list) and all(hasattr(item, "shape") for item in batch)
    return list(map(np.array, batch)) if listed else np.array(batch)
