"""sqnr: the signal to noise of a program's output, the float program's being the signal."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log10, nan
from typing import ClassVar, NamedTuple

import numpy as np

from qir.metrics.registry import Answers, Metric, beside_exact, metric
from qir.report.causes import far_middle
from qir.report.decibels import squares


class NoiseSums(NamedTuple):
    """Sums over the numbers of a batch, those that are not finite in the float program left out.

    Args:
        known: How many numbers there are.
        total: Their sum in the float program.
        signal: That of their squares.
        noise: That of the squares of the differences.
        low: The least number.
        high: The greatest.
    """

    known: int
    total: float
    signal: float
    noise: float
    low: float
    high: float


@metric("sqnr")
class SignalToNoise(Metric):
    """10 log10 of the sum of squares of the float program's output over that of the difference.

    It is the figure that `qir.quantize` leaves as the accuracy: of a range far from 0 the middle is
    no signal. Numbers that are not finite in the float program's output are left out; one that is
    not finite where the float program's is makes it -inf. Equal outputs have inf.
    """

    unit: ClassVar[str] = "dB"
    form: ClassVar[str] = ".2f"
    reads_targets: ClassVar[bool] = False
    reads_exact: ClassVar[bool] = True

    def part(self, answers: Answers) -> NoiseSums:
        """Keeps the sums over a batch."""
        found, exact = beside_exact(answers)
        signal, noise = squares(exact, found)
        known = exact[np.isfinite(exact)]
        return NoiseSums(
            known.size,
            float(known.sum()),
            float(signal.sum()),
            float(noise.sum()),
            float(known.min(initial=inf)),
            float(known.max(initial=-inf)),
        )

    def total(self, parts: Sequence[NoiseSums]) -> float:
        """Returns the ratio in dB."""
        count, total, signal, noise = (sum(part[index] for part in parts) for index in range(4))
        if not count:
            return nan
        if not noise:
            return inf
        ends = min(part.low for part in parts), max(part.high for part in parts)
        middle = far_middle(np.array(ends))
        about = signal - 2 * middle * total + count * middle**2
        return 10 * (log10(about) - log10(noise)) if about > 0 else -inf
