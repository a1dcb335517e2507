"""Measuring the ways to compute an op: small programs, run in turns on the default device."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from math import isfinite
from typing import Any

import jax

from qir.backends.native.computation import Lowering
from qir.backends.xla.choice import Choice, Chooser, fastest, preferred
from qir.backends.xla.fingerprint import fingerprint
from qir.backends.xla.fusion import Fusion
from qir.backends.xla.program import XlaProgram
from qir.backends.xla.rules import legal_ways
from qir.bench.cache import CacheTable
from qir.bench.timing import Contender, interleave
from qir.ir import Graph, Node
from qir.ir.signature import bind
from qir.observe.batches import random_inputs
from qir.ops import Const, Return
from qir.report.progress import watched
from qir.types import Array

ROUNDS = 15
"""Turns of each way."""
TURN = 0.002
"""Seconds that the turn of a fast way lasts; it is called several times in it."""
HOPELESS = 4
"""A way that takes this many times the time of the fastest gets one turn only."""


class Measurements:
    """What was measured on this machine, kept in the cache.

    Attributes:
        table: Where it is kept.
    """

    def __init__(self) -> None:
        self.table = CacheTable("lowerings", fingerprint())
        self._times: dict[str, Mapping[str, float]] = {
            key: times
            for key, entry in self.table.read().items()
            if (times := _checked(entry)) is not None
        }

    def __bool__(self) -> bool:
        return bool(self._times)

    def choose(self, node: Node) -> Choice:
        """Chooses the way of a node; see `qir.backends.xla.choice`."""
        if not self._times or len(legal_ways(node)) == 1:
            return preferred(node)
        return fastest(node, self._times.get(Fusion.around(node).key, {}))

    def add(self, graph: Graph, computed: Container[Node] = ()) -> None:
        """Measures every op of a graph that can be computed in several ways, each kind once.

        What is known already is not measured again. The new times go into the cache.

        Args:
            graph: The graph, whose regions are measured too.
            computed: Nodes that take none of these ways, since kernels compute them.
        """
        missing: dict[str, Fusion] = {}
        for node in graph.walk():
            if isinstance(node.op, Const | Return) or node.regions or node in computed:
                continue
            if len(legal_ways(node)) > 1:
                fusion = Fusion.around(node)
                if fusion.key not in self._times:
                    missing.setdefault(fusion.key, fusion)
        added: dict[str, Mapping[str, float]] = {}
        try:
            for key, fusion in watched(missing.items(), "measuring lowerings"):
                added[key] = measured(fusion)
        finally:
            self._times.update(added)
            self.table.merge(added)


def _checked(entry: object) -> Mapping[str, float] | None:
    """Returns an entry of the cache as times by way, None for anything else."""
    if not isinstance(entry, dict):
        return None
    times: dict[str, float] = {}
    for name, time in entry.items():
        if not isinstance(name, str) or not isinstance(time, int | float) or time <= 0:
            return None
        if not isfinite(time):
            return None
        times[name] = float(time)
    return times


def measured(fusion: Fusion) -> dict[str, float]:
    """Measures the legal ways of a cluster's target.

    The other ops take their preferred ways, and named dimensions are 1.

    Returns:
        The median time of each way in milliseconds, by its name.
    """
    graph = fusion.graph()
    inputs = random_inputs(graph, named_size=1)
    with jax.ensure_compile_time_eval():
        contenders = [
            _contender(way.name, graph, inputs, _forced(fusion.target, way))
            for way in legal_ways(fusion.target)
        ]
        seconds = race(contenders)
    return {name: float(f"{1000 * time:.4g}") for name, time in seconds.items()}


def _forced(target: Node, way: Lowering) -> Chooser:
    """Returns a chooser that takes a way for the value of a node, the preferred ways elsewhere."""
    name = target.outputs[0].name

    def choose(node: Node) -> Choice:
        return Choice(way, "forced") if node.outputs[0].name == name else preferred(node)

    return choose


def _contender(name: str, graph: Graph, inputs: Sequence[Array], choose: Chooser) -> Contender:
    program = XlaProgram(graph, graph.outputs, choose)
    sizes = bind(program.inputs, inputs)
    given: Any = jax.device_put((program.arrays, tuple(inputs)))
    jitted = jax.jit(lambda parameters, inputs: program(parameters, inputs, sizes))

    def call() -> None:
        for array in jitted(*given):
            array.block_until_ready()

    return Contender(name, call)


def race(contenders: Sequence[Contender]) -> dict[str, float]:
    """Times contenders in turns; those without hope get one turn only.

    Returns:
        The median time of a call in seconds, by name.
    """
    trial = {times.name: times.median for times in interleave(contenders, 1, turn=0)}
    limit = HOPELESS * min(trial.values())
    racing = [contender for contender in contenders if trial[contender.name] <= limit]
    return trial | {times.name: times.median for times in interleave(racing, ROUNDS, turn=TURN)}
