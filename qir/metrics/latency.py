"""latency: how long a call takes."""

from __future__ import annotations

from typing import ClassVar

from qir.errors import QirError
from qir.metrics.registry import CostMetric, Measured, metric

ROUNDS = 20
"""Turns of each program, as for `qir bench`."""


@metric("latency")
class Latency(CostMetric):
    """Median of the milliseconds of a call on the first batch; programs take turns.

    Args:
        rounds: Turns of each program, of one call or more.
    """

    rounds: int = ROUNDS

    unit: ClassVar[str] = "ms"
    form: ClassVar[str] = ".3f"
    meaning: ClassVar[str] = "median of calls, programs in turns"

    def check(self) -> None:
        """Raises QirError for no round."""
        if self.rounds < 1:
            raise QirError(f"{self.name}: expected rounds to be at least 1, got {self.rounds}")

    def cost(self, program: Measured) -> float:
        """Times the program, or takes the times that there are."""
        return 1000 * program.times(self.rounds).median
