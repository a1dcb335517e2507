"""Passes that compute several ops on each element: a program over numbers of 32 bits.

The domain is rows of columns. A tensor has all of it, a row that is the same for all rows, or one
number; of a tensor with longer rows a pass may read a part of the columns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qir.backends.native.kernel import Kernel

Held: TypeAlias = Literal["s8", "u8", "s16", "u16", "s32", "f32"]
"""What an element of a tensor is."""
Extent: TypeAlias = Literal["full", "row", "one"]
"""How a tensor meets the domain."""
Name: TypeAlias = Literal[
    "load",
    "number",
    "literal",
    "sub",
    "mul",
    "clamped_sum",
    "clamped_difference",
    "shifted_sum",
    "scaled",
    "high_word",
    "lifted",
    "limited",
    "float_scaled",
    "quantize",
    "dequantize",
    "lookup",
    "long_lookup",
    "store",
]
"""What an instruction computes; the code says of which operands."""


@dataclass(frozen=True)
class Instruction:
    """An instruction of a pass.

    Attributes:
        name: What it computes.
        operands: Numbers of the instructions whose results it takes.
        at: The tensor or parameter that it reads or writes, or the number that it is.
        held: What an element of the tensor is.
        form: How the tensor meets the domain.
        column: The column of the tensor that the first one of the domain is.
    """

    name: Name
    operands: tuple[int, ...] = ()
    at: int = 0
    held: Held = "s32"
    form: Extent = "full"
    column: int = 0


@dataclass(frozen=True)
class PointwiseKernel(Kernel):
    """A pass of several ops.

    Attributes:
        program: The instructions, each after those whose results it takes.
        pitches: Number of the tensors that may have rows, which come first.
        tables: Number of the others.
        numbers: Number of the parameters that it reads.
        short: Whether rows have fewer elements than a vector.
    """

    program: tuple[Instruction, ...]
    pitches: int
    tables: int
    numbers: int
    short: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers.

        rows, block_rows: in all and of a task. columns: elements of a row. pitch: bytes from one
        row of a tensor to the next.
        """
        return (
            *("rows", "block_rows", "columns"),
            *(f"pitch{index}" for index in range(self.pitches)),
            *(f"number{index}" for index in range(self.numbers)),
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return tuple(f"tensor{index}" for index in range(self.pitches + self.tables))

    @property
    def symbol(self) -> str:
        """Name of the function: a digest of the program, which is long."""
        digest = hashlib.sha256(repr((self.program, self.short)).encode()).hexdigest()
        return f"qir_pointwise_{len(self.program)}_{digest[:24]}"
