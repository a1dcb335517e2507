"""confusion: how often each class is taken for each other one."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import ClassVar

import numpy as np

from qir.errors import QirError
from qir.metrics.classes import Classified, ClassMetric, together
from qir.metrics.libraries import library
from qir.metrics.registry import Figure, metric


@metric("confusion")
class Confusion(ClassMetric):
    """Counts [right class, predicted class]."""

    form: ClassVar[str] = ".0f"

    def prepare(self) -> None:
        """Raises QirError where scikit-learn is not installed."""
        library("sklearn.metrics", "scikit-learn")

    def total(self, parts: Sequence[Classified]) -> Figure:
        """Counts."""
        metrics = library("sklearn.metrics", "scikit-learn")
        found = together(parts)
        if found is None:
            return nan
        if found.predicted.ndim > 1:
            raise QirError("expected one class a sample, got several labels")
        labels = np.arange(found.class_count)
        return np.asarray(metrics.confusion_matrix(found.right, found.predicted, labels=labels))
