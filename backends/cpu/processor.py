"""What the processor of this machine can do, as LLVM names it.

LLVM asks an x86 processor itself. On Arm it does not look for the instructions that sum products of
bytes, of which the operating system tells.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable

from llvmlite import binding as llvm

_LINUX = {"dotprod": (16, 20), "i8mm": (26, 13)}
"""Entry of the auxiliary vector, and bit in it: ASIMDDP of AT_HWCAP and I8MM of AT_HWCAP2."""
_APPLE = {"dotprod": b"hw.optional.arm.FEAT_DotProd", "i8mm": b"hw.optional.arm.FEAT_I8MM"}


def host_features() -> dict[str, bool]:
    """Returns features by LLVM's name, and whether this machine has them."""
    found: dict[str, bool] = dict(llvm.get_host_cpu_features())
    if platform.machine() in ("aarch64", "arm64"):
        # Of every such processor, also where LLVM finds nothing out.
        found["neon"] = True
        if sys.platform == "linux":
            entry = ctypes.CDLL(None).getauxval
            entry.argtypes, entry.restype = [ctypes.c_ulong], ctypes.c_ulong
            found |= linux_features(entry)
        elif sys.platform == "darwin":
            found |= {name: _system_control(key) for name, key in _APPLE.items()}
    return found


def linux_features(entry: Callable[[int], int]) -> dict[str, bool]:
    """Returns the features of Arm that Linux tells of.

    Args:
        entry: Returns an entry of the auxiliary vector.
    """
    return {name: bool(entry(number) >> bit & 1) for name, (number, bit) in _LINUX.items()}


def _system_control(key: bytes) -> bool:
    """Whether a word of macOS's kernel state is set; one that it does not know is not."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    missing = ctypes.CDLL(None).sysctlbyname(
        key, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return not missing and value.value != 0
