"""What precision, recall and F1 share: scikit-learn's figures by class, and their averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, ClassVar, Literal

import numpy as np

from qir.errors import QirError
from qir.metrics.classes import Classified, ClassMetric, together
from qir.metrics.libraries import library
from qir.metrics.registry import Figure


@dataclass(frozen=True, repr=False)
class Averaged(ClassMetric):
    """A figure of each class, averaged as by scikit-learn; 0 where it would divide by 0.

    Args:
        average: `macro`: the mean over classes; `weighted`: each by how often it is right; `micro`:
            of all decisions together; `binary`: that of class 1 of two; `samples`: the mean over
            samples that have several labels; `none`: an array by class.

    Attributes:
        function: Name of the function in `sklearn.metrics`.
    """

    average: Literal["binary", "macro", "micro", "weighted", "samples", "none"] = "macro"

    function: ClassVar[str]

    def prepare(self) -> None:
        """Raises QirError where scikit-learn is not installed."""
        library("sklearn.metrics", "scikit-learn")

    def total(self, parts: Sequence[Classified]) -> Figure:
        """Computes the figure."""
        metrics = library("sklearn.metrics", "scikit-learn")
        found = together(parts)
        if found is None:
            return nan
        options: dict[str, Any] = {"average": None if self.average == "none" else self.average}
        labelled = found.predicted.ndim > 1
        if self.average == "none" and not labelled:
            options["labels"] = list(range(found.class_count))
        if self.average == "binary" and (
            labelled or max(found.predicted.max(), found.right.max()) > 1
        ):
            raise QirError("expected two classes for average=binary, got more; average=macro")
        if self.average == "samples" and not labelled:
            raise QirError("expected several labels a sample for average=samples, got one class")
        figure = getattr(metrics, self.function)(
            found.right, found.predicted, zero_division=0.0, **options
        )
        return np.asarray(figure) if self.average == "none" else float(figure)
