"""mae: the mean absolute error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.metrics.differences import MeanDifference
from qir.metrics.registry import metric
from qir.types import Array


@metric("mae")
class MeanAbsoluteError(MeanDifference):
    """Mean absolute difference between outputs and targets, which have one shape."""

    def cost_of(self, difference: Array) -> Array:
        """Returns the absolute values."""
        return np.abs(difference)

    def total(self, parts: Sequence[tuple[float, int]]) -> float:
        """Returns the mean."""
        return self.mean(parts)
