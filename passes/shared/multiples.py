"""Values that are positive multiples of exact sums, such as scaled scores of attention."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from qir.ir import Value
from qir.ops import Mul, Reshape, Transpose
from qir.ops.op import Op


class Multiple(NamedTuple):
    """What a value is of an exact sum.

    Attributes:
        source: The value of the float program that the sum stands for.
        factor: What it is multiplied by, greater than 0.
        moves: The ops that move it, in their order.
    """

    source: Value
    factor: float
    moves: Sequence[Op]


def multiple_of_sum(value: Value, sums: Container[Value]) -> Multiple | None:
    """Goes back from a value through positive factors and moves to an exact sum, if there is one.

    Args:
        value: The value.
        sums: The values that are exact sums.
    """
    moves: list[Op] = []
    factor, source = 1.0, value
    while source not in sums:
        match source:
            case Value(Mul(), (inner, Value() as by)) if by.is_constant and by.array.size == 1:
                factor *= float(by.array.reshape(())[()])
            case Value(Reshape() | Transpose() as move, (inner,)):
                moves.append(move)
            case _:
                return None
        source = inner
    return Multiple(source, factor, moves[::-1]) if factor > 0 else None
