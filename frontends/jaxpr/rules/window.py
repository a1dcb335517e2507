"""Primitives that reduce sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from qir.errors import UnsupportedError
from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.jaxpr.rules.convolution import spelled
from qir.frontends.shared.emitter import Emitter, Operand
from qir.ir import Value
from qir.ops import AvgPool, MaxPool, Mul, Neg
from qir.ops.pool import Pool
from qir.types import product

PoolOp = Callable[..., Pool]


@primitive("reduce_window_max")
def reduce_window_max(b: Emitter, x: Operand, **params: Any) -> Operand:
    """Max pooling."""
    return _pool(b, "reduce_window_max", MaxPool, x, **params)


@primitive("reduce_window_min")
def reduce_window_min(b: Emitter, x: Operand, **params: Any) -> Operand:
    """Max pooling of the negative."""
    return b.emit(Neg(), _pool(b, "reduce_window_min", MaxPool, b.emit(Neg(), x), **params))


@primitive("reduce_window_sum")
def reduce_window_sum(b: Emitter, x: Operand, **params: Any) -> Operand:
    """The mean of the windows times their size; dividing by it makes it average pooling again."""

    def average(window: tuple[int, ...], strides: tuple[int, ...], padding: Any) -> Pool:
        return AvgPool(window, strides, padding, count_padding=True)

    if not x.type.is_float:
        raise UnsupportedError(f"reduce_window_sum: expected floating-point numbers, got {x.type}")
    means = _pool(b, "reduce_window_sum", average, x, **params)
    return b.elementwise(Mul(), means, b.scalar(prod(params["window_dimensions"]), x.type))


def _pool(
    b: Emitter,
    name: str,
    op: PoolOp,
    x: Operand,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
    **_: Any,
) -> Operand:
    """Brings the pooled axes between a batch and a channel axis, and back."""
    rank = x.type.rank
    if any(step != 1 for step in (*base_dilation, *window_dilation)):
        raise UnsupportedError(f"{name}: expected no dilation")
    pads = [(int(low), int(high)) for low, high in padding]
    pooled = [
        axis
        for axis in range(rank)
        if window_dimensions[axis] != 1 or window_strides[axis] != 1 or pads[axis] != (0, 0)
    ]
    others = [axis for axis in range(rank) if axis not in pooled]
    if not pooled:
        return x
    if 3 <= rank <= 5 and 0 in others and rank - 1 in others:
        pooled, others = list(range(1, rank - 1)), [0, rank - 1]
    if len(pooled) > 3:
        raise UnsupportedError(f"{name}: expected windows over 1 to 3 axes, got {len(pooled)}")
    batch, channels = (others[:-1], others[-1:]) if len(others) > 1 else (others, [])
    order = [*batch, *pooled, *channels]
    moved = b.transpose(x, order)
    outer, inner = moved.type.shape[: len(batch)], moved.type.shape[len(batch) + len(pooled) :]
    sizes = moved.type.shape[len(batch) : len(batch) + len(pooled)]
    laid = b.reshape(moved, (product(outer), *sizes, product(inner)))
    window = tuple(int(window_dimensions[axis]) for axis in pooled)
    strides = tuple(int(window_strides[axis]) for axis in pooled)
    spelling = spelled(sizes, window, strides, [pads[axis] for axis in pooled])
    found: Value = b.emit(op(window, strides, spelling), laid)
    back = b.reshape(found, (*outer, *found.type.shape[1:-1], *inner))
    return b.transpose(back, [order.index(axis) for axis in range(rank)])
