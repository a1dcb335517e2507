"""top-k: the share of samples whose class is among the best few."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np

from qir.errors import QirError
from qir.metrics.classes import ids
from qir.metrics.registry import Answers, Metric, metric
from qir.types import Array


@metric("top-k")
class TopAccuracy(Metric):
    """The share of samples whose class has one of the k greatest scores.

    Of equal scores, of which integer programs have many, the first class comes first, as by argmax:
    top-1 is the accuracy. `top-5` is short for `top-k(k=5)`.

    Args:
        k: How many classes are looked at.
        ignore: The id of targets that don't count, as those of padding.
    """

    k: int = 5
    ignore: int | None = None

    def check(self) -> None:
        """Raises QirError for a k below 1."""
        if self.k < 1:
            raise QirError(f"top-k: expected k to be at least 1, got {self.k}")

    def __str__(self) -> str:
        return f"top-{self.k}" + ("" if self.ignore is None else f"(ignore={self.ignore})")

    def part(self, answers: Answers) -> Array:
        """Keeps at which place each sample's class is, NaN where its scores are not known."""
        output = answers.output
        right = ids(answers.targets, output, self.ignore).reshape(-1)
        scores = output.reshape(right.size, -1)
        if self.k > scores.shape[1]:
            raise QirError(f"expected at least {self.k} classes, got {scores.shape[1]}")
        if self.ignore is not None:
            kept = right != self.ignore
            right, scores = right[kept], scores[kept]
        own = np.take_along_axis(scores, right[:, None], 1)
        before = np.arange(scores.shape[1]) < right[:, None]
        place = ((scores > own) | ((scores == own) & before)).sum(1)
        return np.where(np.isnan(scores).any(1), nan, place)

    def total(self, parts: Sequence[Array]) -> float:
        """Returns the share."""
        places = np.concatenate(parts)
        if not places.size or np.isnan(places).any():
            return nan
        return float((places < self.k).mean())
