"""Other codes for the same numbers: another range, or one for each part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.types import Affine, Array

FEW = 2**15
"""Numbers on which ranges are tried."""

SHARES = np.concatenate([np.linspace(0.1, 1, 19), [1.0]])
"""Which part of the range of the numbers is tried at either end."""


def in_code(real: Array, code: Affine, low: float, high: float) -> Array:
    """Returns numbers rounded to the steps of a code of the same width over another range.

    Args:
        real: The numbers.
        code: The code, of which the count of steps is taken.
        low: The least number; the range is stretched to hold 0.
        high: The greatest number.
    """
    first, last = code.range
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / (last - first) or 1.0
    point = round(low / step)
    return np.asarray(np.clip(np.rint(real / step), point, point + last - first) * step)


def best_clip(real: Array, code: Affine) -> tuple[float, float]:
    """Returns the range of which a code of the same width makes the least squared error.

    Args:
        real: The numbers.
        code: The code.
    """
    some = real.ravel()[:: max(1, real.size // FEW)]
    low, high = float(real.min(initial=0)), float(real.max(initial=0))
    best, least = (low, high), np.inf
    for below in SHARES if low < 0 else [1.0]:
        for above in SHARES if high > 0 else [1.0]:
            ends = low * float(below), high * float(above)
            error = float(((in_code(some, code, *ends) - some) ** 2).sum())
            if error < least:
                best, least = ends, error
    return best


def of_parts(real: Array, code: Affine, axis: int, groups: Sequence[Array]) -> Array:
    """Returns numbers rounded to a code for each part of them, over that one's own range.

    Args:
        real: The numbers.
        code: The code.
        axis: The axis along which the parts lie.
        groups: The indices of each part.
    """
    found = np.array(real)
    moved, source = np.moveaxis(found, axis, 0), np.moveaxis(real, axis, 0)
    for group in groups:
        part = source[group]
        if part.size:
            moved[group] = in_code(part, code, float(part.min()), float(part.max()))
    return found


def two_groups(real: Array) -> tuple[int, list[Array]]:
    """Returns the axis, and two groups of indices along it, whose peaks differ most.

    Args:
        real: The numbers, of rank 1 or more.
    """
    best, least = (real.ndim - 1, [np.arange(real.shape[-1])]), np.inf
    magnitude = np.abs(real)
    for axis, size in enumerate(real.shape):
        if size < 2:
            continue
        peaks = np.moveaxis(magnitude, axis, 0).reshape(size, -1).max(1)
        order = np.argsort(peaks, kind="stable")
        ends = peaks[order]
        # The squares of steps go with those of peaks, by how many numbers there are.
        cost = np.arange(1, size) * ends[:-1] ** 2 + np.arange(size - 1, 0, -1) * ends[-1] ** 2
        cut = int(np.argmin(cost))
        if cost[cut] / size < least:
            best, least = (
                (axis, [np.sort(order[: cut + 1]), np.sort(order[cut + 1 :])]),
                cost[cut] / size,
            )
    return best
