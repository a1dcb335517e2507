"""throughput: samples a second."""

from __future__ import annotations

from typing import ClassVar

from qir.metrics.latency import Latency
from qir.metrics.registry import Measured, metric


@metric("throughput")
class Throughput(Latency):
    """Samples of the first batch a second, by the median of calls, timed as for `Latency`."""

    unit: ClassVar[str] = "samples/s"
    form: ClassVar[str] = ",.1f"
    meaning: ClassVar[str] = "by the median of calls, programs in turns"

    def cost(self, program: Measured) -> float:
        """Times the program, or takes the times that there are."""
        return program.samples / program.times(self.rounds).median
