"""What bounds kernels on this machine: how fast it multiplies bytes, and how fast it reads them.

Virtual machines have moments in which their cores share the host's: a timing means something beside
a peak that was measured just before or after it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from llvmlite import ir

from qir.backends.cpu import machine
from qir.backends.cpu.emitter import (
    I8,
    I16,
    I32,
    I64,
    POINTER,
    VOID,
    LlvmEmitter,
    LlvmValue,
    vector,
)
from qir.backends.cpu.target import LlvmInstructionSet, host_targets
from qir.bench.profile import Ceilings
from qir.errors import QirError
from qir.types import Array

BURSTS = 10
BURST_SECONDS = 0.01
"""Long beside what it takes to wake threads, short enough to find a moment without other work."""
CACHED = (2**14, 2**18, 2**20)
"""Bytes of each thread that are read again and again: what caches of one core hold."""
SHARED = (2**23, 2**25, 2**27)
"""Bytes of all threads together: what shared caches hold, and more than they do."""
PAGE = 4096
_STREAMS = 8
"""Vectors that are read in a round; each goes into a register of its own."""


def ceilings(threads: int) -> Ceilings:
    """Measures what this machine does at most, in about a second.

    Args:
        threads: Number of threads that work at once.

    Raises:
        QirError: There are no kernels for this machine.
    """
    target = _best()
    return Ceilings(target.name, threads, int8_peak(threads), _reading(target, threads))


def int8_peak(threads: int) -> float:
    """Returns the most 10^9 multiplications and additions a second that were seen.

    The loop is what the dense kernel does in its innermost, without its loads: the products are
    exact also at the extremes.

    Args:
        threads: Number of threads that work at once.

    Returns:
        The rate, which counts 2 for a multiply-accumulate.

    Raises:
        QirError: There are no kernels for this machine.
    """
    target = _best()
    spin = _loaded(target)["qir_multiply"]
    operands = [_ones(PAGE) for _ in range(threads)]
    counted = 2 * target.rows * target.columns * target.group
    return counted * threads * _fastest(spin, operands) / 1e9


def _best() -> LlvmInstructionSet:
    """Returns the best instruction set of this machine, whichever is chosen for kernels."""
    found = next(iter(host_targets()), None)
    if found is None:
        raise QirError("peak: expected a processor that kernels are made for")
    return found


def _reading(target: LlvmInstructionSet, threads: int) -> tuple[tuple[int, float], ...]:
    """Measures how fast memory of several sizes is read."""
    read = _loaded(target)["qir_read"]
    sizes = sorted({*(threads * size for size in CACHED), *SHARED})
    whole = _ones(sizes[-1])
    found: list[tuple[int, float]] = []
    for size in sizes:
        own = size // threads // PAGE * PAGE
        parts = [whole[thread * own :][:own] for thread in range(threads)]
        found.append((size, own * threads * _fastest(read, parts)))
    return tuple(found)


def _ones(size: int) -> Array:
    """Returns bytes that begin a page: reads of vectors cross no line of the cache."""
    space = np.ones(size + PAGE, np.uint8)
    return space[-space.ctypes.data % PAGE :][:size]


def _fastest(function: Callable[[int, int, int], None], operands: Sequence[Array]) -> float:
    """Returns rounds a second of a function, run by a thread for each operand at once."""

    def seconds(pool: ThreadPoolExecutor, rounds: int) -> float:
        begin = time.perf_counter()
        running = [
            pool.submit(function, rounds, array.ctypes.data, array.nbytes) for array in operands
        ]
        for each in running:
            each.result()
        return time.perf_counter() - begin

    best, rounds, bursts = float("inf"), 1, 0
    with ThreadPoolExecutor(len(operands)) as pool:
        while bursts < BURSTS:
            best = min(best, seconds(pool, rounds) / rounds)
            # By the best so far: a burst that was held up must not pass for a long one.
            if best * rounds < BURST_SECONDS / 2:
                rounds = min(16 * rounds, int(BURST_SECONDS / best) + 1)
            else:
                bursts += 1
    return 1 / best


@cache
def _loaded(target: LlvmInstructionSet) -> dict[str, Callable[[int, int, int], None]]:
    """Returns the loops as functions of rounds, an address and bytes; they need no lock."""
    codes = {name: machine.assemble(str(written(name, target)), target) for name in LOOPS}
    type = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)
    return {name: type(address) for name, address in machine.link(codes, target).items()}


def written(name: str, target: LlvmInstructionSet) -> ir.Module:
    """Returns a module with one of the loops."""
    module = machine.new_module(name, target)
    type = ir.FunctionType(VOID, [I64, POINTER, I64])
    e = LlvmEmitter(ir.Function(module, type, name))
    LOOPS[name](e, target)
    e.build.ret_void()
    return module


def _write_multiply(e: LlvmEmitter, target: LlvmInstructionSet) -> None:
    """Writes the sums of a tile, round for round of the same operands."""
    rounds, pointer, _ = e.arguments
    lanes = target.lanes * target.group
    operands = vector(I16 if target.activation == "s16" else I8, lanes)
    weights = e.load(operands, pointer, 64)
    total = vector(I32, target.lanes)
    totals = [
        e.load(total, pointer, 128 + 64 * index) for index in range(target.rows * target.vectors)
    ]
    with e.loop(rounds, carried=[e.load(operands, pointer), *totals]) as loop:
        activations, *sums = loop.values
        following: list[LlvmValue] = []
        for each in sums:
            following.append(target.dot(e, each, activations, weights))
            # The next product is the same number, and LLVM must not know.
            activations = _opaque(e, activations, target)
        loop.carry(activations, *following)
    for index, each in enumerate(loop.values[1:]):
        e.store(each, pointer, 128 + 64 * index)


def _opaque(e: LlvmEmitter, value: LlvmValue, target: LlvmInstructionSet) -> LlvmValue:
    register = "x" if target.triple.startswith("x86_64") else "w"
    type = ir.FunctionType(value.type, [value.type])
    return e.build.asm(type, "", f"={register},0", [value], side_effect=False)


def _write_read(e: LlvmEmitter, target: LlvmInstructionSet) -> None:
    """Writes the reading of some bytes from the first to the last, round for round."""
    rounds, pointer, size = e.arguments
    type = vector(I32, target.lanes)
    seen = [e.load(type, pointer) for _ in range(_STREAMS)]
    with e.loop(rounds, carried=seen) as outer:
        step = 4 * target.lanes * _STREAMS
        with e.loop(size, step=step, carried=outer.values) as inner:
            inner.carry(
                *(
                    e.build.xor(
                        each, e.load(type, e.at(pointer, inner.index), 4 * target.lanes * index)
                    )
                    for index, each in enumerate(inner.values)
                )
            )
        outer.carry(*inner.values)
    for index, each in enumerate(outer.values):
        e.store(each, pointer, 4 * target.lanes * index)


LOOPS: dict[str, Callable[[LlvmEmitter, LlvmInstructionSet], None]] = {
    "qir_multiply": _write_multiply,
    "qir_read": _write_read,
}
"""What writes each loop."""
