"""Functions of one byte: tables of 256 bytes, bounds, and the turned highest bit."""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.native.kernels.flat import FlatKernel


@dataclass(frozen=True)
class LookupKernel(FlatKernel):
    """table[x], where x is the bits of a byte as an unsigned number."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def tables(self) -> tuple[str, ...]:
        """The table of 256 bytes."""
        return ("table",)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""
        return 1, 1


@dataclass(frozen=True)
class ClampKernel(FlatKernel):
    """min(max(x, low), high) on bytes.

    Attributes:
        unsigned: Whether they are unsigned.
    """

    unsigned: bool

    @property
    def numbers(self) -> tuple[str, ...]:
        """The bounds."""
        return ("low", "high")

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""
        return 1, 1


@dataclass(frozen=True)
class FlipKernel(FlatKernel):
    """x ^ 0x80 on bytes: between signed ones and unsigned ones that are 128 more."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""
        return 1, 1
