"""What moves when axes are put into another order, and how reshapes meet transposes."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from qir.ir import Node
from qir.ops.orders import Order, Turned
from qir.types import Dim, Shape, Size


def turned_rank(node: Node) -> int:
    """Returns the rank of the tensors whose axes `turned` puts in another order.

    It is that of the result where operands broadcast.
    """
    broadcasts = node.op.elementwise or node.op.broadcasts
    return (node.outputs if broadcasts else node.inputs)[0].type.rank


def turned(node: Node, order: Order) -> Turned | None:
    """Asks the op of a node what it becomes when its operands are turned; see `Op.turned`."""
    return node.op.turned(order, [value.type for value in node.inputs])


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
