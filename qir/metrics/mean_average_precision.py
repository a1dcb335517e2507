"""map: the mean over classes of the average precision of ranking samples by score."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Literal

import numpy as np

from qir.errors import QirError
from qir.metrics.classes import check_ids, fitting, ids, numbers
from qir.metrics.libraries import library
from qir.metrics.registry import Answers, Metric, metric
from qir.types import Array


@metric("map")
class MeanAveragePrecision(Metric):
    """Average precision of each label, by scikit-learn, averaged over those that occur.

    Outputs are scores [samples, labels]; targets are 0 or 1 of the same shape, or class ids where
    labels are exclusive.

    Args:
        average: `macro`: the mean over labels; `weighted`: each by how often it occurs; `micro`: of
            all samples and labels in one ranking.
    """

    average: Literal["macro", "micro", "weighted"] = "macro"

    def prepare(self) -> None:
        """Raises QirError where scikit-learn is not installed."""
        library("sklearn.metrics", "scikit-learn")

    def part(self, answers: Answers) -> tuple[Array, Array]:
        """Keeps scores and targets of a batch."""
        output = answers.output
        if output.ndim != 2:
            raise QirError(f"expected scores [samples, labels], got {list(output.shape)}")
        if numbers(answers.targets).size == output.size:
            right = fitting(answers.targets, output)
            check_ids(right, 2, None)
            return output, right.astype(np.int64)
        return output, np.eye(output.shape[1], dtype=np.int64)[ids(answers.targets, output)]

    def total(self, parts: Sequence[tuple[Array, Array]]) -> float:
        """Computes the average precision."""
        metrics = library("sklearn.metrics", "scikit-learn")
        scores = np.concatenate([part[0] for part in parts])
        right = np.concatenate([part[1] for part in parts])
        occurring = right.any(0)
        if not occurring.any() or np.isnan(scores).any():
            return nan
        if self.average != "micro":
            # The precision of a ranking in which nothing is right is no number to average.
            scores, right = scores[:, occurring], right[:, occurring]
        # Only their order counts, and scikit-learn takes no infinite ones.
        places = np.unique(scores, return_inverse=True)[1].reshape(scores.shape)
        return float(metrics.average_precision_score(right, places, average=self.average))
