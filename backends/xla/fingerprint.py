"""What the speed of a program depends on beside the program: the machine, XLA, the lowerings."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

import jax

from qir.bench.machine import this_machine


def fingerprint() -> dict[str, str | int]:
    """Describes the machine with its default device, XLA and the code of the lowerings."""
    machine, device = this_machine(), jax.devices()[0]
    return {
        "processor": machine.processor,
        "architecture": machine.architecture,
        "features": _digest(" ".join(sorted(machine.features)).encode()),
        "cores": machine.cores,
        "platform": device.platform,
        "device": device.device_kind,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "xla flags": os.environ.get("XLA_FLAGS", ""),
        "lowerings": _digest_of_lowerings(),
    }


@cache
def _digest_of_lowerings() -> str:
    """Returns a digest of this package's code, so that no measurement outlives what it measured."""
    folder = Path(__file__).parent
    sources = sorted([*folder.glob("*.py"), *folder.glob("rules/*.py")])
    return _digest(b"".join(source.read_bytes() for source in sources))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
