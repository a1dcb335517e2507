"""cosine: how far a program's outputs point where the float program's do."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import ClassVar

import numpy as np

from qir.metrics.registry import Answers, Metric, beside_exact, metric


@metric("cosine")
class CosineSimilarity(Metric):
    """Mean over samples of the cosine between a sample's output and the float program's.

    Samples lie along the first axis. Of two outputs of nothing but 0 it is 1, of one such 0.
    """

    form: ClassVar[str] = ".5f"
    reads_targets: ClassVar[bool] = False
    reads_exact: ClassVar[bool] = True

    def part(self, answers: Answers) -> tuple[float, int]:
        """Keeps the sum of the cosines of a batch, and the count of samples."""
        found, exact = beside_exact(answers)
        count = len(found) if found.ndim else 1
        found, exact = found.reshape(count, -1), exact.reshape(count, -1)
        with np.errstate(all="ignore"):
            sizes = np.sqrt(np.square(found).sum(1) * np.square(exact).sum(1))
            cosines = (found * exact).sum(1) / sizes
        both = ~found.any(1) & ~exact.any(1)
        return float(np.where(sizes == 0, both, cosines).sum()), count

    def total(self, parts: Sequence[tuple[float, int]]) -> float:
        """Returns the mean."""
        count = sum(part[1] for part in parts)
        return sum(part[0] for part in parts) / count if count else nan
