"""Epilogues: what becomes of accumulators before they leave the registers.

A requantize by integers takes the high word of the 64-bit product with M, adds a number that holds
the rounding and the zero point, and shifts (`qir.numbers.rounding.HighWord`). One by float32
multiplies and rounds once. A sum with a stored tensor follows, where the step has one,
with the one rounding of `add`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Form: TypeAlias = Literal["fixed31", "f32_rne", "f32_rne_wide", "accumulator", "real"]
Residual: TypeAlias = Literal["", "signed", "unsigned"]

TABLES = ("bias", "multiplier", "addend", "shift")
"""Tensors of 32-bit numbers, one for each column: each form reads the first few."""
BOUNDS = ("low", "high", "point")
SUM = ("own", "other", "sum_addend", "sum_shift", "sum_point", "sum_low", "sum_high")


@dataclass(frozen=True)
class Epilogue:
    """What a kernel does with its accumulators.

    Attributes:
        form: Requantize by one of two roundings, store as they are, or as float32. With multipliers
            above 1/2, "f32_rne_wide": sums that they multiply may not fit int32.
        unsigned: Whether what is stored is unsigned bytes.
        residual: Signedness of the bytes that are added; empty for none.
        bounded: Whether the bounds are narrower than what a byte holds.
    """

    form: Form
    unsigned: bool = False
    residual: Residual = ""
    bounded: bool = False

    def __str__(self) -> str:
        residual = self.residual and f"plus_{self.residual}"
        parts = [self.form, "unsigned" * self.unsigned, residual, "bounded" * self.bounded]
        return "_".join(filter(None, parts))

    @property
    def stores_bytes(self) -> bool:
        """Whether a number that is stored is a byte; otherwise it has 32 bits."""
        return self.form in ("fixed31", "f32_rne", "f32_rne_wide")

    @property
    def size(self) -> int:
        """Bytes of a number that is stored."""
        return 1 if self.stores_bytes else 4

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it reads."""
        return TABLES[: {"accumulator": 1, "fixed31": 4}.get(self.form, 2)]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters that it reads."""
        return (*(BOUNDS if self.stores_bytes else ()), *(SUM if self.residual else ()))
