"""Many bytes to one: what pools and reductions share, and reductions of whole rows.

The greatest and the least of stored bytes are stored bytes. A sum is exact, in 16 bits where its
count allows, and is stored in 32 bits, or as a byte with one rounding as `fixed31` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qir.backends.native.kernel import Kernel
from qir.backends.native.kernels.cast import Stored

How: TypeAlias = Literal["greatest", "least", "sum"]
"""How bytes are combined."""

TERMS = ("offset", "lift", "multiplier", "addend", "shift")
"""Numbers of 32 bits that make a byte of a sum; one that is stored as it is has the first alone."""


@dataclass(frozen=True)
class Combination:
    """How bytes become one number.

    Attributes:
        how: The greatest, the least, or the sum.
        unsigned: Whether the bytes are unsigned.
        bits: Of what they are combined in: 8, for sums 16 or 32.
    """

    how: How
    unsigned: bool
    bits: Literal[8, 16, 32]

    def __str__(self) -> str:
        return f"{self.how}_{'unsigned' if self.unsigned else 'signed'}_{self.bits}"


def bound_parameters(combination: Combination, to: Stored) -> tuple[str, ...]:
    """Returns the names of the parameters that bound the bytes of sums."""
    return ("low", "high") if combination.how == "sum" and to != "wide" else ()


def stored_size(combination: Combination, to: Stored) -> int:
    """Returns the bytes of what is stored."""
    return 4 if combination.how == "sum" and to == "wide" else 1


@dataclass(frozen=True)
class RowsKernel(Kernel):
    """Rows of neighbouring bytes, each combined to one number.

    Attributes:
        combination: How; sums are of 32 bits.
        to: What is stored of sums.
    """

    combination: Combination
    to: Stored = "signed"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers: rows in all and of a task, and the bytes of a row."""
        return ("rows", "block_rows", "count", *bound_parameters(self.combination, self.to))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "out", *(("terms",) if self.combination.how == "sum" else ()))


@dataclass(frozen=True)
class ArgMaxKernel(Kernel):
    """The first place of the greatest byte of each row, in 32 bits.

    Attributes:
        unsigned: Whether the bytes are unsigned.
    """

    unsigned: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers: rows in all and of a task, and the bytes of a row."""
        return ("rows", "block_rows", "count")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "out")
