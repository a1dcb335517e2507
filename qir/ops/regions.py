"""Ops that run graphs of their own: what goes through them, and the types that it has inside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from qir.errors import QirError, counted
from qir.ops.op import Op
from qir.ops.rules import QuantRule
from qir.types import Array, Code, Size, TensorType

Signature: TypeAlias = tuple[tuple[TensorType, ...], tuple[TensorType, ...]]
"""The types that a region takes and those that it returns."""

Body: TypeAlias = Callable[..., Sequence[Any]]
"""A region as a function of arrays."""

Kind: TypeAlias = Literal["invariant", "carried", "stacked"]
"""How something goes through: the same in every trip, handed on from trip to trip, or for each trip
one part, which together stand along an axis 0."""


class Passage(NamedTuple):
    """One thing that goes through an op with regions: it has one code on its way.

    Attributes:
        kind: How it goes through.
        operand: The position of the operand; None where it begins inside.
        inputs: The region and the position of each input of a region that it is.
        outputs: The region and the position of each value that a region returns for it.
        result: The position of the result; None where it ends inside.
    """

    kind: Kind
    operand: int | None
    inputs: tuple[tuple[int, int], ...] = ()
    outputs: tuple[tuple[int, int], ...] = ()
    result: int | None = None

    def __str__(self) -> str:
        place = f"operand {self.operand}" if self.operand is not None else f"result {self.result}"
        return f"{self.kind} {place}"

    def inner(self, type: TensorType) -> TensorType:
        """Returns the type inside of something that has a type outside.

        Raises:
            QirError: It is stacked, and has no axis 0 or a code that varies along it.
        """
        if self.kind != "stacked":
            return type
        if not type.rank:
            raise QirError(f"expected {self} to have an axis for the trips, got {type}")

        def first(factors: Array) -> Array:
            if factors.shape[0] != 1:
                raise QirError(f"expected the code of {self} to be one for all trips, got {type}")
            found: Array = factors[0]
            return found

        element = type.element
        if isinstance(element, Code):
            element = element.map_arrays(first)
        return TensorType(type.shape[1:], element)

    def outer(self, type: TensorType, trips: Size) -> TensorType:
        """Returns the type outside of something that has a type inside.

        Args:
            type: The type inside.
            trips: How many parts are stacked, where it is stacked.
        """
        if self.kind != "stacked":
            return type
        element = type.element
        if isinstance(element, Code):
            element = element.map_arrays(lambda factors: factors[None])
        return TensorType((trips, *type.shape), element)


@dataclass(frozen=True)
class RunInRegions(QuantRule):
    """What the regions compute gets codes as outside; what goes through has one code on its way."""


@dataclass(frozen=True)
class RegionOp(Op):
    """Base of the ops with regions: graphs that read nothing from above, so that all is an operand.

    Two methods tell what such an op means: `passages`, how values go in and out, which the type
    rule and passes read, and `run`, which regions run when, in the reference and in calibration.
    """

    quant = RunInRegions()
    conditions: ClassVar[tuple[int, ...]] = ()
    """The regions that return one bool and nothing that leaves the op: whether to go on."""

    @abstractmethod
    def passages(self, operands: int, results: int, regions: int) -> tuple[Passage, ...]:
        """Lists what goes through.

        Args:
            operands: The number of operands.
            results: The number of results.
            regions: The number of regions.
        """

    @abstractmethod
    def run(
        self, bodies: Sequence[Body], operands: Sequence[Any], results: Sequence[tuple[int, ...]]
    ) -> list[Any]:
        """Computes the op: calls its regions as often as it says.

        Args:
            bodies: Its regions, as functions of arrays.
            operands: An array for each operand.
            results: The shape of each result.

        Raises:
            QirError: A loop does not come to an end within its `max_trips`.
        """

    def trip_count(self, operands: Sequence[TensorType]) -> Size | None:
        """Returns how often the last region runs; None where that is decided as it runs.

        Args:
            operands: The operand types.
        """
        return None

    def resized(self, carries: int, stacked: int, trips: int | None) -> RegionOp | None:
        """Returns the op for other numbers of things that go through.

        Args:
            carries: How many are carried.
            stacked: How many operands are stacked.
            trips: How often the region runs, where no operand is stacked.

        Returns:
            None where there is none: what goes through has to stay as it is.
        """
        return None

    def result_count(self, operands: int, regions: Sequence[Signature]) -> int:
        """Returns the number of results."""
        return len(regions[-1][1])

    def region_result(
        self, operands: Sequence[TensorType], regions: Sequence[Signature]
    ) -> tuple[TensorType, ...]:
        results: dict[int, TensorType] = {}
        count = self.result_count(len(operands), regions)
        taken: set[tuple[int, int]] = set()
        trips = self.trip_count(operands)
        for passage in self.passages(len(operands), count, len(regions)):
            taken.update(passage.inputs)
            inside = self._inside(passage, operands, regions)
            if passage.result is not None:
                results[passage.result] = passage.outer(inside, 1 if trips is None else trips)
        for region, (inputs, _) in enumerate(regions):
            wanted = len([place for at, place in taken if at == region])
            if len(inputs) != wanted:
                raise self.error(
                    f"expected region {region} to take {counted(wanted, 'value')}, one for each "
                    f"operand that goes in, got {len(inputs)}"
                )
        for region in self.conditions:
            returned = regions[region][1]
            if len(returned) != 1 or str(returned[0]) != "bool[]":
                raise self.error(
                    f"expected region {region} to return one bool[], whether to go on, got "
                    f"{', '.join(map(str, returned)) or 'nothing'}"
                )
        return tuple(results[place] for place in range(count))

    def _inside(
        self, passage: Passage, operands: Sequence[TensorType], regions: Sequence[Signature]
    ) -> TensorType:
        """Returns the one type that something has inside; raises QirError where there are two."""
        found: list[tuple[str, TensorType]] = []
        if passage.operand is not None:
            try:
                type = passage.inner(operands[passage.operand])
            except QirError as error:
                raise self.error(error.message) from error
            part = "a place of " if passage.kind == "stacked" else ""
            found.append((f"{part}operand {passage.operand}", type))
        for side, places in ((0, passage.inputs), (1, passage.outputs)):
            word = ("takes", "returns")[side]
            for region, place in places:
                types = regions[region][side]
                if place >= len(types):
                    raise self.error(
                        f"expected region {region} to {word[:-1]} at least "
                        f"{counted(place + 1, 'value')}, got {len(types)}"
                    )
                found.append((f"what region {region} {word} at place {place}", types[place]))
        (first, type), *others = found
        for place_, other in others:
            if other != type:
                raise self.error(
                    f"expected {place_} to be {type}, as {first} is, got {other}: {passage} has "
                    "one type on its way"
                )
        return type
