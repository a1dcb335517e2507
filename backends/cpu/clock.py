"""The clock of kernels: when each step of a call ended."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from qir.backends.cpu import machine
from qir.backends.cpu.emitter import I64, LlvmEmitter
from qir.backends.cpu.runtime import read_counter
from qir.backends.cpu.target import host_target
from qir.backends.native.partition import Cluster
from qir.backends.native.plan import Plan
from qir.errors import QirError
from qir.types import Array

if TYPE_CHECKING:
    Words = ctypes.Array[ctypes.c_int64]

RATE_SECONDS = 0.05
"""Seconds over which the counter is compared with the system's clock, which is read in less than a
microsecond: the rate is known to 1 in 10^4."""


class StepClock:
    """The times of the latest call of a cluster.

    Args:
        cluster: The cluster.
        plan: Its steps.
        words: Where the runtime writes: the beginning, and the end of each step. They are kept as
            long as the process, because compiled programs hold their address.
    """

    def __init__(self, cluster: Cluster, plan: Plan, words: Words) -> None:
        self.cluster = cluster
        self.plan = plan
        self._words = words

    @property
    def address(self) -> int:
        """Address of the words."""
        return ctypes.addressof(self._words)

    def seconds(self) -> Array:
        """Returns the seconds of each step, waits of threads included: they sum to the call.

        The first one's hold what it takes to wake threads.
        """
        ends: Array = np.maximum.accumulate(np.array(self._words, np.int64))
        return np.diff(ends) / ticks_per_second()


@cache
def now() -> Callable[[], int]:
    """Returns a function that reads the counter that steps are timed with.

    Raises:
        QirError: There are no kernels for this machine.
    """
    target = host_target()
    if target is None:
        raise QirError("clock: expected a processor that kernels are made for")
    module = machine.new_module("counter", target)
    e = LlvmEmitter(ir.Function(module, ir.FunctionType(I64, []), "qir_counter"))
    e.build.ret(read_counter(e))
    code = machine.assemble(str(module), target)
    address = machine.link({"qir_counter": code}, target)["qir_counter"]
    return ctypes.CFUNCTYPE(ctypes.c_int64)(address)


@cache
def ticks_per_second() -> float:
    """Returns how fast the counter grows."""
    read = now()
    first, begin = read(), time.perf_counter()
    time.sleep(RATE_SECONDS)
    last, end = read(), time.perf_counter()
    return (last - first) / (end - begin)
