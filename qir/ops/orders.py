"""Orders of axes, and what an op becomes whose operands' axes stand in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from qir.types import Code, TensorType

if TYPE_CHECKING:
    from qir.ops.op import Op

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


def keeps_ends(order: Order) -> bool:
    """Whether the first and the last axis, batch and channels, stay where they are."""
    return order[:1] + order[-1:] == (0, len(order) - 1)


def turned_axes(axes: Sequence[int], order: Order) -> tuple[int, ...]:
    """Renumbers axes, increasing."""
    return tuple(sorted(order[axis] for axis in axes))


def turned_sizes(numbers: Sequence[T], order: Order) -> tuple[T, ...]:
    """Renumbers what there is for each axis."""
    return tuple(numbers[axis] for axis in inverse(order))


def turned_spatial(numbers: Sequence[T], order: Order) -> tuple[T, ...]:
    """Renumbers what there is for each spatial dimension, or nothing where it is left out."""
    return tuple(numbers[axis - 1] for axis in inverse(order)[1:-1]) if numbers else ()


def turned_code(code: Code, order: Order) -> Code:
    """Returns the code of a tensor whose axes are put into another order."""
    return code.map_arrays(lambda factors: factors.transpose(inverse(order)))


def without(axes: Sequence[int], order: Order) -> Order:
    """Returns the order of the axes that are left when some are removed."""
    kept = [order[axis] for axis in range(len(order)) if axis not in axes]
    return tuple(sorted(kept).index(axis) for axis in kept)


def fits_last_axis(parameters: Sequence[TensorType], order: Order) -> bool:
    """Whether what broadcasts along the last axis of an operand does so in another order too."""
    last_stays = order[-1] == len(order) - 1
    return all(
        parameter.rank == 0 or (parameter.rank == 1 and (last_stays or parameter.size == 1))
        for parameter in parameters
    )
