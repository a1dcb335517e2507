"""Sums, products and extrema of two tensors of bytes.

x has as many elements as the result, seen as rows. y has a row for every few of them, either of the
same length or a shorter one that repeats within the row: a scalar, a vector of channels, the gate
of a squeeze-and-excite block.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from qir.backends.native.kernel import Kernel

LONGEST_PERIOD = 512
"""Longest row of y that may repeat within a row of x."""


@dataclass(frozen=True)
class PairsKernel(Kernel):
    """A pass over two tensors of bytes.

    Attributes:
        x_unsigned: Whether x is unsigned bytes.
        y_unsigned: Whether y is.
        unsigned: Whether the result is.
        repeats: Whether rows of y repeat within those of x.
    """

    x_unsigned: bool
    y_unsigned: bool
    unsigned: bool
    repeats: bool

    @property
    def size(self) -> int:
        """Bytes of an element of the result."""
        return 1

    @property
    @abstractmethod
    def numbers(self) -> tuple[str, ...]:
        """Names of the parameters that the computation needs."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers.

        rows, block_rows: in all and of a task. length, block: elements of a row and of a task in
        it. ranges: blocks of a row. y_rows: rows of x that one of y serves. period: its length.
        """
        return (
            "rows",
            "block_rows",
            "length",
            "block",
            "ranges",
            "y_rows",
            "period",
            *self.numbers,
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "y", "out")


@dataclass(frozen=True)
class SumKernel(PairsKernel):
    """A signed sum of two operands with one rounding (`common_shift.common_shift_multipliers`)."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Multipliers, the addend that holds zero points and rounding, and the result's code."""
        return ("own", "other", "addend", "shift", "point", "low", "high")


@dataclass(frozen=True)
class ProductKernel(PairsKernel):
    """The product of two differences from zero points, rounded by mode fixed31.

    Attributes:
        wide: Whether products are stored as they are, in 32 bits.
    """

    wide: bool

    @property
    def size(self) -> int:
        """Bytes of an element of the result."""
        return 4 if self.wide else 1

    @property
    def numbers(self) -> tuple[str, ...]:
        """Zero points; what `RequantizeKernel` reads, and the result's code."""
        points = ("x_point", "y_point")
        if self.wide:
            return points
        return (*points, "lift", "multiplier", "half", "places", "point", "low", "high")


@dataclass(frozen=True)
class ExtremumKernel(PairsKernel):
    """The greater or the lesser of two stored numbers.

    Attributes:
        greatest: Which.
    """

    greatest: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """None."""
        return ()
