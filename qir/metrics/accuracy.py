"""accuracy: the share of samples that are right."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from qir.metrics.classes import Classified, ClassMetric, together
from qir.metrics.registry import metric


@metric("accuracy")
class ClassAccuracy(ClassMetric):
    """The share of predictions that are right; of samples with several labels, all of them."""

    def total(self, parts: Sequence[Classified]) -> float:
        """Returns the share."""
        found = together(parts)
        if found is None:
            return nan
        right = found.predicted == found.right
        return float((right.all(-1) if right.ndim > 1 else right).mean())
