"""Do roundings agree on a requantize: what its attribute `agrees` claims, and its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qir.errors import QirError
from qir.numbers.agreement import BoolArray, Differences, Domain, Staircase, differences
from qir.numbers.int32 import INT32_MAX, INT32_MIN
from qir.numbers.rounding import rounding_mode
from qir.ops.claims import BoundedOperand, Claim
from qir.types import DType, FrozenArray

if TYPE_CHECKING:
    from qir.ops.cast import Requantize


@dataclass(frozen=True, eq=False)
class RoundingComparison:
    """A requantize held against another rounding, channel by channel.

    Attributes:
        op: The requantize.
        ours: What it makes of accumulators.
        theirs: What the other rounding makes of them.
        domain: The accumulators.
        differences: Where the results differ.
        shape: Shape of the channels: it broadcasts to the operand.
    """

    op: Requantize
    ours: Staircase
    theirs: Staircase
    domain: Domain
    differences: Differences
    shape: tuple[int, ...]

    @property
    def found(self) -> BoolArray:
        """Whether the results differ: for each channel, in an array that broadcasts to them."""
        return self.differences.found.reshape(self.shape)

    def __str__(self) -> str:
        """Names the first channel and an accumulator for which the results differ."""
        row = int(np.argmax(self.differences.found))
        accumulator = int(self.differences.accumulator[row])
        index = [int(place) for place in np.unravel_index(row, self.shape)]
        places = [place for place, size in zip(index, self.shape, strict=True) if size > 1]
        channel = f" in channel {places[0] if len(places) == 1 else places}" if places else ""
        least, greatest = (
            int(bound.array[row]) for bound in (self.domain.least, self.domain.greatest)
        )
        ours, theirs = (
            min(max(stairs.step(accumulator, row), least), greatest) + self.op.bounds[0] - least
            for stairs in (self.ours, self.theirs)
        )
        return (
            f"does not agree with {self.theirs.rounding}{channel}: of the accumulator "
            f"{accumulator} {self.ours.rounding} makes {ours} and {self.theirs.rounding} {theirs}"
        )


def compare(op: Requantize, x: BoundedOperand, rounding: str) -> RoundingComparison:
    """Decides whether another rounding gives the same integers as a requantize; exact.

    Args:
        op: The requantize, with the multiplier written out or not.
        x: Its operand.
        rounding: The other mode, which makes its multiplier of the scales.

    Raises:
        QirError: The modes can't be compared: the operand may leave int32, it has a code per block,
            or the ratio of the scales is out of the other mode's reach.
    """
    if x.type.dtype is DType.I64:
        raise QirError(f"can't agree with {rounding}: expected an operand in i32, got {x.type}")
    low, high = x.hull
    if low < INT32_MIN or high > INT32_MAX:
        raise QirError(f"can't agree with {rounding}: the operand leaves int32, [{low}, {high}]")
    source = x.type.code
    for code in (source, op.to):
        counts = zip(code.scale.shape, x.type.shape, strict=bool(code.scale.shape))
        if any(count not in (1, size) for count, size in counts):
            raise QirError(f"can't agree with {rounding}: a code per block is not compared")
    ours = op.factors(x.type)
    theirs = rounding_mode(rounding).multipliers(source.scale.array, op.to.scale.array)
    points = op.to.zero_points.astype(np.int64)
    least, greatest = (bound - points for bound in op.bounds)
    arrays = np.broadcast_arrays(
        ours.value, ours.shift, theirs.value, theirs.shift, x.low, x.high, least, greatest
    )
    flat = [FrozenArray(array.reshape(-1)) for array in arrays]
    our_stairs, their_stairs = Staircase(op.rounding, *flat[:2]), Staircase(rounding, *flat[2:4])
    domain = Domain(*flat[4:])
    found = differences(our_stairs, their_stairs, domain)
    return RoundingComparison(op, our_stairs, their_stairs, domain, found, arrays[0].shape)


@dataclass(frozen=True)
class AgreesWith(Claim):
    """A requantize claims that another rounding gives the same integers.

    Attributes:
        op: The requantize.
        rounding: The other mode, which makes its multiplier of the scales.
    """

    op: Requantize
    rounding: str

    def disproof(self, operands: Sequence[BoundedOperand]) -> str | None:
        (x,) = operands
        try:
            comparison = compare(self.op, x, self.rounding)
        except QirError as error:
            return error.message
        return str(comparison) if np.any(comparison.found) else None

    def without(self, op: Requantize) -> Requantize:
        return replace(op, agrees=tuple(each for each in op.agrees if each != self.rounding))
