"""Signal to quantization noise in dB: of a whole tensor, and of the worst of its rows."""

from __future__ import annotations

import numpy as np

from qir.report.causes import far_middle
from qir.types import Array

PERCENTILE = 0.05
"""The share of rows that may be worse than the figure that stands for rows."""


def ratio_in_decibels(exact: Array, found: Array) -> tuple[float, float]:
    """Returns signal to noise in dB: of the whole tensor, and the 5th percentile by rows.

    Args:
        exact: The numbers of the float program; those that are not finite are left out.
        found: Those of the integer program, of the same shape. One that is not finite where the
            exact one is makes its figures -inf.
    """
    signal, noise = squares(exact, found)
    whole = decibels(signal.sum(keepdims=True).reshape(1), noise.sum(keepdims=True).reshape(1))
    return float(whole[0]), least_of(decibels(*of_rows(signal, noise)))


def figures_of(exact: Array, found: Array) -> tuple[float, float]:
    """Returns the figures of `ratio_in_decibels`, the whole about the middle of a range far from 0.

    The middle itself is no signal: a code is to tell numbers from one another.
    """
    whole, rows = ratio_in_decibels(exact, found)
    if middle := far_middle(np.asarray(exact)):
        whole, _ = ratio_in_decibels(np.subtract(exact, middle), np.subtract(found, middle))
    return whole, rows


def squares(exact: Array, found: Array) -> tuple[Array, Array]:
    """Returns the squares of numbers and of what others differ by; 0 where no number is known.

    Args:
        exact: As for `ratio_in_decibels`.
        found: Likewise.
    """
    right = np.asarray(exact, np.float64)
    known = np.isfinite(right)
    right = np.where(known, right, 0)
    with np.errstate(all="ignore"):
        noise = np.where(known, (np.asarray(found, np.float64) - right) ** 2, 0)
    return right**2, np.where(np.isfinite(noise), noise, np.inf)


def of_rows(signal: Array, noise: Array) -> tuple[Array, Array]:
    """Returns the sums of rows, which lie along the last axis.

    A row of nothing but 0 has no size that its noise could be held against but that of the rows.
    """
    width = max(signal.shape[-1] if signal.ndim else 1, 1)
    rows = signal.reshape(-1, width).sum(1)
    rows = np.where(rows == 0, rows.mean() if rows.size else 0, rows)
    return rows, noise.reshape(-1, width).sum(1)


def least_of(by_row: Array) -> float:
    """Returns the 5th percentile of the figures of rows; infinite without rows."""
    return float(np.sort(by_row)[int(PERCENTILE * by_row.size)]) if by_row.size else np.inf


def decibels(signal: Array, noise: Array) -> Array:
    """Returns 10 log10 of a ratio; infinite without noise, -inf for noise without signal."""
    with np.errstate(all="ignore"):
        ratio = 10 * np.log10(signal) - 10 * np.log10(noise)
    return np.where(noise == 0, np.inf, np.where(np.isnan(ratio), -np.inf, ratio))
