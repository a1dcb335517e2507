"""Partition: which nodes run in kernels, and which of these in one call.

A call should hold as much as it can, because nothing is copied between its steps and no thread
sleeps. Covers and what is left to XLA alternate in stages: a cover goes into the earliest even
stage in which all that it reads exists, anything else into the earliest odd one. All covers of a
stage are one section; no path leaves a section and comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.pattern import Cover, cover
from qir.ir import Node, Value


@dataclass(frozen=True, eq=False)
class Section:
    """Nodes that one call computes.

    Attributes:
        covers: The covers, in an order in which each finds what it reads.
        inputs: The values that it reads from outside, constants left out.
        outputs: The values that are read outside.
    """

    covers: tuple[Cover, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Partition:
    """The parts of a program in an order in which each finds what it reads.

    Attributes:
        parts: Sections, and nodes that are left to XLA.
        reasons: Why a node is left to XLA.
    """

    parts: tuple[Section | Node, ...]
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
    units: list[Cover | Node] = []
    reasons: dict[Node, str] = {}
    covered: set[Node] = set()
    needed = set(nodes)
    for node in nodes:
        if node in covered:
            continue
        found = cover(node, target)
        if isinstance(found, Cover):
            found = next(filter(None, map(refused, found.nodes)), found)
        if isinstance(found, Cover) and needed.issuperset(found.nodes):
            covered.update(found.nodes)
            units.append(found)
        else:
            units.append(node)
            reasons[node] = found if isinstance(found, str) else "its reader is not computed"
    order = {node: index for index, node in enumerate(nodes)}
    units.sort(key=lambda unit: order[_nodes(unit)[-1]])

    stages: dict[Value, int] = {}
    by_stage: dict[int, list[Cover | Node]] = {}
    for unit in units:
        stage = max((stages.get(value, 0) for value in _reads(unit)), default=0)
        stage += (stage % 2) != isinstance(unit, Node)
        by_stage.setdefault(stage, []).append(unit)
        stages |= dict.fromkeys(_nodes(unit)[-1].outputs, stage)

    parts: list[Section | Node] = []
    wanted = set(outputs)
    for _, members in sorted(by_stage.items()):
        chosen = [unit for unit in members if isinstance(unit, Cover)]
        if chosen:
            parts.append(_section(chosen, wanted))
        parts += [unit for unit in members if isinstance(unit, Node)]
    return Partition(tuple(parts), reasons)


def _nodes(unit: Cover | Node) -> tuple[Node, ...]:
    return (unit,) if isinstance(unit, Node) else unit.nodes


def _reads(unit: Cover | Node) -> tuple[Value, ...]:
    return unit.inputs


def _section(covers: Sequence[Cover], wanted: set[Value]) -> Section:
    inside = {node for cover in covers for node in cover.nodes}
    made = dict.fromkeys(value for cover in covers for value in cover.nodes[-1].outputs)
    inputs = dict.fromkeys(value for cover in covers for value in cover.inputs if value not in made)
    outputs = [
        value
        for value in made
        if value in wanted or any(reader not in inside for reader, _ in value.uses)
    ]
    return Section(tuple(covers), tuple(inputs), tuple(outputs))
