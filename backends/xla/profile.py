"""Profiles: how long each kernel of a program takes, within the program."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from qir.backends.cpu.clock import Clock
from qir.backends.cpu.clusters import Kernels
from qir.backends.cpu.target import host_target
from qir.backends.native.pattern import Cover
from qir.backends.xla.compile import Compiled
from qir.backends.xla.measure import Measurements
from qir.bench.timing import TURN, Contender, interleave
from qir.ir import Graph, Node, Value
from qir.types import Array


@dataclass(frozen=True)
class Part:
    """What a kernel computes, or several in a row, of a copy of the program.

    Args:
        nodes: The nodes, in order.
        reads: The values that are read, constants left out.
        kernels: Names of the kernels, each once; none where nothing is to be done.
        threads: Number of threads that work on it.
        saving: How many times fewer multiplications a kernel needs than the op is defined by.
        seconds: Its time in a call, with the waiting of threads for each other.
    """

    nodes: tuple[Node, ...]
    reads: tuple[Value, ...]
    kernels: tuple[str, ...]
    threads: int
    saving: float
    seconds: float


@dataclass(frozen=True)
class Profile:
    """The time of a program and of what kernels compute in it.

    Args:
        parts: What kernels compute; the rest of the time goes to XLA, and to what a call takes.
        seconds: Seconds of a call.
        memory: Bytes of what calls read and write: parameters and tensors.
    """

    parts: tuple[Part, ...]
    seconds: float
    memory: int

    @cached_property
    def threads(self) -> int:
        """Most threads that work on a part."""
        return max((part.threads for part in self.parts), default=1)


def profile(graph: Graph, inputs: Sequence[Array], rounds: int, turn: float = TURN) -> Profile:
    """Times the kernels of a program.

    All figures are means over one half of the calls, those that were neither the fastest quarter
    nor the slowest: so the times of the parts sum to no more than that of the call.

    Args:
        graph: The program.
        inputs: The arrays to run it on.
        rounds: Turns, of one call or more.
        turn: Seconds that a turn lasts at least.

    Returns:
        The times; no parts where there are no kernels.
    """
    target = host_target()
    clocks: list[Clock] = []
    kernels = None if target is None else Kernels(target, clocks=clocks)
    compiled = Compiled(graph, Measurements().choose, kernels=kernels)
    given = [jax.device_put(array) for array in inputs]
    calls: list[float] = []
    steps: list[list[Array]] = []

    def run() -> None:
        for output in compiled(*given):
            output.block_until_ready()

    def call() -> None:
        begin = time.perf_counter()
        run()
        calls.append(time.perf_counter() - begin)
        steps.append([clock.seconds() for clock in clocks])

    run()  # compiles
    interleave([Contender(graph.name, call)], rounds, turn=turn)
    order = np.argsort(calls)
    chosen = order[len(order) // 4 : len(order) - len(order) // 4]
    parts: list[Part] = []
    for index, clock in enumerate(clocks):
        seconds = np.mean([steps[number][index] for number in chosen], axis=0)
        parts += _parts(clock, seconds)
    memory = sum(clock.plan.parameter_bytes + clock.plan.arena() for clock in clocks)
    return Profile(tuple(parts), float(np.mean([calls[number] for number in chosen])), memory)


def _parts(clock: Clock, seconds: Array) -> list[Part]:
    steps = clock.plan.steps
    of_nodes: Mapping[tuple[Node, ...], list[int]] = {
        cover.nodes: [] for cover in clock.section.covers
    }
    for number, step in enumerate(steps):
        of_nodes[step.nodes].append(number)

    def part(cover: Cover) -> Part:
        numbers = of_nodes[cover.nodes]
        kernels = [steps[number].kernel for number in numbers]
        return Part(
            cover.nodes,
            cover.inputs,
            tuple(dict.fromkeys(type(kernel).__name__ for kernel in kernels)),
            clock.plan.threads,
            max((kernel.saving for kernel in kernels), default=1.0),
            float(seconds[numbers].sum()),
        )

    return [part(cover) for cover in clock.section.covers]
