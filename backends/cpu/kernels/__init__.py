"""The code of the kernels of every family of ops; importing one declares it."""

from dataclasses import fields

from qir.backends.cpu.kernel import KERNEL_CODES, KernelCode
from qir.backends.cpu.kernels import (
    cast,
    dense,
    depthwise,
    elementwise,
    lookup,
    loop,
    movement,
    pointwise,
    pool,
    reduce,
    winograd,
)
from qir.backends.native.kernel import Kernel
from qir.errors import QirError

__all__ = [
    "cast",
    "dense",
    "depthwise",
    "elementwise",
    "kernel_code_of",
    "lookup",
    "loop",
    "movement",
    "pointwise",
    "pool",
    "reduce",
    "winograd",
]


def kernel_code_of(kernel: Kernel) -> KernelCode:
    """Returns what writes the code of a kernel of a plan.

    Raises:
        QirError: No code is written for it here.
    """
    if type(kernel) not in KERNEL_CODES:
        raise QirError(f"kernel: expected one with code for the CPU, got {kernel.symbol}")
    given = {each.name: getattr(kernel, each.name) for each in fields(kernel)}
    return KERNEL_CODES[type(kernel)](**given)
