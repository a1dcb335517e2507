"""Timing things against each other: they take turns, so that all of them meet the same load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

TURN = 0.02
"""Seconds that the turn of something fast lasts; it is called several times in it."""


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Args:
        name: What it is called.
        call: Does the work once, and returns when it is done.
        pause: Seconds of sleep before its turn, for the threads of another library to stop
            spinning.
    """

    name: str
    call: Callable[[], object]
    pause: float = 0.0


@dataclass(frozen=True)
class Times:
    """How long the calls of one contender took.

    Args:
        name: The contender's name.
        seconds: Seconds of each call.
    """

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return self.quantile(0.5)

    def quantile(self, part: float) -> float:
        """Returns the seconds that a part of the calls did not exceed, interpolated linearly."""
        return float(np.quantile(self.seconds, part))


def interleave(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    turn: float = TURN,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Times, ...]:
    """Times contenders in turns.

    A turn begins with a call that is not counted: it brings back into the caches what the others
    have evicted, and wakes threads up after a pause.

    Args:
        contenders: What to time.
        rounds: The number of turns of each, at least 1.
        turn: Seconds that a turn lasts at least, though one call always counts.
        clock: Returns the time in seconds.
        sleep: Waits for some seconds.

    Returns:
        The times of each contender, in their order.
    """
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, taken in zip(contenders, seconds, strict=True):
            if contender.pause:
                sleep(contender.pause)
            contender.call()
            begin = now = clock()
            while True:
                before = now
                contender.call()
                now = clock()
                taken.append(now - before)
                if now - begin >= turn:
                    break
    return tuple(
        Times(contender.name, tuple(taken))
        for contender, taken in zip(contenders, seconds, strict=True)
    )
