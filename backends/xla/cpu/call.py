"""Calls: a plan as one operation of an XLA program on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial

import jax

from qir.backends.xla.cpu import machine, runtime
from qir.backends.xla.cpu.kernel import Kernel
from qir.backends.xla.cpu.target import Target

_ADDRESSES: dict[str, int] = {}
_SLOTS: list[ctypes.Array[ctypes.c_int64]] = []


def addresses(kernels: Sequence[Kernel], target: Target) -> dict[str, int]:
    """Returns the addresses of kernels, which are made where they are not there yet."""
    if runtime.HANDLER not in _ADDRESSES:
        code = machine.build(
            "runtime", target, lambda module: runtime.write_runtime(module, target.triple)
        )
        found = machine.load(code, target, [runtime.HANDLER])
        _ADDRESSES.update(found)
        handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(found[runtime.HANDLER])
        capsule = jax.ffi.pycapsule(handler)  # type: ignore[no-untyped-call]
        jax.ffi.register_ffi_target(runtime.HANDLER, capsule, platform="cpu")
    for kernel in dict.fromkeys(kernels):
        if kernel.symbol not in _ADDRESSES:
            code = machine.build(kernel.symbol, target, partial(kernel.define, target=target))
            _ADDRESSES.update(machine.load(code, target, [kernel.symbol]))
    return _ADDRESSES


def new_slot() -> int:
    """Returns the address of a word that lives as long as the process."""
    slot = (ctypes.c_int64 * 8)()
    _SLOTS.append(slot)
    return ctypes.addressof(slot)


def call(
    table: jax.Array,
    parameters: jax.Array,
    operands: Sequence[jax.Array],
    results: Sequence[jax.ShapeDtypeStruct],
) -> tuple[jax.Array, ...]:
    """Runs a plan.

    Args:
        table: What `Plan.table` returns.
        parameters: What `Plan.parameters` returns.
        operands: The tensors that it reads.
        results: The tensors that it returns.
    """
    found = jax.ffi.ffi_call(runtime.HANDLER, list(results), vmap_method="sequential")(
        table, parameters, *operands
    )
    return tuple(found)
