"""What ops become when the axes of their operands stand in another order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias, TypeVar

from qir.ir import Node
from qir.ops import (
    ArgMax,
    BatchNorm,
    Concat,
    Dequantize,
    Dot,
    ExpBelowMax,
    Gather,
    GroupNorm,
    L2Norm,
    LayerNorm,
    Lookup,
    Lookup2,
    Pad,
    Quantize,
    Recode,
    Requantize,
    Reverse,
    RmsNorm,
    Slice,
    Softmax,
    Split,
    Tile,
)
from qir.ops.op import Op
from qir.ops.pool import Pool
from qir.ops.reduce import Reduction
from qir.ops.resize import Resize
from qir.ops.windows import Padding
from qir.types import Code, Dim, DType, Shape, Size

Order: TypeAlias = tuple[int, ...]
"""The axes of a tensor in terms of another's: axis i of the first is axis order[i] of the other."""

T = TypeVar("T")


def identity(rank: int) -> Order:
    """Returns the order that changes nothing."""
    return tuple(range(rank))


def inverse(order: Order) -> Order:
    """Returns the order that undoes another one."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def after(outer: Order, inner: Order) -> Order:
    """Returns the order of transpose(transpose(x, inner), outer) in terms of x."""
    return tuple(inner[axis] for axis in outer)


class Turned(NamedTuple):
    """An op on operands whose axes stand in another order.

    Attributes:
        op: The op with its axes, windows and codes renumbered.
        operands: The operands that are turned; the others stay.
        orders: For each result, the order of the old result's axes in terms of the new one's.
    """

    op: Op
    operands: Sequence[int]
    orders: tuple[Order, ...]


def turned_rank(node: Node) -> int:
    """Returns the rank of the tensors whose axes `turned` puts in another order.

    It is that of the result where operands broadcast.
    """
    broadcasts = node.op.elementwise or isinstance(node.op, Lookup2)
    return (node.outputs if broadcasts else node.inputs)[0].type.rank


def turned(node: Node, order: Order) -> Turned | None:
    """Tells what a node becomes when its operands are turned.

    Args:
        node: The node.
        order: The order of the operands' axes in terms of those of what is to be operands instead.

    Returns:
        None for an op that is tied to the order of its axes.
    """
    op, rank = node.op, len(order)
    batch_and_channels_stay = order[:1] + order[-1:] == (0, rank - 1)
    match op:
        case Lookup() | Dequantize():
            return Turned(op, (0,), (order,))
        case Lookup2():
            return Turned(op, (0, 1), (order,))
        case Quantize() | Requantize():
            return Turned(op.with_code(_turned_code(op.to, order)), (0,), (order,))
        case Recode():
            to = _turned_code(op.to, order) if isinstance(op.to, Code) else op.to
            return Turned(Recode(to), (0,), (order,))
        case Softmax() | ExpBelowMax():
            # A mask has a rank and a shape of its own.
            if any(value.type.dtype is DType.BOOL for value in node.inputs[1:]):
                return None
            axes = tuple(sorted(order[axis] for axis in op.axes))
            return Turned(replace(op, axis=axes), (0,), (order,))
        case LayerNorm() | RmsNorm() | L2Norm() if _has_last_parameters(node, order):
            axes = tuple(sorted(order[axis] for axis in op.axes))
            return Turned(replace(op, axes=axes), (0,), (order,))
        case GroupNorm() if batch_and_channels_stay and _has_last_parameters(node, order):
            return Turned(op, (0,), (order,))
        case BatchNorm() if order[-1] == rank - 1:
            return Turned(op, (0,), (order,))
        case Dot(batch=0) if order[-1] == rank - 1:
            return Turned(op, (0,), (order,))
        case Concat():
            return Turned(replace(op, axis=order[op.axis]), range(len(node.inputs)), (order,))
        case Split():
            orders = (order,) * len(node.outputs)
            return Turned(replace(op, axis=order[op.axis]), (0,), orders)
        case Gather() if node.inputs[1].type.rank == 1:
            return Turned(replace(op, axis=order[op.axis]), (0,), (order,))
        case Slice():
            cuts = sorted((order[axis], *cut) for axis, *cut in op.cuts)
            axes, start, limit, stride = zip(*cuts, strict=True) if cuts else ((),) * 4
            return Turned(Slice(axes, start, limit, stride if op.stride else ()), (0,), (order,))
        case Reverse():
            return Turned(Reverse(tuple(sorted(order[axis] for axis in op.axes))), (0,), (order,))
        case Pad():
            low, high = _turned_sizes(op.low, order), _turned_sizes(op.high, order)
            return Turned(replace(op, low=low, high=high), (0,), (order,))
        case Tile():
            return Turned(Tile(_turned_sizes(op.repeats, order)), (0,), (order,))
        case Pool() if batch_and_channels_stay:
            window, strides = _turned_spatial(op.window, order), _turned_spatial(op.strides, order)
            padding: Padding = op.padding
            if not isinstance(padding, str):
                padding = _turned_spatial(padding, order)
            pool = replace(op, window=window, strides=strides, padding=padding)
            return Turned(pool, (0,), (order,))
        case Resize() if batch_and_channels_stay:
            return Turned(replace(op, sizes=_turned_spatial(op.sizes, order)), (0,), (order,))
        case Reduction():
            axes = tuple(sorted(order[axis] for axis in op.axes))
            kept = order if op.keep_axes else _without(op.axes, order)
            return Turned(replace(op, axes=axes), (0,), (kept,))
        case ArgMax():
            kept = order if op.keep_axes else _without((op.axis,), order)
            return Turned(replace(op, axis=order[op.axis]), (0,), (kept,))
        case _ if op.elementwise:
            return Turned(op, range(len(node.inputs)), (order,))
        case _:
            return None


def _has_last_parameters(node: Node, order: Order) -> bool:
    """Whether what broadcasts against a norm's operand does so in the other order as well."""
    parameters = [value.type for value in node.inputs[1:]]
    last_stays = order[-1] == len(order) - 1
    return all(
        parameter.rank == 0 or (parameter.rank == 1 and (last_stays or parameter.size == 1))
        for parameter in parameters
    )


