"""The extremes of each batch, of which a moving average is made in any order of merging."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError

MOST_BATCHES = 1024
"""Batches whose extremes are kept, those of the greatest numbers. At a momentum of 0.9 an older one
would count for 1e-47 of the average, at 0.99 for 3e-5."""


@dataclass(frozen=True, eq=False)
class BatchExtremes:
    """The extremes of a tensor in each batch, by the number of the batch.

    A moving average depends on the order of the batches and would not merge; the extremes it is
    made of do. Batches of one number, as two machines have that observe parts of the data, count
    as one batch: its extremes are those of both. Of the batches the `MOST_BATCHES` with the
    greatest numbers are kept. Both are functions of the set of batches alone, so that `merge` is
    exactly associative and commutative, and memory is fixed.

    Args:
        numbers: Numbers of batches, increasing, int64 [batches].
        minimum: Least value of each batch, float32 [batches].
        maximum: Greatest value, likewise.

    Raises:
        QirError: The parts contradict one another.
    """

    numbers: NDArray[np.int64]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]

    def __post_init__(self) -> None:
        if not self.numbers.shape == self.minimum.shape == self.maximum.shape or (
            self.numbers.ndim != 1 or len(self.numbers) > MOST_BATCHES
        ):
            raise QirError(
                f"extremes: expected one number, minimum and maximum for each of at most "
                f"{MOST_BATCHES} batches, got {list(self.numbers.shape)}, "
                f"{list(self.minimum.shape)} and {list(self.maximum.shape)}"
            )
        if np.any(np.diff(self.numbers) <= 0) or np.any(self.numbers[:1] < 0):
            raise QirError("extremes: expected increasing numbers of batches")
        if not np.all(self.minimum <= self.maximum):
            raise QirError("extremes: expected minimum <= maximum in each batch")

    @staticmethod
    def of(batches: Iterable[tuple[int, float, float]]) -> BatchExtremes:
        """Makes it of the number, the minimum and the maximum of batches in order."""
        last = list(batches)[-MOST_BATCHES:]
        numbers, minimum, maximum = zip(*last, strict=True) if last else ((), (), ())
        return BatchExtremes(
            np.array(numbers, np.int64),
            np.array(minimum, np.float32),
            np.array(maximum, np.float32),
        )

    def merge(self, other: BatchExtremes) -> BatchExtremes:
        """Returns those of the batches of both."""
        numbers, place = np.unique(
            np.concatenate([self.numbers, other.numbers]), return_inverse=True
        )
        minimum = np.full(len(numbers), np.inf, np.float32)
        maximum = np.full(len(numbers), -np.inf, np.float32)
        np.minimum.at(minimum, place, np.concatenate([self.minimum, other.minimum]))
        np.maximum.at(maximum, place, np.concatenate([self.maximum, other.maximum]))
        kept = slice(-MOST_BATCHES, None)
        return BatchExtremes(numbers[kept], minimum[kept], maximum[kept])

    def averages(self, momentum: float) -> tuple[float, float]:
        """Returns exponential moving averages of the minima and the maxima; 0 of no batches.

        Args:
            momentum: The share of the old average that a further batch keeps, in [0, 1). The first
                batch is taken as it is.
        """
        low = high = keep = 0.0
        for least, most in zip(self.minimum.tolist(), self.maximum.tolist(), strict=True):
            low = keep * low + (1 - keep) * least
            high = keep * high + (1 - keep) * most
            keep = momentum
        return low, high
