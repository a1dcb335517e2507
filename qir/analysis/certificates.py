"""Certificates of requantizes: `agrees` claims that other roundings give the same integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from qir.analysis.agreement import BoolArray, Differences, Domain, Staircase, differences
from qir.analysis.reach import Places, StoredReach
from qir.errors import QirError
from qir.ir import Graph, Node
from qir.numbers.int32 import INT32_MAX, INT32_MIN
from qir.numbers.rounding import rounding_mode
from qir.ops import Requantize
from qir.ops.cast import is_long
from qir.types import FrozenArray, TensorType


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


def compare(op: Requantize, x: TensorType, reach: Places, rounding: str) -> RoundingComparison:
    """Decides whether another rounding gives the same integers as a requantize; exact.

    Args:
        op: The requantize, with the multiplier written out or not.
        x: The type of its operand.
        reach: What the operand minus its zero point can be.
        rounding: The other mode, which makes its multiplier of the scales.

    Raises:
        QirError: The modes can't be compared: the operand may leave int32, it has a code per block,
            or the ratio of the scales is out of the other mode's reach.
    """
    if is_long(x):
        raise QirError(f"can't agree with {rounding}: expected an operand in i32, got {x}")
    low, high = reach.hull
    if low < INT32_MIN or high > INT32_MAX:
        raise QirError(f"can't agree with {rounding}: the operand leaves int32, [{low}, {high}]")
    source = x.code
    for code in (source, op.to):
        counts = zip(code.scale.shape, x.shape, strict=bool(code.scale.shape))
        if any(count not in (1, size) for count, size in counts):
            raise QirError(f"can't agree with {rounding}: a code per block is not compared")
    ours = op.factors(x)
    theirs = rounding_mode(rounding).multipliers(source.scale.array, op.to.scale.array)
    points = op.to.zero_points.astype(np.int64)
    least, greatest = (bound - points for bound in op.bounds)
    arrays = np.broadcast_arrays(
        ours.value, ours.shift, theirs.value, theirs.shift, *reach, least, greatest
    )
    flat = [FrozenArray(array.reshape(-1)) for array in arrays]
    our_stairs, their_stairs = Staircase(op.rounding, *flat[:2]), Staircase(rounding, *flat[2:4])
    domain = Domain(*flat[4:])
    found = differences(our_stairs, their_stairs, domain)
    return RoundingComparison(op, our_stairs, their_stairs, domain, found, arrays[0].shape)


def disagreement(node: Node, op: Requantize, stored: StoredReach, rounding: str) -> str | None:
    """Says where a requantize and another rounding differ, or why that can't be told.

    Args:
        node: The node of the requantize.
        op: Its op.
        stored: What its operand can store.
        rounding: The other mode.

    Returns:
        A clause about the node; None where the two agree.
    """
    x = node.inputs[0]
    try:
        comparison = compare(op, x.type, stored.steps_by_place(x), rounding)
    except QirError as error:
        return error.message
    return str(comparison) if np.any(comparison.found) else None


def false_certificates(graph: Graph) -> Iterator[tuple[Node, str, str]]:
    """Yields the requantizes whose `agrees` claims too much, with the mode and what is wrong.

    Args:
        graph: A program that is valid otherwise; regions are looked at too.
    """
    if not any(isinstance(node.op, Requantize) and node.op.agrees for node in graph.walk()):
        return
    stored = StoredReach.of(graph)
    for node in list(graph.walk()):
        if isinstance(node.op, Requantize):
            for rounding in node.op.agrees:
                if wrong := disagreement(node, node.op, stored, rounding):
                    yield node, rounding, wrong


def drop_false_certificates(graph: Graph) -> list[str]:
    """Takes back what rewrites have made untrue; returns a sentence for each certificate.

    A certificate that was proved for a wider clamp or for more accumulators stays true, one for
    other scales seldom does.
    """
    dropped = []
    for node, rounding, wrong in list(false_certificates(graph)):
        assert isinstance(node.op, Requantize)
        rest = tuple(each for each in node.op.agrees if each != rounding)
        node.op = replace(node.op, agrees=rest)
        dropped.append(f"%{node.output.name} {wrong}")
    return dropped
