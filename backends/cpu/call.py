"""Calls: a plan as one operation of an XLA program on the CPU."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import jax
from llvmlite import ir

from qir.backends.cpu import machine, runtime
from qir.backends.cpu.kernels import kernel_code_of
from qir.backends.cpu.objects import object_codes
from qir.backends.cpu.target import LlvmInstructionSet
from qir.backends.native.kernel import Kernel
from qir.errors import QirError
from qir.interop.jax_internals import guarded

_NO_GRADIENT = (
    "gradient: expected ops that XLA computes, got a generated kernel; differentiate the float "
    "program that this one was quantized from, compiled with kernels=False"
)
_NO_EXPORT = (
    "export: expected a program that can leave the process, got one with generated kernels; use "
    "program.export(), or compile with kernels=False"
)
_LOCK = threading.Lock()
_REGISTERED: list[int] = []
"""The process that told XLA of the handler; none before one did."""
_ADDRESSES: dict[LlvmInstructionSet, dict[str, int]] = {}
_CLOSE: list[Callable[[int], None]] = []
"""What frees the workspace of a slot, once the handler is there."""
_WORDS: list[ctypes.Array[ctypes.c_int64]] = []


def addresses(kernels: Iterable[Kernel], target: LlvmInstructionSet) -> Mapping[str, int]:
    """Returns the addresses of kernels by symbol; machine code is made where there is none yet."""
    check_process()
    with _LOCK:
        known = _ADDRESSES.setdefault(target, {})
        missing = [kernel_code_of(kernel) for kernel in kernels if kernel.symbol not in known]
        # What kernels share is linked with them again: each engine is closed.
        functions = [*missing, *(each for kernel in missing for each in kernel.shared)]
        writers: dict[str, Callable[[ir.Module], None]] = {
            function.symbol: partial(function.define, target=target) for function in functions
        }
        if not _REGISTERED:
            writers[runtime.HANDLER] = partial(runtime.write_runtime, triple=target.triple)
            writers[runtime.CLOSE] = runtime.write_close
        if writers:
            codes = object_codes(writers, target)
            found = machine.link(codes, target)
            if runtime.HANDLER in found:
                _register(found[runtime.HANDLER], found[runtime.CLOSE])
            known.update(found)
        return known


def _register(address: int, close: int) -> None:
    """Tells XLA where the handler is, once: a name can't be given to another function."""
    _CLOSE.append(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(close))
    handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)
    capsule = jax.ffi.pycapsule(handler)  # type: ignore[no-untyped-call]
    jax.ffi.register_ffi_target(runtime.HANDLER, capsule, platform="cpu")
    _REGISTERED.append(os.getpid())


def check_process() -> None:
    """Checks that kernels can run in this process, if any were loaded.

    Raises:
        QirError: It is a fork of the one that loaded them, without XLA's threads: a program would
            never end.
    """
    if _REGISTERED and os.getpid() not in _REGISTERED:
        raise QirError(
            f"kernels: expected to run in process {_REGISTERED[0]}, which loaded them, got "
            f"{os.getpid()}, a fork without XLA's threads; start processes with "
            "multiprocessing's 'spawn'"
        )


def new_slot(owner: object = None) -> int:
    """Returns the address of a slot for a workspace.

    The words of the slot live as long as the process, since executables may outlive what they were
    made from. At the end of the process nothing is freed: threads may be at work.

    Args:
        owner: What the workspace is freed after; None to keep it.
    """
    address = ctypes.addressof(new_words(8))
    if owner is not None:
        weakref.finalize(owner, _CLOSE[0], address).atexit = False
    return address


def new_words(count: int) -> ctypes.Array[ctypes.c_int64]:
    """Returns words of 64 bits, all zero, that live as long as the process."""
    words = (ctypes.c_int64 * count)()
    _WORDS.append(words)
    return words


def call(
    table: jax.Array,
    constants: jax.Array,
    operands: Sequence[jax.Array],
    results: Sequence[jax.ShapeDtypeStruct],
) -> tuple[jax.Array, ...]:
    """Runs a plan.

    Args:
        table: What `Plan.table` returns.
        constants: What `Plan.constants` returns.
        operands: The tensors that it reads.
        results: The tensors that it returns.
    """
    given = [guarded(operand, _NO_GRADIENT, _NO_EXPORT) for operand in (constants, *operands)]
    found = jax.ffi.ffi_call(runtime.HANDLER, list(results), vmap_method="sequential")(
        table, *given
    )
    return tuple(found)
