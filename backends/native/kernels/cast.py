"""Casts: real numbers to codes and back, and accumulators to codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qir.backends.native.kernels.flat import FlatKernel


@dataclass(frozen=True)
class QuantizeKernel(FlatKernel):
    """Quantize: one multiplication, ties to even, the zero point added after.

    Attributes:
        unsigned: Whether codes are unsigned bytes.
    """

    unsigned: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """The inverse scale as the bits of a float32, and the code."""
        return ("inverse", "low", "high", "point")

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""
        return 4, 1


Stored = Literal["signed", "unsigned", "wide"]
"""Of what is read: bytes, or numbers of 32 bits."""


@dataclass(frozen=True)
class ColumnedKernel(FlatKernel):
    """A pass with tables of 32-bit numbers for the last axis, or with one entry for all.

    A table for columns is repeated, so that a vector can be loaded anywhere in its first period.

    Attributes:
        stored: What x is.
        columns: Whether tables have an entry for each column.
    """

    stored: Stored
    columns: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """The period."""
        return ("period",) if self.columns else ()

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""
        return (4 if self.stored == "wide" else 1), 1


@dataclass(frozen=True)
class DequantizeKernel(ColumnedKernel):
    """Dequantize: the difference from the zero point, in float32, times the scale."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The zero point; codes of 32 bits have none."""
        return (*super().numbers, "point")

    @property
    def tables(self) -> tuple[str, ...]:
        """The scales."""
        return ("scale",)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""
        return (4 if self.stored == "wide" else 1), 4


RequantizeForm = Literal["fixed31", "lifted", "f32_rne"]
"""How a requantize rounds; `lifted` is fixed31 with limit and lift."""


@dataclass(frozen=True)
class RequantizeKernel(ColumnedKernel):
    """Requantize: one rounding by the high word of the product, or one float32 multiplication.

    With H the high word of (x << lift) * M, the rounded quotient is (H + half) >> places. The lift
    makes the quotient one of the high word alone; x is held to `limit` before, beyond which every
    code is a bound (`qir.numbers.rounding.HighWord`).

    Attributes:
        unsigned: Whether the result is unsigned bytes.
        form: The rounding.
    """

    unsigned: bool
    form: RequantizeForm

    @property
    def numbers(self) -> tuple[str, ...]:
        """The code."""
        return (*super().numbers, "low", "high", "point")

    @property
    def tables(self) -> tuple[str, ...]:
        """What a requantization by each form reads."""
        if self.form == "f32_rne":
            return ("multiplier",)
        return ("multiplier", "half", "places", *(("lift", "limit") * (self.form == "lifted")))
