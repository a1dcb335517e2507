"""The floating-point type that holds sums of products of integers exactly, and so reaches BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np

from qir.types import Array

SINGLE = 2.0**24
"""Up to here float32 holds every integer."""


def carrier(x: Array, weights: Array, bias: Array | None = None) -> type[np.floating[Any]]:
    """Returns float32 where all sums of some of the products stay below 2^24, else float64.

    Sums of products of integers of 8 and 16 bits stay below 2^53, up to which float64 is exact.

    Args:
        x: Integers of any numpy type, each of which a sum multiplies by a weight of its own.
        weights: Integers of shape [..., outputs], of which a sum has one column or a part of it.
        bias: Integers of shape [outputs], added to the sums.
    """
    most = _most(x, weights) if x.size and weights.size else 0.0
    if bias is not None and bias.size:
        most += np.abs(bias.astype(np.float64)).max()
    return np.float32 if most < SINGLE else np.float64


def _most(x: Array, weights: Array) -> float:
    """Returns the greatest magnitude that a number or a sum of some of the products can have."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    columns = weights.reshape(-1, weights.shape[-1]).astype(np.float32, copy=False)
    # A sum of magnitudes beyond 2^24 is rounded but stays there; below it no sum is rounded.
    magnitude = np.abs(columns).sum(axis=0).astype(np.float64)
    total = columns.sum(axis=0).astype(np.float64)
    above, below = (magnitude + total) / 2, (magnitude - total) / 2
    most = np.maximum(high * above - low * below, high * below - low * above).max()
    return float(max(most, magnitude.max(), high, -low))
