"""The numbers of values inside of loops and branches, trip by trip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.ir import Value
from qir.types import Array

MOST_BYTES = 2**27
"""What numbers of trips are kept: those of the first ones."""


class Trips:
    """What the regions of a program take and compute, each time that they run.

    Attributes:
        counts: How often each value was there.
        numbers: Its numbers, those of the first trips where all would be too many.
    """

    def __init__(self) -> None:
        self.counts: dict[Value, int] = {}
        self.numbers: dict[Value, list[Array]] = {}
        self._bytes = 0

    def note(self, value: Value, array: Array) -> Array:
        """Keeps the numbers of a value in the next trip: a hook for the interpreter."""
        self.count(value, array)
        if not value.is_constant and self._bytes < MOST_BYTES:
            self.numbers.setdefault(value, []).append(array)
            self._bytes += array.nbytes
        return array

    def count(self, value: Value, array: Array) -> Array:
        """Counts a trip of a value alone: a hook for the interpreter."""
        self.counts[value] = self.counts.get(value, 0) + 1
        return array


def of_all_trips(arrays: Sequence[Array]) -> Array:
    """Returns the numbers of a value in some trips as those of one value with more rows."""
    return np.stack(arrays) if arrays[0].ndim < 2 else np.concatenate(arrays)
