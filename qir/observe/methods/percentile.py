"""percentile: a share of the values."""

from __future__ import annotations

from qir.errors import PassError
from qir.observe.histograms import BINS
from qir.observe.methods.density import Density
from qir.observe.methods.histogram_method import HistogramMethod
from qir.observe.methods.method import calibration_method


@calibration_method("percentile")
class Percentile(HistogramMethod):
    """The smallest range of whole bins that holds a share of the values.

    Half of the rest is cut at each end, as by ONNX Runtime's percentile calibrator; all of it at
    the far end if the values have one sign; and the largest magnitudes if the range is symmetric.

    Args:
        percentile: The share of the values to keep, in percent, in (0, 100].
        symmetric: Whether codes have their zero point in the middle.
        bins: Bins of the histograms that it looks at.
    """

    percentile: float = 99.99
    symmetric: bool = False
    bins: int = BINS

    def check(self) -> None:
        """Raises QirError for options out of bounds."""
        super().check()
        if not 0 < self.percentile <= 100:
            raise PassError(f"calibrate: expected percentile in (0, 100], got {self.percentile!r}")

    def _extents(self, density: Density, steps: int) -> tuple[float, float]:
        return density.keeping(self.percentile)
