"""Means, average pools and softmax from sums and quotients."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qir.frontends.raising.matching import factors, near, single_use
from qir.ir import Builder, Value
from qir.ops import (
    AvgPool,
    Div,
    Exp,
    Mean,
    Mul,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    Reshape,
    Softmax,
    Sub,
)
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


@rule(Div)
def softmax(y: Value, b: Builder) -> Value | None:
    """Recognises exp(x - max x) / sum of exp(x - max x), and the same without the max."""
    powers, total = y.inputs
    match total:
        case Value(ReduceSum(axes=axes, keep_axes=True), (summed,)) if axes:
            if not computed_alike(summed, powers):
                return None
        case _:
            return None
    match powers:
        case Value(Exp(), (Value(Sub(), (x, shift)),)) if _is_max(shift, x, axes):
            return b.emit(Softmax(axes), x)
        case Value(Exp(), (x,)):
            return b.emit(Softmax(axes), x)
        case _:
            return None


def _is_max(value: Value, x: Value, axes: tuple[int, ...]) -> bool:
    match value:
        case Value(ReduceMax(axes=along, keep_axes=True), (reduced,)):
            return along == axes and computed_alike(reduced, x)
        case _:
            return False


def computed_alike(x: Value, y: Value, depth: int = 4) -> bool:
    """Whether two values are one, or the same ops make them of the same values."""
    if x is y:
        return True
    if not depth or x.op is None or x.op != y.op or x.index != y.index or x.is_constant:
        return False
    pairs = zip(x.inputs, y.inputs, strict=True)
    return len(x.inputs) == len(y.inputs) and all(
        computed_alike(one, other, depth - 1) for one, other in pairs
    )


REDUCTIONS = [keep_axes, mean, average_pool, average_pool_inside]
SOFTMAX = [softmax]
