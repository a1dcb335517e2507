"""Passes over tensors in the order of memory, one vector after the other."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from qir.backends.native.kernel import Kernel

LANES = 32
"""Elements of a vector, whatever their size."""


@dataclass(frozen=True)
class FlatKernel(Kernel):
    """A pass that computes each element of the result from one of x.

    Attributes:
        apart: Whether the rows of the result lie apart: a task keeps its part of the result in
            scratch and moves it from there row by row.
    """

    apart: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def numbers(self) -> tuple[str, ...]:
        """Names of the parameters that the computation needs."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of tensors that it needs beside x."""
        return ()

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of the result."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers.

        size, block, row: elements in all, of a task and of a row. out_row: bytes from one row of
        the result to the next.
        """
        return ("size", "block", *(("row", "out_row") if self.apart else ()), *self.numbers)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", *self.tables, "out")
