"""mse: the least squared error of rounding and clipping."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from qir.observe.methods.density import Density, Floats, grid
from qir.observe.methods.method import calibration_method
from qir.observe.methods.search import Cost, Search


@calibration_method("mse")
class MeanSquaredError(Search):
    """The range with the least expected squared error of rounding and clipping.

    The expectation is that of the true quantizer, whose grid has a code for zero, over values
    spread evenly within each bin; zeros have no error. Related: ACIQ (Banner et al., 2019,
    arXiv:1810.05723) assumes a Gaussian or Laplace density; OCTAV (Sakr et al., 2022,
    arXiv:2206.06501) iterates on raw data and takes step**2 / 12 for the error of rounding.
    """

    _power: ClassVar[int] = 2

    def _cost(self, density: Density, steps: int) -> Cost:
        widths = np.diff(density.edges)
        slopes = np.divide(density.spread, widths, out=np.zeros_like(widths), where=widths > 0)
        jumps = -np.diff(slopes, prepend=0.0, append=0.0)
        edges, jumps = density.edges[jumps != 0], jumps[jumps != 0]

        def cost(below: Floats, above: Floats) -> Floats:
            step, lowest, highest = grid(below, above, steps)
            error = edges * (1 / step)
            code = np.rint(error)
            np.maximum(code, lowest, out=code)
            np.minimum(code, highest, out=code)
            error -= code
            # The integral of the squared error from zero, in steps: 1/12 for each whole cell, and
            # for the part of the last one a cubic, which runs on where values are clipped.
            cube = error * error
            cube *= error
            total: Floats = (cube @ jumps / 3 + code @ jumps / 12) * step[:, 0] ** 3
            for point, weight in density.points:
                nearest = np.clip(np.rint(point / step), lowest, highest) * step
                total += weight * (point - nearest[:, 0]) ** 2
            return total

        return cost
