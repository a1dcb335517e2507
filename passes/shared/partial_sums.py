"""Sums of products cut along the summed axis: what it gains on codes, and how it is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qir.ir import Builder, Value
from qir.numbers.interval import Interval
from qir.ops import Add
from qir.types import Array

_STEPS = 255
"""Steps of a code of 8 bits between the ends of its range."""
_LARGEST_WEIGHT = 127


def step(low: float, high: float) -> float:
    """Returns the step of the code of 8 bits for a range, which is widened to hold 0."""
    return (max(high, 0.0) - min(low, 0.0)) / _STEPS


def predicted_error(step: float, mean_squares: Array, weights: Array) -> float:
    """Predicts the squared error of a sum of products on codes, summed over its columns.

    Rounding to a step s makes an error of mean square s^2 / 12. That of the activations counts with
    the weights' squares, that of the weights, whose step is a 127th of the column's largest, with
    the activations'.

    Args:
        step: Step of the activations' code.
        mean_squares: Mean square of the activations of each row of the weights [rows].
        weights: The weights [rows, columns].
    """
    if not weights.size:
        return 0.0
    of_activations = step**2 * float(np.square(weights, dtype=np.float64).sum())
    steps = np.abs(weights).max(axis=0).astype(np.float64) / _LARGEST_WEIGHT
    of_weights = float(np.square(steps).sum()) * float(mean_squares.sum(dtype=np.float64))
    return (of_activations + of_weights) / 12


def decibels(before: float, after: float) -> float:
    """Returns by how many decibels an error falls."""
    if before <= 0:
        return 0.0
    return float(10 * np.log10(before / after)) if after > 0 else float(np.inf)


def bound(low: Array, high: Array, weights: Array) -> Interval:
    """Bounds a sum of products, one interval for all columns.

    Args:
        low: Lower bounds of the activations of each row of the weights [rows].
        high: Upper bounds, likewise.
        weights: The weights [rows, columns].
    """
    real = weights.astype(np.float64)
    middle = (low + high) / 2 @ real
    reach = (high - low) / 2 @ np.abs(real)
    return Interval.of((middle - reach).min(initial=0), (middle + reach).max(initial=0))


@dataclass(frozen=True, eq=False)
class PartialSum:
    """One of the sums that a sum of products becomes.

    Attributes:
        x: The activations.
        kernel: Their weights.
        bound: What the sum lies in, without the bias.
    """

    x: Value
    kernel: Value
    bound: Interval


def emit_sum(root: Value, parts: Sequence[PartialSum], builder: Builder) -> Value:
    """Builds a sum of products as the sum of its parts; the first one has the bias.

    Ranges of partial sums follow from what was observed of the whole and from the bounds of the
    parts, whichever say more.

    Args:
        root: The sum of products.
        parts: The parts, at least two.
        builder: Where to build.

    Returns:
        What to use instead, without a name, a range and an origin of its own.
    """
    assert root.op is not None
    assert root.range is not None
    seen = root.range
    builder.loc = root.loc
    bias = root.inputs[2:]
    bounds = [part.bound for part in parts]
    if bias:
        bounds[0] = bounds[0] + Interval.point(bias[0].array).hull()

    def covered(inside: Sequence[Interval], outside: Sequence[Interval]) -> Interval:
        zero = Interval.of(0, 0)
        return sum(inside, zero).intersect(seen - sum(outside, zero))

    total: Value | None = None
    for index, part in enumerate(parts):
        product = builder.emit(root.op, part.x, part.kernel, *(bias if index == 0 else ()))
        root.owner.name_after(product, f"{root.name}.part")
        product.observed = covered(bounds[index : index + 1], bounds[:index] + bounds[index + 1 :])
        if total is None:
            total = product
            continue
        total = builder.emit(Add(), total, product)
        if index + 1 < len(parts):
            root.owner.name_after(total, f"{root.name}.sum")
            total.observed = covered(bounds[: index + 1], bounds[index + 1 :])
    assert total is not None
    return total
