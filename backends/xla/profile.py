"""Profiles: how long each kernel of a program takes, within the program."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np

from qir.backends.native.pattern import Match
from qir.backends.xla.compile import Compiled
from qir.backends.xla.kernel_choice import kernels_here
from qir.backends.xla.kernels import Clock
from qir.backends.xla.measure import Measurements
from qir.bench.profile import Ceilings, Part, Profile
from qir.bench.timing import TURN, Contender, interleave
from qir.ir import Graph, Node
from qir.types import Array


def profile(
    graph: Graph, inputs: Sequence[Array], rounds: int, turn: float = TURN
) -> Profile | None:
    """Times the kernels of a program.

    All figures are means over one half of the calls, those that were neither the fastest quarter
    nor the slowest: so the times of the parts sum to no more than that of the call.

    Args:
        graph: The program.
        inputs: The arrays to run it on.
        rounds: Turns, of one call or more.
        turn: Seconds that a turn lasts at least.

    Returns:
        The times; None where there are no kernels.
    """
    kernels = kernels_here(timed=True)
    if isinstance(kernels, str):
        return None
    peaks = kernels.peaks()
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
        steps.append([clock.seconds() for clock in kernels.clocks])

    run()  # compiles
    interleave([Contender(graph.name, call)], rounds, turn=turn)
    order = np.argsort(calls)
    chosen = order[len(order) // 4 : len(order) - len(order) // 4]
    parts: list[Part] = []
    for index, clock in enumerate(kernels.clocks):
        seconds = np.mean([steps[number][index] for number in chosen], axis=0)
        parts += _parts(clock, seconds)
    memory = sum(clock.plan.constant_bytes + clock.plan.arena() for clock in kernels.clocks)
    ceilings: dict[int, Ceilings] = {}
    for threads in sorted({part.threads for part in parts}):
        measured = kernels.ceilings(threads)
        ceilings[threads] = replace(measured, gops=max(measured.gops, peaks[threads]))
    whole = float(np.mean([calls[number] for number in chosen]))
    return Profile(tuple(parts), whole, memory, ceilings)


def _parts(clock: Clock, seconds: Array) -> list[Part]:
    steps = clock.plan.steps
    of_nodes: Mapping[tuple[Node, ...], list[int]] = {
        match.nodes: [] for match in clock.cluster.matches
    }
    for number, step in enumerate(steps):
        of_nodes[step.nodes].append(number)

    def part(match: Match) -> Part:
        numbers = of_nodes[match.nodes]
        kernels = [steps[number].kernel for number in numbers]
        return Part(
            match.nodes,
            match.inputs,
            tuple(dict.fromkeys(kernel.name for kernel in kernels)),
            clock.plan.threads,
            max((kernel.saving for kernel in kernels), default=1.0),
            float(seconds[numbers].sum()),
        )

    return [part(match) for match in clock.cluster.matches]
