"""Values that are positive multiples of exact sums, such as scaled scores of attention."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

from qir.ir import Value
from qir.ops import Mul
from qir.ops.op import Op
from qir.ops.traits import Moves
from qir.types import Array


class Multiple(NamedTuple):
    """What a value is of an exact sum.

    Attributes:
        source: The value of the float program that the sum stands for.
        factor: What it is multiplied by, greater than 0: a scalar, or a number for each channel
            along the last axis, of the source's rank.
        moves: The ops that move it, in their order.
    """

    source: Value
    factor: Array
    moves: Sequence[Op]


def multiple_of_sum(value: Value, sums: Container[Value]) -> Multiple | None:
    """Goes back from a value through positive factors and moves to an exact sum, if there is one.

    Args:
        value: The value.
        sums: The values that are exact sums.
    """
    moves: list[Op] = []
    factor: Array = np.ones(())
    source = value
    while source not in sums:
        match source:
            case Value(Mul(), (inner, by)) if by.is_constant and by.array.size == 1:
                factor = factor * by.array.astype(np.float64).reshape(())
            case Value(Mul(), (inner, by)) if by.is_constant and _is_by_channel(by, inner, source):
                shape = (1,) * (inner.type.rank - 1) + (-1,)
                factor = factor * by.array.astype(np.float64).reshape(shape)
            case Value(Op(moves=Moves.ORDER) as move, (inner,)) if np.ndim(factor) == 0:
                moves.append(move)
            case _:
                return None
        source = inner
    return Multiple(source, factor, moves[::-1]) if np.all(factor > 0) else None


def _is_by_channel(by: Value, inner: Value, product: Value) -> bool:
    """Whether a constant has one number for each channel along the last axis of both."""
    along = by.array.shape[-1:] == (by.array.size,)
    return along and inner.type.shape == product.type.shape and product.type.rank > 0
