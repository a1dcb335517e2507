"""Partition: which nodes run in kernels, and which of these in one call.

A call should hold as much as it can, because nothing is copied between its steps and no thread
sleeps. Matches and what is left to XLA alternate in stages: a match goes into the earliest even
stage in which all that it reads exists, anything else into the earliest odd one. All matches of a
stage are one cluster; no path leaves a cluster and comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qir.backends.native.fusion import fused
from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.pattern import Match, match
from qir.ir import Node, Value


@dataclass(frozen=True, eq=False)
class Cluster:
    """Nodes that one call computes.

    Attributes:
        matches: The matches, in an order in which each finds what it reads.
        inputs: The values that it reads from outside, constants left out.
        outputs: The values that are read outside.
    """

    matches: tuple[Match, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Partition:
    """The parts of a program in an order in which each finds what it reads.

    Attributes:
        parts: Clusters, and nodes that are left to XLA.
        reasons: Why a node is left to XLA.
    """

    parts: tuple[Cluster | Node, ...]
    reasons: Mapping[Node, str]


def partition(
    nodes: Sequence[Node],
    outputs: Iterable[Value],
    target: InstructionSet,
    refused: Callable[[Node], str] = lambda node: "",
) -> Partition:
    """Divides the nodes of a program.

    Args:
        nodes: The nodes in an order of computation, constants left out.
        outputs: The values that the program returns.
        target: The instruction set.
        refused: Why no kernel may compute a node; nothing where one may.
    """
    units: list[Match | Node] = []
    reasons: dict[Node, str] = {}
    matched: set[Node] = set()
    needed = set(nodes)
    for node in nodes:
        if node in matched:
            continue
        found = match(node, target)
        if isinstance(found, Match):
            found = next(filter(None, map(refused, found.all_nodes())), found)
        if isinstance(found, Match) and needed.issuperset(found.nodes):
            matched.update(found.nodes)
            units.append(found)
        else:
            units.append(node)
            reasons[node] = found if isinstance(found, str) else "its reader is not computed"
    order = {node: index for index, node in enumerate(nodes)}
    units.sort(key=lambda unit: order[_nodes(unit)[-1]])

    stages: dict[Value, int] = {}
    by_stage: dict[int, list[Match | Node]] = {}
    for unit in units:
        stage = max((stages.get(value, 0) for value in _reads(unit)), default=0)
        stage += (stage % 2) != isinstance(unit, Node)
        by_stage.setdefault(stage, []).append(unit)
        stages |= dict.fromkeys(_results(unit), stage)

    parts: list[Cluster | Node] = []
    wanted = set(outputs)
    for _, members in sorted(by_stage.items()):
        chosen = [unit for unit in members if isinstance(unit, Match)]
        if chosen:
            parts.append(_cluster(chosen, wanted))
        parts += [unit for unit in members if isinstance(unit, Node)]
    return Partition(tuple(parts), reasons)


def _nodes(unit: Match | Node) -> tuple[Node, ...]:
    return (unit,) if isinstance(unit, Node) else unit.nodes


def _reads(unit: Match | Node) -> tuple[Value, ...]:
    return unit.inputs


def _results(unit: Match | Node) -> tuple[Value, ...]:
    return unit.outputs if isinstance(unit, Node) else unit.results


def _cluster(matches: Sequence[Match], wanted: set[Value]) -> Cluster:
    inside = {node for match in matches for node in match.nodes}
    made = dict.fromkeys(value for match in matches for value in match.results)
    inputs = dict.fromkeys(
        value for match in matches for value in match.inputs if value not in made
    )
    outputs = [
        value
        for value in made
        if value in wanted or any(reader not in inside for reader, _ in value.uses)
    ]
    return Cluster(tuple(fused(matches, wanted)), tuple(inputs), tuple(outputs))
