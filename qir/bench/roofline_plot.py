"""The roofline of a program as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING

import numpy as np

from qir.bench.roofline import OpBound, Roofline
from qir.report.plots import COLORS, new_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHOLE_AREA = 10_000
"""Square points of a circle for an op that takes all of the time."""
NAMED = 0.03
"""Least share of the time of an op whose circle is named."""


def picture(roofline: Roofline) -> Figure:
    """Draws rate by operations a byte, both logarithmic, below the ceilings.

    Each op that multiplies is a circle whose area is its share of the time, named where that is not
    little. Ceilings are those of the most threads.

    Args:
        roofline: The figures.

    Raises:
        QirError: matplotlib is not installed.
    """
    figure, axes = new_plot(9, 6)
    # The largest lie below the others.
    ops = sorted(
        (op for op in roofline.ops if op.gops and op.moved_bytes), key=lambda op: -op.seconds
    )
    best = roofline.ceilings[max(roofline.ceilings)]
    memory, cache = best.bandwidth(best.reading[-1][0]) / 1e9, best.bandwidth(0) / 1e9
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*_powers([*map(_intensity, ops), best.gops / memory]))
    axes.set_ylim(*_powers([*(op.gops for op in ops), best.gops]))
    axes.grid(color="0.85")
    axes.set_axisbelow(True)
    low, high = axes.get_xlim()
    across = np.geomspace(low, high, 401)
    for rate, name, style in ((memory, "memory", "--"), (cache, "cache", "-")):
        reached = np.minimum(best.gops, rate * across)
        axes.plot(across, reached, style, color="0.3", label=f"{name}: {rate:.0f} GB/s")
    kernels = list(dict.fromkeys(_kernel(op) for op in roofline.ops if op in ops))
    color = {kernel: COLORS[number % len(COLORS)] for number, kernel in enumerate(kernels)}
    for kernel in kernels:
        axes.scatter([], [], 40, color=color[kernel], alpha=0.5, label=kernel)
    axes.scatter(
        [_intensity(op) for op in ops],
        [op.gops for op in ops],
        [max(WHOLE_AREA * op.seconds / roofline.seconds, 4) for op in ops],
        color=[color[_kernel(op)] for op in ops],
        alpha=0.5,
    )
    for op in ops:
        share = op.seconds / roofline.seconds
        if share >= NAMED:
            told = f"%{op.values[-1]}: {1e6 * op.seconds:.0f} us, {share:.0%}"
            axes.annotate(told, (_intensity(op), op.gops), fontsize=7, ha="center")
    axes.set_title(
        f"{roofline.summary}\n{best.gops:.0f} GOPS in registers ({best.name}), "
        f"threads: {best.threads}",
        fontsize=9,
    )
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("GOPS")
    axes.legend(loc="lower right")
    return figure


def _intensity(op: OpBound) -> float:
    return 2 * op.multiply_adds / op.moved_bytes


def _kernel(op: OpBound) -> str:
    return ", ".join(op.kernels)


def _powers(values: Sequence[float]) -> tuple[float, float]:
    """Returns the powers of ten between which values lie."""
    low, high = floor(log10(min(values))), ceil(log10(max(values)) + 0.1)
    return 10.0**low, 10.0 ** max(high, low + 1)
