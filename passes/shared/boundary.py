"""What a graph takes and returns: floating-point numbers, or stored numbers of which code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from qir.ir import Graph, Value
from qir.types import Affine, DType

Interface: TypeAlias = Literal["float", "i8", "u8"]
"""Floating-point numbers, or stored numbers of one of two types."""

Wanted: TypeAlias = Affine | DType
"""A code, or the storage of a code that follows from a range."""


@dataclass(frozen=True, eq=False)
class Boundary:
    """What a program or a region takes and returns; floating-point numbers where it is not told.

    Attributes:
        taken: The inputs that are stored numbers.
        returned: What is wanted of each value that is returned; empty for floats alone.
    """

    taken: Mapping[Value, Wanted] = field(default_factory=dict)
    returned: Sequence[Wanted | None] = ()

    @staticmethod
    def of_program(graph: Graph, inputs: Interface, outputs: Interface) -> Boundary:
        """Returns that of a whole program, all of whose inputs and outputs are alike."""
        taken = {} if inputs == "float" else dict.fromkeys(graph.inputs, DType(inputs))
        returned = () if outputs == "float" else (DType(outputs),) * len(graph.outputs)
        return Boundary(taken, returned)

    @property
    def returns_codes(self) -> bool:
        """Whether something that is returned is to have a code."""
        return any(wanted is not None for wanted in self.returned)
