"""entropy: the least loss of information."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from qir.observe.methods.density import Density, Floats, grid
from qir.observe.methods.method import calibration_method
from qir.observe.methods.search import Cost, Search


@calibration_method("entropy")
class Entropy(Search):
    """The range whose codes lose the least information, by Kullback-Leibler divergence.

    After TensorRT (Migacz, "8-bit inference with TensorRT", GTC 2017) and ONNX Runtime's entropy
    calibrator: the reference P is the histogram with the clipped values piled up at the bound; Q is
    the histogram of the values that are not clipped, made flat over the occupied bins of each code.
    It differs from them:

    - Cells lie around the codes of the true grid, and around zero, for either symmetry.
    - Zeros, which codes represent exactly, and values equal to an extreme that is a bound of its
      bin, such as the 6 of relu6, are in no flattened cell: a sparse tensor would pay more for the
      width of the cell of zero than for all that is clipped.
    - Clipped values pile up on the flat level of the outermost cell (one value if that is empty),
      where a single bin's count would let noise decide and an empty bin would forbid the range.
    - Q is not scaled up to the mass of P: the divergence is that of measures, the sum of
      P log(P/Q) - P + Q. Else a range that keeps hardly anything would cost hardly anything.

    Within a cell the sum is one of cumulative sums, so that a range costs as many logarithms as it
    has codes. Steps finer than a bin cannot be judged: the search stops at one bin a step, and
    codes of 12 or more bits are not clipped at all. The cost is in nats.
    """

    _finest: ClassVar[float] = 1.0

    def _cost(self, density: Density, steps: int) -> Cost:
        counts, edges, first = density.spread, density.edges, density.first
        rates = counts, (counts > 0).astype(np.float64), counts * np.log(np.maximum(counts, 1))
        sums = [np.concatenate([[0.0], np.cumsum(rate)]) for rate in rates]
        widths = np.maximum(np.diff(edges), 2.0**-20)

        def cost(below: Floats, above: Floats) -> Floats:
            step, lowest, _ = grid(below, above, steps)
            bounds = (lowest + np.arange(steps + 2) - 0.5) * step
            bounds[:, 0] = np.minimum(bounds[:, 0], -below)
            bounds[:, -1] = np.maximum(bounds[:, -1], above)
            index = np.clip(np.floor(bounds).astype(np.intp) - first, 0, len(counts) - 1)
            part = np.clip((bounds - edges[index]) / widths[index], 0, 1)
            reached = [
                total[index] + rate[index] * part for total, rate in zip(sums, rates, strict=True)
            ]
            mass, occupied, logs = (np.diff(values) for values in reached)
            flat = np.divide(mass, occupied, out=np.ones_like(mass), where=mass > 0)
            divergence: Floats = (logs - mass * np.log(flat)).sum(axis=1)
            for end, outside in ((0, reached[0][:, 0]), (-1, sums[0][-1] - reached[0][:, -1])):
                clipped = outside + sum(
                    weight * (np.abs(bounds[:, end]) < abs(point))
                    for point, weight in density.points
                    if (point > 0) == (end == -1)
                )
                level = flat[:, end]
                divergence += (level + clipped) * np.log1p(clipped / level) - clipped
            return divergence

        return cost
