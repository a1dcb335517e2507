"""Scales of accumulators that vary along several axes: kept as factors, seldom multiplied out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from math import lcm, prod
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.types.arrays import FrozenArray, expand
from qir.types.dtype import Array

MOST_MULTIPLIED_OUT = 2**20
"""Numbers that factors are multiplied out to: a multiplier for each is 8 MB of a program."""


class FactoredArray(FrozenArray):
    """The product of arrays of one rank, each of which varies along an axis that no other does.

    It is equal to another one of equal factors in the same order. The product is formed where
    somebody asks for `array`, and only up to `MOST_MULTIPLIED_OUT` numbers.

    Args:
        factors: At least two arrays; each dimension of one divides the tensor's that they belong
            to. `multiplied` makes of any arrays such.
    """

    __slots__ = ("_factors",)

    def __init__(self, factors: Sequence[FrozenArray]) -> None:
        self._factors = tuple(factors)

    @property
    def factors(self) -> tuple[FrozenArray, ...]:
        """The arrays."""
        return self._factors

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the product."""
        return _common(self._factors)

    # What the base class is given, this one forms when it is first asked for.
    @cached_property
    def array(self) -> Array:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The product, factor by factor in their order.

        Raises:
            QirError: It has more numbers than `MOST_MULTIPLIED_OUT`.
        """
        if prod(self.shape) > MOST_MULTIPLIED_OUT:
            sizes = " and ".join(str(list(each.shape)) for each in self._factors)
            raise QirError(
                f"code: expected at most {MOST_MULTIPLIED_OUT:,} scales where the factors of an "
                f"accumulator's scale are multiplied out, got factors of shapes {sizes}; "
                "dequantize the accumulator, or give one of the operands one scale"
            )
        spread = [expand(factor.array, self.shape) for factor in self._factors]
        product = np.asarray(reduce(np.multiply, spread))
        product.flags.writeable = False
        return product

    def map(self, change: Callable[[Array], Array]) -> FrozenArray:
        """Applies a change of layout to each factor; one that joins axes may leave one factor."""
        return multiplied(*(factor.map(change) for factor in self._factors))

    def astype(self, dtype: Any) -> FrozenArray:
        """Returns it with factors of another type."""
        return FactoredArray([factor.astype(dtype) for factor in self._factors])

    @cached_property
    def _hash(self) -> int:
        return hash(self._factors)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrozenArray):
            return NotImplemented
        return isinstance(other, FactoredArray) and self._factors == other._factors

    def __repr__(self) -> str:
        return "*".join(map(repr, self._factors))


def multiplied(*arrays: FrozenArray) -> FrozenArray:
    """Returns the product of arrays, as factors where it would be larger than each of them.

    Args:
        arrays: Scalars and arrays of one rank, of one type.
    """
    factors: list[FrozenArray] = []
    for array in arrays:
        for at, other in enumerate(factors):
            shape = _common((other, array))
            if shape in (other.shape, array.shape):
                pair = (expand(each.array, shape) for each in (other, array))
                factors[at] = FrozenArray(np.multiply(*pair))
                break
        else:
            factors.append(array)
    return factors[0] if len(factors) == 1 else FactoredArray(factors)


def _common(arrays: Sequence[FrozenArray]) -> tuple[int, ...]:
    """Returns the fewest parts along each axis by which those of all arrays divide."""
    rank = max(len(array.shape) for array in arrays)
    shapes = [array.shape or (1,) * rank for array in arrays]
    return tuple(lcm(*counts) for counts in zip(*shapes, strict=True))
