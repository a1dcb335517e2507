"""A jaxpr without calls: variables, equations, and the programs that loops and branches run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qir.interop.jax_internals import Primitive
from qir.ops.regions import Kind


@dataclass(eq=False)
class Slot:
    """A variable of the flat program.

    Attributes:
        aval: Shape and type, as jax describes them.
        constant: The array, where the variable is a constant of the jaxpr.
    """

    aval: Any
    constant: Any = None


@dataclass(eq=False)
class Equation:
    """One application of a primitive."""

    primitive: Primitive
    params: Mapping[str, Any]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    loc: str | None


@dataclass(eq=False)
class Call:
    """A function that was inlined but whose name says what it computes."""

    name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


@dataclass(eq=False)
class FlatProgram:
    """A jaxpr without calls; `calls` lists what was inlined, outer before inner."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...] = ()
    equations: list[Equation] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


@dataclass(eq=False)
class Way:
    """What goes through a loop or branch: the variables that one thing is, as a `Passage` says.

    Attributes:
        kind: How it goes through.
        operand: The variable outside; None where it begins inside.
        inputs: Variables that programs take, each with the position of its program.
        outputs: Variables that programs return for it, likewise.
        result: The variable that it is behind; None where it ends inside.
    """

    kind: Kind
    operand: Slot | None
    inputs: tuple[tuple[int, Slot], ...] = ()
    outputs: tuple[tuple[int, Slot], ...] = ()
    result: Slot | None = None


@dataclass(eq=False)
class RegionEquation(Equation):
    """A loop or branch. What nothing needs of it has no way, though its parameters tell of it.

    Attributes:
        bodies: The programs that it runs.
        ways: What goes through: invariants, what is carried, stacked operands, stacked results.
        whole: All that the primitive reads, with its parameters as they are.
        results: All that it computes.
        condition: The position of the program that says whether to go on, or None.
    """

    bodies: tuple[FlatProgram, ...]
    ways: list[Way]
    whole: tuple[Slot, ...]
    results: tuple[Slot, ...]
    condition: int | None = None

    def settle(self, ways: Sequence[Way]) -> None:
        """Lets the equation and its programs take and give what some ways say."""
        self.ways = list(ways)
        self.inputs = tuple(way.operand for way in ways if way.operand is not None)
        self.outputs = tuple(way.result for way in ways if way.result is not None)
        for place, body in enumerate(self.bodies):
            body.inputs = tuple(slot for way in ways for at, slot in way.inputs if at == place)
            if place != self.condition:
                body.outputs = tuple(
                    slot for way in ways for at, slot in way.outputs if at == place
                )
