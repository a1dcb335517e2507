"""Differences between numbers that a program computes and those that are right."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import ClassVar

import numpy as np

from qir.metrics.classes import fitting
from qir.metrics.registry import Answers, Metric
from qir.types import Array


@dataclass(frozen=True, repr=False)
class MeanDifference(Metric):
    """A mean over all numbers of a function of the difference to the target."""

    form: ClassVar[str] = ".6g"

    def part(self, answers: Answers) -> tuple[float, int]:
        """Keeps the sum over a batch, in float64, and the count."""
        output = answers.output.astype(np.float64)
        right = fitting(answers.targets, output).astype(np.float64)
        with np.errstate(all="ignore"):
            return float(self.cost_of(output - right).sum()), output.size

    @abstractmethod
    def cost_of(self, difference: Array) -> Array:
        """Returns what each difference costs."""

    def mean(self, parts: Sequence[tuple[float, int]]) -> float:
        """Returns the mean over all numbers."""
        count = sum(part[1] for part in parts)
        return sum(part[0] for part in parts) / count if count else nan
