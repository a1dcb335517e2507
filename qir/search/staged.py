"""A simulation in stages, so that a change is computed from where it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qir.analysis.simulation import Simulation
from qir.analysis.sites import NUMBERS, Site
from qir.ir import Graph, Value
from qir.ops import Const, Return, Slice
from qir.pipeline import Executor
from qir.types import Array

STAGES = 6
"""Stages of a program: a change is computed by 7 of 12 parts of it in the mean."""

LEAST_SITES = 4
"""Sites of a stage, at least."""


@dataclass(frozen=True)
class _Stage:
    """Consecutive nodes.

    Args:
        read: The names of what they read, in the order that `compute` takes.
        made: The names of what is read behind them or returned.
        compute: Computes these.
    """

    read: Sequence[str]
    made: Sequence[str]
    compute: Callable[..., list[Any]]


class StagedSimulation:
    """Runs a simulation on some rows.

    Args:
        simulation: The simulation.
        executor: Compiles its stages.
        rows: An array for each input but the codes.
    """

    def __init__(self, simulation: Simulation, executor: Executor, rows: Sequence[Array]) -> None:
        self._simulation = simulation
        graph = simulation.graph
        self._given = dict(zip((value.name for value in graph.inputs), rows, strict=False))
        nodes = [node for node in graph.nodes if not isinstance(node.op, Const | Return)]
        codes = graph.inputs[-1]
        reads: dict[int, int] = {}
        for place, node in enumerate(nodes):
            if isinstance(node.op, Slice) and node.inputs[0] is codes:
                reads.setdefault(node.op.start[0] // NUMBERS, place)
        places = sorted(reads.values())
        count = max(1, min(STAGES, len(places) // LEAST_SITES))
        ends = [places[len(places) * stage // count] for stage in range(1, count)]
        ends.append(len(nodes))
        self._starts = {
            simulation.sites[index]: sum(end <= place for end in ends)
            for index, place in reads.items()
        }
        made_in = {
            value: sum(end <= place for end in ends)
            for place, node in enumerate(nodes)
            for value in node.outputs
        }
        self._stages = _cut(graph, made_in, count, executor)
        self._floats: list[dict[str, Any]] = []

    def run(self, changed: dict[Site, tuple[float, float, float] | None]) -> list[Array]:
        """Returns the outputs with other codes of some sites; see `Simulation.codes`."""
        return self._outputs(self._from(0, dict(self._given), changed))

    def run_alone(self, sites: Iterable[Site]) -> list[Array]:
        """Returns the outputs where nothing is rounded but at some sites."""
        floats = dict.fromkeys(self._simulation.sites)
        if not self._floats:
            self._from(0, dict(self._given), floats, self._floats)
        own = list(sites)
        if not own:
            return self._outputs(self._floats[-1])
        for site in own:
            del floats[site]
        # What is read in regions alone counts as read from the first stage on.
        start = min(self._starts.get(site, 0) for site in own)
        return self._outputs(self._from(start, dict(self._floats[start]), floats))

    def _from(
        self,
        start: int,
        known: dict[str, Any],
        changed: dict[Site, tuple[float, float, float] | None],
        kept: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        known[self._simulation.graph.inputs[-1].name] = self._simulation.codes(changed)
        for stage in self._stages[start:]:
            if kept is not None:
                kept.append(dict(known))
            results = stage.compute(*(known[name] for name in stage.read))
            known |= zip(stage.made, results, strict=True)
        if kept is not None:
            kept.append(known)
        return known

    def _outputs(self, known: dict[str, Any]) -> list[Array]:
        return [np.asarray(known[value.name]) for value in self._simulation.graph.outputs]


def _cut(graph: Graph, made_in: dict[Value, int], count: int, executor: Executor) -> list[_Stage]:
    returned = set(graph.outputs)
    stages = []
    for stage in range(count):
        is_last = stage == count - 1
        before = [
            value
            for value, place in made_in.items()
            if place < stage and any(_stage(user.outputs, made_in) >= stage for user in value.users)
        ]
        outputs = [
            value
            for value, place in made_in.items()
            if place == stage
            and (
                value in returned
                or any(_stage(user.outputs, made_in) > stage for user in value.users)
            )
        ]
        if is_last:
            outputs += [value for value in dict.fromkeys(graph.outputs) if value.is_constant]
        # All stages take the inputs, which tell the sizes of named dimensions.
        part = graph.extract([*graph.inputs, *before], outputs)
        names = [value.name for value in outputs]
        read = [value.name for value in part.inputs]
        stages.append(_Stage(read, names, executor.probe(part, part.outputs)))
    return stages


def _stage(made: Sequence[Value], made_in: dict[Value, int]) -> int:
    return made_in[made[0]] if made else -1
