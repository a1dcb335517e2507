"""Values that are positive multiples of exact sums, such as scaled scores of attention."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

import numpy as np

from qir.ir import Builder, Value
from qir.ops import Mul, Recode
from qir.ops.op import Op
from qir.ops.traits import Moves
from qir.types import Affine, Array


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


def multiple_of_sum(
    value: Value, sums: Container[Value], rounded: Container[Value] = ()
) -> Multiple | None:
    """Goes back from a value through positive factors and moves to an exact sum, if there is one.

    Args:
        value: The value.
        sums: The values that are exact sums.
        rounded: The values of which all readers are to get a rounded form.
    """
    moves: list[Op] = []
    factor: Array = np.ones(())
    source = value
    while source not in sums:
        if source in rounded:
            return None
        match source:
            case Value(Mul(), (first, second)):
                inner, by = (second, first) if first.is_constant else (first, second)
                if by.is_constant and _is_one(by, inner, source):
                    factor = factor * by.array.astype(np.float64).reshape(())
                elif by.is_constant and _is_by_channel(by, inner, source):
                    shape = (1,) * (inner.type.rank - 1) + (-1,)
                    factor = factor * by.array.astype(np.float64).reshape(shape)
                else:
                    return None
            case Value(Op(moves=Moves.ORDER) as move, (inner,)) if np.ndim(factor) == 0:
                moves.append(move)
            case _:
                return None
        source = inner
    return Multiple(source, factor, moves[::-1]) if np.all(factor > 0) else None


def rounded_multiple(
    multiple: Multiple,
    total: Value,
    code: Affine,
    requantize: Callable[[Affine], Op],
    builder: Builder,
) -> Value:
    """Returns a multiple of an exact sum in a code, rounded once.

    The factor goes into the scale of the rounding, moves act on what is rounded.

    Args:
        multiple: The multiple.
        total: The exact sum on codes.
        code: The code.
        requantize: Returns what rounds the sum to a code.
        builder: Where to build.

    Raises:
        QirError: A factor is so small or large that no scale makes up for it.
    """
    wanted = _scaled(code, 1 / multiple.factor)
    new = builder.emit(requantize(wanted), total)
    if wanted != code:
        new = builder.emit(Recode(code), new)
    for move in multiple.moves:
        new = builder.emit(move, new)
    return new


def _scaled(code: Affine, factor: Array) -> Affine:
    """Returns a code whose scale is multiplied by a number, or by one for each channel."""
    scale = code.scale.array
    scaled = np.asarray(scale * factor, scale.dtype)
    points = np.broadcast_to(code.zero_points, scaled.shape)
    return Affine.of(code.storage, scaled, points, bounds=code.bounds, expressed=code.expressed)


def _is_one(by: Value, inner: Value, product: Value) -> bool:
    """Whether a constant is one number, which does not change the shape."""
    return by.array.size == 1 and inner.type.shape == product.type.shape


def _is_by_channel(by: Value, inner: Value, product: Value) -> bool:
    """Whether a constant has one number for each channel along the last axis of both."""
    along = by.array.shape[-1:] == (by.array.size,)
    return along and inner.type.shape == product.type.shape and product.type.rank > 0