def _turned_code(code: Code, order: Order) -> Code:
    return code.map_arrays(lambda factors: factors.transpose(inverse(order)))


def _turned_sizes(numbers: Sequence[T], order: Order) -> tuple[T, ...]:
    """Renumbers what there is for each axis."""
    return tuple(numbers[axis] for axis in inverse(order))


def _turned_spatial(numbers: Sequence[T], order: Order) -> tuple[T, ...]:
    """Renumbers what there is for each spatial dimension, or nothing where it is left out."""
    return tuple(numbers[axis - 1] for axis in inverse(order)[1:-1]) if numbers else ()


def _without(axes: Sequence[int], order: Order) -> Order:
    """Returns the order of the axes that are left when some are removed."""
    kept = [order[axis] for axis in range(len(order)) if axis not in axes]
    return tuple(sorted(kept).index(axis) for axis in kept)


def moves_nothing(order: Order, shape: Shape) -> bool:
    """Whether the numbers of a tensor stay in row-major order when its axes are put into an order.

    Args:
        order: The order of the new axes in terms of the tensor's.
        shape: The tensor's shape.
    """
    axes = [axis for axis in order if shape[axis] != 1]
    return axes == sorted(axes)


class Block(NamedTuple):
    """Axes that a reshape makes of others, sizes of 1 aside.

    Attributes:
        before: Consecutive axes of the operand.
        after: Consecutive axes of the result, with as many elements.
    """

    before: Order
    after: Order


def reshape_blocks(before: Shape, after: Shape) -> list[Block] | None:
    """Takes a reshape apart into as many independent ones of few axes as there are.

    Axes of size 1 are left out. None where named sizes can't be compared.
    """
    olds = [axis for axis, size in enumerate(before) if size != 1]
    news = [axis for axis, size in enumerate(after) if size != 1]
    blocks = []
    while olds or news:
        if not (olds and news):
            return None
        taken, given = [olds.pop(0)], [news.pop(0)]
        left, right = before[taken[0]], after[given[0]]
        while left != right:
            shorter = _shorter(left, right)
            if shorter == 0 and olds:
                left = left * before[olds[0]]
                taken.append(olds.pop(0))
            elif shorter == 1 and news:
                right = right * after[news[0]]
                given.append(news.pop(0))
            else:
                return None
        blocks.append(Block(tuple(taken), tuple(given)))
    return blocks


def _shorter(left: Size, right: Size) -> int | None:
    """Returns which of two different sizes has to be multiplied so that they may become equal."""
    a, b = (size if isinstance(size, Dim) else Dim(size, ()) for size in (left, right))
    if a.names == b.names:
        return 0 if a.factor < b.factor else 1
    return next((index for index, (x, y) in enumerate([(a, b), (b, a)]) if _lacks(x, y)), None)


def _lacks(size: Dim, other: Dim) -> bool:
    """Whether the names of one size are some of the other's."""
    return not Counter(size.names) - Counter(other.names)
