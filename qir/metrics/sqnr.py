"""sqnr: the signal to noise of a program's output, the float program's being the signal."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log10, nan
from typing import ClassVar

import numpy as np

from qir.metrics.registry import Answers, Metric, beside_exact, metric


@metric("sqnr")
class SignalToNoise(Metric):
    """10 log10 of the sum of squares of the float program's output over that of the difference.

    Numbers that are not finite in the float program's output are left out; one that is not finite
    where the float program's is makes it -inf. Equal outputs have inf.
    """

    unit: ClassVar[str] = "dB"
    form: ClassVar[str] = ".2f"
    reads_targets: ClassVar[bool] = False
    reads_exact: ClassVar[bool] = True

    def part(self, answers: Answers) -> tuple[float, float, int]:
        """Keeps the sums of squares of signal and noise over a batch, and of how many numbers."""
        found, exact = beside_exact(answers)
        known = np.isfinite(exact)
        with np.errstate(all="ignore"):
            noise = np.square(found[known] - exact[known]).sum()
        signal = np.square(exact[known]).sum()
        return float(signal), float(noise) if np.isfinite(noise) else inf, int(known.sum())

    def total(self, parts: Sequence[tuple[float, float, int]]) -> float:
        """Returns the ratio in dB."""
        signal, noise, count = (sum(part[index] for part in parts) for index in range(3))
        if not count:
            return nan
        if not noise:
            return inf
        return 10 * (log10(signal) - log10(noise)) if signal else -inf
