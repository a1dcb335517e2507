"""Instruction sets: how many numbers a vector holds, and how products of bytes are summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Activation: TypeAlias = Literal["s16", "u8", "s8"]


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set with what patterns have to know of it.

    A dot instruction sums products of neighbours: in each lane of 32 bits, `group` activations
    times `group` weights, which are signed. All of these are exact, also at the extremes.

    Attributes:
        name: Its name.
        lanes: Numbers of 32 bits in a vector.
        rows: Most rows of a tile of accumulators.
        vectors: Vectors in such a row.
        group: Neighbours that a dot instruction sums.
        activation: What activations are for the dot instruction; weights are bytes in memory.
    """

    name: str
    lanes: int
    rows: int
    vectors: int
    group: int
    activation: Activation

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return self.lanes * self.vectors

    @property
    def activation_bytes(self) -> int:
        """Bytes of an activation as the dot instruction reads it."""
        return 4 // self.group

    def shift(self, unsigned: bool) -> int:
        """Returns by how much an activation exceeds the stored byte that it is made of.

        Args:
            unsigned: Whether stored bytes are unsigned.
        """
        return {("u8", False): 128, ("s8", True): -128}.get((self.activation, unsigned), 0)
