"""minmax: all that was observed."""

from __future__ import annotations

from qir.observe.methods.density import Density
from qir.observe.methods.histogram_method import HistogramMethod
from qir.observe.methods.method import calibration_method


@calibration_method("minmax")
class MinMax(HistogramMethod):
    """All that was observed: nothing is clipped."""

    def _extents(self, density: Density, steps: int) -> tuple[float, float]:
        return density.below, density.above
