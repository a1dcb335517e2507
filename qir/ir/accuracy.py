"""How near an integer program comes to the float program that it was made of: the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cause = Literal[
    "mask",
    "shared code",
    "rows",
    "clipping",
    "division",
    "constant range",
    "few bits",
    "no end",
    "rounding",
]
"""Why a value is inaccurate; see `qir.report.causes`."""


@dataclass(frozen=True)
class OutputAccuracy:
    """What became of one floating-point output.

    Args:
        name: The output's name.
        sqnr: Signal to quantization noise of the whole tensor, in dB: 10 log10 of the ratio of the
            sums of squares; about the middle of a range that is far from 0. Infinite without noise.
        rows: The 5th percentile of the same figure by rows, which lie along the last axis.
        nonfinite: How many numbers are infinite or NaN where the float program's are finite.
    """

    name: str
    sqnr: float
    rows: float
    nonfinite: int


@dataclass(frozen=True)
class OwnError:
    """What one op adds to the error: computed of exact operands, rounded to their codes.

    Args:
        op: The float program's op, `input` for what the program takes.
        value: Name of its result.
        loc: Where in the user's model it comes from.
        sqnr: Signal to quantization noise of its result in dB.
        rows: The 5th percentile by rows.
        cause: Why.
        about: The value that the cause is found in, its result or an operand.
        detail: The numbers that show it, as a sentence.
    """

    op: str
    value: str
    loc: str | None
    sqnr: float
    rows: float
    cause: Cause
    about: str
    detail: str


@dataclass(frozen=True)
class Accuracy:
    """What an integer program was found to be worth when it was made.

    Args:
        threshold: The signal to noise in dB below which an output is warned of.
        samples: On what it was measured, such as `16 samples of the first batch`.
        outputs: The figures of each floating-point output.
        worst: The ops with the largest own errors, the largest first; empty where the program is
            large and all outputs are accurate, since that takes as long as the check.
    """

    threshold: float
    samples: str
    outputs: tuple[OutputAccuracy, ...]
    worst: tuple[OwnError, ...] = ()

    @property
    def inaccurate(self) -> tuple[OutputAccuracy, ...]:
        """The outputs to warn of: below the threshold, by rows 10 dB below it, or not finite."""
        return tuple(
            output
            for output in self.outputs
            if output.nonfinite
            or output.sqnr < self.threshold
            or output.rows < self.threshold - ROWS_BELOW
        )


ROWS_BELOW = 10.0
"""How far in dB the 5th percentile of rows may lie below the threshold of the whole tensor."""
