"""Loops: the steps of a body, trip after trip, on one thread."""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.native.kernel import Kernel


@dataclass(frozen=True)
class LoopKernel(Kernel):
    """Runs the plan of a body once for each trip.

    The buffers of the body are the constants, its operands (invariants, what is carried, a place of
    each stacked operand), its results (what is carried on, a place of each stacked result) and the
    memory of its temporary tensors. What is carried lies in two buffers that take turns.

    Attributes:
        invariants: How many operands are the same in each trip.
        carries: How many are carried.
        stacked: How many operands are stacked.
        results: How many results are stacked.
        reverse: Whether the trips go from the last place to the first.
    """

    invariants: int
    carries: int
    stacked: int
    results: int
    reverse: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers.

        trips: how many. steps: of the body. bytes: of what is carried, and from place to place of
        what is stacked.
        """
        return (
            "trips",
            "steps",
            *(f"carried_bytes{index}" for index in range(self.carries)),
            *(f"stacked_bytes{index}" for index in range(self.stacked)),
            *(f"result_bytes{index}" for index in range(self.results)),
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors: first and last are of what is carried, outside."""
        return (
            "constants",
            *(f"invariant{index}" for index in range(self.invariants)),
            *(f"first{index}" for index in range(self.carries)),
            *(f"stacked{index}" for index in range(self.stacked)),
            *(f"last{index}" for index in range(self.carries)),
            *(f"result{index}" for index in range(self.results)),
            *(f"even{index}" for index in range(self.carries)),
            *(f"odd{index}" for index in range(self.carries)),
            "temporary",
        )
