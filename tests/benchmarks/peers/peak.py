"""The rate at which this machine multiplies bytes when nothing else holds it up.

Virtual machines have moments in which their cores share the host's: a timing means something beside
the peak that was measured just before and after it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from qir.machine import this_machine
from tests.benchmarks.peers.packages import load

BURSTS = 5
BURST_SECONDS = 0.02


@dataclass(frozen=True)
class Loop:
    """Sums of products of bytes in registers, exact also at the extremes.

    Args:
        feature: The instruction set that it takes, in the spelling of Linux.
        register: Name of a vector register, without its number.
        totals: Registers that are summed in, enough to hide the latency.
        step: One sum, with the register's number as `{total}`.
        multiply_adds: Multiply-accumulates of a step.
    """

    feature: str
    register: str
    totals: int
    step: str
    multiply_adds: int


LOOPS = (
    Loop("avx512_vnni", "zmm", 24, "vpdpbusd %zmm30, %zmm31, %zmm{total}", 64),
    Loop("avx_vnni", "ymm", 12, "{{vex}} vpdpbusd %ymm14, %ymm15, %ymm{total}", 32),
    Loop(
        "avx2",
        "ymm",
        12,
        "vpmaddwd %ymm14, %ymm15, %ymm13\n vpaddd %ymm13, %ymm{total}, %ymm{total}",
        16,
    ),
)
"""Best first."""


def int8_peak(threads: int) -> float | None:
    """Returns the most 10^9 multiplications and additions a second that were seen.

    Args:
        threads: Number of threads that work at once.

    Returns:
        The rate, which counts 2 for a multiply-accumulate; None on processors without any of the
        instruction sets.
    """
    loop = next((loop for loop in LOOPS if loop.feature in this_machine().features), None)
    if loop is None:
        return None
    spin = _assembled(loop)
    rounds = 1000
    while (taken := _seconds(spin, rounds)) < BURST_SECONDS / 2:
        rounds *= 2
    rounds = int(rounds * BURST_SECONDS / taken)
    with ThreadPoolExecutor(threads) as pool:
        best = min(_together(pool, spin, rounds, threads) for _ in range(BURSTS))
    return 2 * loop.multiply_adds * loop.totals * rounds * threads / best / 1e9


def _together(
    pool: ThreadPoolExecutor, spin: Callable[[int], None], rounds: int, threads: int
) -> float:
    begin = time.perf_counter()
    list(pool.map(spin, [rounds] * threads))
    return time.perf_counter() - begin


def _seconds(spin: Callable[[int], None], rounds: int) -> float:
    begin = time.perf_counter()
    spin(rounds)
    return time.perf_counter() - begin


@cache
def _assembled(loop: Loop) -> Callable[[int], None]:
    """Returns a function that runs a loop some times, without Python's lock."""
    llvm = load("llvmlite.binding")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    steps = [loop.step.format(total=total) for total in range(loop.totals)]
    lines = "\n".join(["1:", *steps, "dec $0", "jnz 1b", "vzeroupper"]).replace("\n", r"\0A")
    clobbered = ",".join(f"~{{{loop.register}{number}}}" for number in range(16))
    text = f"""
        define void @spin(i64 %rounds) {{
          call i64 asm sideeffect "{lines}", "=r,0,{clobbered},~{{cc}}"(i64 %rounds)
          ret void
        }}
    """
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten()
    )
    engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    spin = ctypes.CFUNCTYPE(None, ctypes.c_int64)(engine.get_function_address("spin"))

    def run(rounds: int) -> None:
        assert engine is not None  # it owns the machine code
        spin(rounds)

    return run
