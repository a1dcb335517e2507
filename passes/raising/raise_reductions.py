"""raise-reductions: sums and quotients become means and average pools."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qir.ir import Builder, Value
from qir.ops import (
    AvgPool,
    Div,
    Mean,
    Mul,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Reshape,
)
from qir.passes.shared.matching import factors, near, single_use
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


@rule(Reshape)
def keep_axes(y: Value, b: Builder) -> Value | None:
    """Lets a reduction keep the axes that a reshape gives back to it."""
    (reduced,) = y.inputs
    match reduced:
        case Value(ReduceSum() | ReduceMax() | ReduceMin() | ReduceProd() | Mean() as op, (x,)) if (
            not op.keep_axes and single_use(reduced)
        ):
            kept = replace(op, keep_axes=True)
            return b.emit(kept, x) if kept.result(x.type) == y.type else None
        case _:
            return None


@rule(Mul, Div)
def mean(y: Value, b: Builder) -> Value | None:
    """Recognises a sum over axes divided by the number of its terms."""
    match factors(y):
        case number, [Value(ReduceSum() as op, (x,)) as total] if total.type == y.type:
            sizes = [x.type.shape[axis] for axis in op.axes]
            count = math.prod(size for size in sizes if isinstance(size, int))
            is_known = all(isinstance(size, int) for size in sizes)
            if is_known and count and near(number, 1 / count, y):
                return b.emit(Mean(op.axes, op.keep_axes), x)
            return None
        case _:
            return None


@rule(Mul, Div)
def average_pool(y: Value, b: Builder) -> Value | None:
    """Recognises a sum over windows, which is a mean times their size, divided by that size."""
    match factors(y):
        case number, [Value(AvgPool(count_padding=True) as op, (x,)) as pooled]:
            if pooled.type != y.type or not near(number, 1, y):
                return None
            return b.emit(replace(op, count_padding=op.padding != "valid"), x)
        case _:
            return None


@rule(Div)
def average_pool_inside(y: Value, b: Builder) -> Value | None:
    """Recognises a sum over windows divided by the numbers of taps inside the tensor."""
    sums, counts = y.inputs
    match factors(sums):
        case number, [Value(AvgPool(count_padding=True) as op, (x,))] if counts.is_constant:
            inside = replace(op, count_padding=False)
            if near(number, math.prod(op.window), y) and _holds_counts(counts, inside, x):
                return b.emit(inside, x)
            return None
        case _:
            return None


def _holds_counts(value: Value, pool: AvgPool, x: Value) -> bool:
    sizes = tuple(size for size in x.type.shape[1:-1] if isinstance(size, int))
    if len(sizes) != len(pool.window):
        return False
    wanted, found = np.broadcast_arrays(pool.counts(sizes), value.array)
    return np.array_equal(wanted, found)


@register
class RaiseReductions(Raising):
    """Finds means and average pools by sums and quotients."""

    name = "raise-reductions"
    rules = (keep_axes, mean, average_pool, average_pool_inside)
