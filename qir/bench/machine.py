"""The processor that timings come from, and whether it had anything else to do."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from qir.errors import QirError, counted

SHOWN = {
    "x86_64": ("avx2", "avx_vnni", "avx512_vnni", "amx_int8"),
    "aarch64": ("asimddp", "i8mm", "sve"),
}
"""Instruction sets that decide how fast integers are multiplied, by architecture, in the spelling
of Linux."""
BUSY = 0.25
"""Load for each core from which on timings are in doubt."""


@dataclass(frozen=True)
class Machine:
    """A processor, as this process may use it.

    Args:
        processor: Its model.
        architecture: Its family, such as `x86_64`.
        cores: How many cores the process may use.
        features: The instruction sets that Linux lists; empty elsewhere.
        load: Number of processes that ran on average in the last minute; None where unknown.
    """

    processor: str
    architecture: str
    cores: int
    features: frozenset[str]
    load: float | None

    @property
    def busy(self) -> bool:
        """Whether other processes may have slowed down what was timed."""
        return self.load is not None and self.load > BUSY * self.cores

    def __str__(self) -> str:
        shown = SHOWN.get(self.architecture, ()) if self.features else ()
        parts = [self.processor, counted(self.cores, "core")]
        for word, wanted in (("with", True), ("without", False)):
            names = [name for name in shown if (name in self.features) is wanted]
            if names:
                parts.append(f"{word} {' '.join(names)}")
        if self.load is not None:
            parts.append(f"load average {self.load:.2f}")
        return ", ".join(parts)

    @property
    def warning(self) -> str:
        """A sentence where the machine is busy; else empty."""
        if not self.busy:
            return ""
        return (
            f"warning: the machine is busy (load average {self.load:.2f} on "
            f"{counted(self.cores, 'core')}): times are too long and vary"
        )


def this_machine() -> Machine:
    """Describes the machine that this process runs on, and its load at this moment."""
    described = _processor()
    return Machine(
        described.get("model name") or platform.processor() or platform.machine(),
        platform.machine(),
        _cores(),
        frozenset((described.get("flags") or described.get("Features") or "").split()),
        os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def check_memory(size: int, subject: str) -> None:
    """Raises QirError where this machine has less memory than a number of bytes."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows; there numpy says when it gets no memory
        return
    if size > memory:
        raise QirError(f"{subject}: {size:,} bytes are more than this machine's memory")


def _processor() -> dict[str, str]:
    """Returns what Linux tells about the first processor; nothing elsewhere."""
    described: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, text = line.partition(":")
                if not name.strip():
                    break
                described[name.strip()] = text.strip()
    except OSError:
        pass
    return described


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
