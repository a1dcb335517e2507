"""Methods that look at a histogram alone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from qir.errors import PassError
from qir.observe.histograms import BINS, Histogram, check_bins
from qir.observe.methods.density import Density, steps_of
from qir.observe.methods.method import CalibrationMethod
from qir.observe.statistics import TensorStatistics


@dataclass(frozen=True)
class HistogramMethod(CalibrationMethod):
    """A way to choose the range that the codes of a tensor span, by its histogram.

    The answer does not depend on how the data was cut into batches or on their order. All
    arithmetic is in units of the bin width: data scaled by a power of two gives the range scaled by
    it, exactly.

    A subclass has as fields those of `bits`, `symmetric` and `bins` that it makes something of.
    """

    @property
    def most_bins(self) -> int:
        """Bins of the histograms that it looks at."""
        return int(getattr(self, "bins", BINS))

    def check(self) -> None:
        """Raises QirError for bits or bins out of bounds."""
        bits = getattr(self, "bits", 8)
        if not 2 <= bits <= 16:
            raise PassError(f"calibrate: expected 2 to 16 bits, got {bits}")
        check_bins(self.most_bins)

    def range(self, seen: TensorStatistics) -> tuple[float, float]:
        """Returns the part of the range between the observed extremes; 0 where nothing was seen."""
        histogram = seen.histogram
        if histogram is None or not histogram.count:
            return 0.0, 0.0
        return self.solve(
            histogram.coarsen(min(self.most_bins, histogram.bins)),
            2 ** getattr(self, "bits", 8),
            symmetric=getattr(self, "symmetric", False),
            include_zero=False,
        )

    def solve(
        self,
        statistic: Histogram,
        levels: int = 256,
        *,
        symmetric: bool = False,
        include_zero: bool = True,
    ) -> tuple[float, float]:
        """Chooses the range for a number of codes.

        Args:
            statistic: What the tensor was seen to hold.
            levels: How many codes there are, at least 3. Symmetric codes are `(levels - 1) // 2` on
                each side of zero, so that 255 and 256 mean the same.
            symmetric: Whether the range is `(-high, high)`.
            include_zero: Whether the range contains zero, as that of affine codes must. Otherwise
                only the part of it between the observed extremes is returned, which zero (or the
                mirror image) restores.

        Returns:
            The bounds, float32 values that reach no further from zero than the observed extremes.

        Raises:
            PassError: If the statistic is empty or there are too few codes.
        """
        density = Density.of(statistic, fold=symmetric)
        below, above = self._extents(density, steps_of(levels, symmetric))
        high = float(np.float32(above * statistic.width))
        low = -high if symmetric else -float(np.float32(below * statistic.width))
        if not include_zero:
            low, high = max(low, statistic.minimum), min(high, statistic.maximum)
            if low > high:
                # All values lie on one side of 0, beyond the end: the nearest of them is left.
                low = high = low if low > 0 else high
        return low + 0.0, high + 0.0

    @abstractmethod
    def _extents(self, density: Density, steps: int) -> tuple[float, float]:
        """Returns how far the range reaches below and above zero, in bin widths."""
