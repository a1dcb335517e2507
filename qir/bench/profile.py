"""Profiles: how long each kernel of a program takes, and what the machine can do at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from qir.ir import Node, Value


@dataclass(frozen=True)
class Part:
    """What a kernel computes, or several in a row, of a copy of the program.

    Args:
        nodes: The nodes, in order.
        reads: The values that are read, constants left out.
        kernels: Names of the kernels, each once; none where nothing is to be done.
        threads: Number of threads that work on it.
        saving: How many times fewer multiplications a kernel needs than the op is defined by.
        seconds: Its time in a call, with the waiting of threads for each other.
    """

    nodes: tuple[Node, ...]
    reads: tuple[Value, ...]
    kernels: tuple[str, ...]
    threads: int
    saving: float
    seconds: float


@dataclass(frozen=True)
class Ceilings:
    """What this machine does at most.

    Args:
        name: Name of the instruction set.
        threads: Number of threads that work at once.
        gops: 10^9 multiplications and additions of bytes a second, in registers.
        reading: Bytes a second by the bytes that are read again and again, by all threads.
    """

    name: str
    threads: int
    gops: float
    reading: tuple[tuple[int, float], ...]

    def bandwidth(self, size: int) -> float:
        """Returns how many bytes a second can be read at most of so many.

        It is the rate of the largest measured size that is no larger, or of a larger one that was
        faster: a bound, because rates fall with the size.
        """
        first = max(
            (index for index, (known, _) in enumerate(self.reading) if known <= size), default=0
        )
        return max(rate for _, rate in self.reading[first:])

    def __str__(self) -> str:
        reading = ", ".join(f"{rate / 1e9:.0f} of {_shown(size)}" for size, rate in self.reading)
        return (
            f"{self.threads} thread{'s' * (self.threads > 1)}: {self.gops:.1f} GOPS in registers "
            f"({self.name}); GB/s read: {reading}"
        )


@dataclass(frozen=True)
class Profile:
    """The time of a program and of what kernels compute in it.

    Args:
        parts: What kernels compute; the rest of the time goes to XLA, and to what a call takes.
        seconds: Seconds of a call.
        memory: Bytes of what calls read and write: parameters and tensors.
        ceilings: What the machine does at most, by the number of threads that work at once.
    """

    parts: tuple[Part, ...]
    seconds: float
    memory: int
    ceilings: Mapping[int, Ceilings]

    @cached_property
    def threads(self) -> int:
        """Most threads that work on a part."""
        return max((part.threads for part in self.parts), default=1)


def _shown(size: int) -> str:
    kilobytes = size // 1024
    return f"{kilobytes} KiB" if kilobytes < 1024 else f"{kilobytes // 1024} MiB"
