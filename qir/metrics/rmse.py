"""rmse: the root of the mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from qir.metrics.differences import MeanDifference
from qir.metrics.registry import metric
from qir.types import Array


@metric("rmse")
class RootMeanSquareError(MeanDifference):
    """Root of the mean squared difference between outputs and targets, which have one shape."""

    def cost_of(self, difference: Array) -> Array:
        """Returns the squares."""
        return np.square(difference)

    def total(self, parts: Sequence[tuple[float, int]]) -> float:
        """Returns the root of the mean."""
        return sqrt(self.mean(parts))
