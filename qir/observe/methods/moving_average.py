"""moving_average: averages of the extremes of each batch."""

from __future__ import annotations

from qir.errors import QirError
from qir.observe.methods.method import CalibrationMethod, calibration_method
from qir.observe.statistics import TensorStatistics


@calibration_method("moving_average")
class MovingAverage(CalibrationMethod):
    """Exponential moving averages of the extremes of the batches, in the order of their numbers.

    The first batch is taken as it is. They are of the last batches that `BatchExtremes` keeps.

    Args:
        momentum: The share of the old average that a further batch keeps, in [0, 1).
    """

    momentum: float = 0.9

    def check(self) -> None:
        """Raises QirError for a momentum that forgets nothing or more than there was."""
        if not 0 <= self.momentum < 1:
            raise QirError(f"moving average: expected momentum in [0, 1), got {self.momentum!r}")

    def range(self, seen: TensorStatistics) -> tuple[float, float]:
        """Returns the averages; 0 where nothing was seen."""
        return (0.0, 0.0) if seen.extremes is None else seen.extremes.averages(self.momentum)
