"""Whether a program uses generated kernels: where this process can run them, and wants to."""

from __future__ import annotations

from importlib.util import find_spec

import jax

from qir.backends.xla.kernels import Kernels, TimedKernels
from qir.errors import QirError


def kernels_here(*, timed: bool = False) -> TimedKernels | str:
    """Returns the kernels for the default device, or why there are none.

    Args:
        timed: Whether calls are timed, step by step.
    """
    if jax.default_backend() != "cpu":
        return f"kernels are for the CPU, the default device is {jax.default_backend()}"
    if find_spec("llvmlite") is None:
        return "llvmlite is not installed; QIR's extra cpu has it: pip install 'qir-compiler[cpu]'"
    from qir.backends.cpu.clusters import GeneratedKernels
    from qir.backends.cpu.target import host_target

    target = host_target()
    return (
        "no kernels for this processor" if target is None else GeneratedKernels(target, timed=timed)
    )


def chosen_kernels(wanted: bool | None) -> tuple[Kernels | None, str]:
    """Returns the kernels to use, and otherwise why there are none.

    Args:
        wanted: True to insist on them, False to do without, None to take them where there are some.

    Raises:
        QirError: They are wanted and there are none.
    """
    if wanted is False:
        return None, ""
    found = kernels_here()
    if not isinstance(found, str):
        return found, ""
    if wanted:
        raise QirError(f"compile: {found}")
    return None, found
