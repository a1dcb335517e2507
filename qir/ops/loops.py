"""Loops: scan, which runs a region so often as is known before, and while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qir.errors import EndlessError, counted
from qir.ops.op import op
from qir.ops.regions import Body, Passage, RegionOp, Signature
from qir.types import Size, TensorType

MAX_TRIPS = 1_000_000
"""After how many trips a while loop is taken for one that never ends."""


@op("scan")
class Scan(RegionOp):
    """Runs a region once for each place along axis 0 of the stacked operands.

    The operands are invariants, then what is carried, then what is stacked. The region takes the
    invariants, what the trip before has returned to be carried, and one place of each stacked
    operand; it returns what is carried on, then one place of each stacked result. The results are
    what was carried last, and the stacked ones. That is `jax.lax.scan`.

    Attributes:
        carries: How many operands are carried.
        stacked: How many operands are stacked.
        trips: How many trips there are; told where nothing is stacked, and only there.
        reverse: Whether the trips go from the last place to the first.
    """

    carries: int = 0
    stacked: int = 0
    trips: int | None = None
    reverse: bool = False

    region_count: ClassVar[int] = 1

    def check(self) -> None:
        if self.carries < 0 or self.stacked < 0:
            raise self.error(
                f"expected carries and stacked to be at least 0, got {self.carries} and "
                f"{self.stacked}"
            )
        if (self.trips is None) != (self.stacked > 0):
            raise self.error(
                "expected trips where no operand is stacked, and only there, as axis 0 of what is "
                f"stacked tells it, got stacked = {self.stacked}, trips = {self.trips}"
            )
        if self.trips is not None and not 0 <= self.trips < 2**31:
            raise self.error(f"expected trips in [0, 2^31), got {self.trips}")

    def trip_count(self, operands: Sequence[TensorType]) -> Size:
        """Returns how often the region runs.

        Raises:
            QirError: There are fewer operands than are carried and stacked, or the stacked ones
                differ in axis 0.
        """
        least = self.carries + self.stacked
        if len(operands) < least:
            raise self.error(f"expected at least {counted(least, 'operand')}, got {len(operands)}")
        if self.trips is not None:
            return self.trips
        stacked = operands[len(operands) - self.stacked :]
        sizes = {type.shape[0] for type in stacked if type.rank}
        if len(sizes) != 1:
            raise self.error(
                "expected the stacked operands to have one size along axis 0, got "
                + ", ".join(map(str, stacked))
            )
        return sizes.pop()

    def passages(self, operands: int, results: int, regions: int) -> tuple[Passage, ...]:
        invariants = operands - self.carries - self.stacked
        return (
            *(Passage("invariant", place, ((0, place),)) for place in range(invariants)),
            *(
                Passage("carried", place, ((0, place),), ((0, index),), index)
                for index, place in enumerate(range(invariants, invariants + self.carries))
            ),
            *(
                Passage("stacked", place, ((0, place),))
                for place in range(invariants + self.carries, operands)
            ),
            *(
                Passage("stacked", None, (), ((0, index),), index)
                for index in range(self.carries, results)
            ),
        )

    def resized(self, carries: int, stacked: int, trips: int | None) -> Scan | None:
        if not stacked and trips is None:
            return None
        return Scan(carries, stacked, None if stacked else trips, self.reverse)

    def run(
        self, bodies: Sequence[Body], operands: Sequence[Any], results: Sequence[tuple[int, ...]]
    ) -> list[Any]:
        (body,) = bodies
        invariants = len(operands) - self.carries - self.stacked
        fixed = operands[:invariants]
        carried = list(operands[invariants : invariants + self.carries])
        stacked = operands[invariants + self.carries :]
        trips = self.trips if self.trips is not None else len(stacked[0])
        parts: list[Sequence[Any]] = []
        for trip in reversed(range(trips)) if self.reverse else range(trips):
            returned = body(*fixed, *carried, *(array[trip] for array in stacked))
            carried = list(returned[: self.carries])
            parts.append(returned[self.carries :])
        if self.reverse:
            parts.reverse()
        if parts:
            return [*carried, *map(np.stack, zip(*parts, strict=True))]
        return [*carried, *map(np.empty, results[self.carries :])]

    def result_count(self, operands: int, regions: Sequence[Signature]) -> int:
        returned = len(regions[0][1])
        if returned < self.carries:
            raise self.error(
                f"expected region 0 to return the {counted(self.carries, 'value')} that it carries "
                f"on, got {returned}"
            )
        return returned


@op("while")
class While(RegionOp):
    """Runs region 1 on what is carried as long as region 0 says so.

    The operands are invariants, then what is carried. Both regions take all of them; region 0
    returns a bool, region 1 what is carried on. The results are what was carried last. That is
    `jax.lax.while_loop`.

    Attributes:
        carries: How many operands are carried.
        max_trips: After how many trips the loop is stopped by an error, as it seems to have no end.
    """

    carries: int
    max_trips: int = MAX_TRIPS

    region_count: ClassVar[int] = 2
    conditions = (0,)

    def check(self) -> None:
        if self.carries < 1:
            raise self.error(f"expected at least 1 operand that is carried, got {self.carries}")
        if not 1 <= self.max_trips < 2**31:
            raise self.error(f"expected max_trips in [1, 2^31), got {self.max_trips}")

    def passages(self, operands: int, results: int, regions: int) -> tuple[Passage, ...]:
        invariants = operands - self.carries
        if invariants < 0:
            raise self.error(
                f"expected at least {counted(self.carries, 'operand')}, got {operands}"
            )
        return (
            *(Passage("invariant", place, ((0, place), (1, place))) for place in range(invariants)),
            *(
                Passage("carried", place, ((0, place), (1, place)), ((1, index),), index)
                for index, place in enumerate(range(invariants, operands))
            ),
        )

    def resized(self, carries: int, stacked: int, trips: int | None) -> While | None:
        return While(carries, self.max_trips) if carries and not stacked else None

    def run(
        self, bodies: Sequence[Body], operands: Sequence[Any], results: Sequence[tuple[int, ...]]
    ) -> list[Any]:
        condition, body = bodies
        invariants = len(operands) - self.carries
        fixed, carried = operands[:invariants], list(operands[invariants:])
        for _ in range(self.max_trips + 1):
            (goes_on,) = condition(*fixed, *carried)
            if not goes_on:
                return carried
            carried = list(body(*fixed, *carried))
        raise self.endless()

    def endless(self) -> EndlessError:
        """Returns the error of a loop that does not come to an end."""
        return EndlessError(
            f"{self.name}: expected an end within {self.max_trips} trips, got none; a loop that "
            "needs more has max_trips set higher"
        )

    def result_count(self, operands: int, regions: Sequence[Signature]) -> int:
        returned = len(regions[1][1])
        if returned != self.carries:
            raise self.error(
                f"expected region 1 to return the {counted(self.carries, 'value')} that it carries "
                f"on, got {returned}"
            )
        return returned
