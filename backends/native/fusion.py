"""Joining: matches of one cluster that one pass over the elements computes.

A match has a level, and joins others of that level: it is no less than that of any match that it
reads, and greater than that of one which it does not join. So no path leaves a pass and comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qir.backends.native.pattern import JOININGS, Joining, Match
from qir.ir import Node, Value


@dataclass(eq=False)
class _Group:
    """Matches that are to be one.

    Attributes:
        matches: The matches.
        level: Their level.
        fusion: How they become one; None for a match that stays alone.
    """

    matches: list[Match]
    level: int
    fusion: Joining | None
    nodes: set[Node] = field(default_factory=set)


def fused(matches: Sequence[Match], wanted: set[Value]) -> list[Match]:
    """Returns the matches of a cluster, with one in the place of several where that can be.

    Args:
        matches: The matches, in an order in which each finds what it reads.
        wanted: The values that the program returns.
    """
    if not any(match.pattern is fusion.pattern for match in matches for fusion in JOININGS):
        return list(matches)
    maker: dict[Value, _Group] = {}
    groups: list[_Group] = []
    for match in matches:
        fusion = next((each for each in JOININGS if all(map(each.joins, match.nodes))), None)
        before = list(dict.fromkeys(maker[value] for value in match.inputs if value in maker))
        group = _joined(match, fusion, before, wanted)
        if group.nodes.isdisjoint(match.nodes):
            group.matches.append(match)
            group.nodes.update(match.nodes)
        if group not in groups:
            groups.append(group)
        for joined in before:
            if joined is not group and joined in groups and joined.nodes <= group.nodes:
                groups.remove(joined)
        for value in (v for each in group.matches for v in each.results):
            maker[value] = group
    order = {match: index for index, match in enumerate(matches)}
    groups.sort(key=lambda group: (group.level, order[group.matches[0]]))
    return [match for group in groups for match in _finished(group, order, wanted)]


def _joined(
    match: Match, fusion: Joining | None, before: Sequence[_Group], wanted: set[Value]
) -> _Group:
    """Returns the group that a match joins, or one of its own."""
    level = max((group.level for group in before), default=0)
    if fusion is not None:
        latest = [group for group in before if group.level == level]
        if latest and all(group.fusion is fusion for group in latest):
            nodes = {node for group in latest for node in group.nodes}.union(match.nodes)
            if len(nodes) <= fusion.most and _is_one_domain(nodes, wanted):
                joined = [each for group in latest for each in group.matches]
                first = latest[0]
                if len(latest) > 1:
                    return _Group([*joined, match], level, fusion, nodes)
                return first
    return _Group([match], level + bool(before), fusion, set(match.nodes))


def _read_outside(nodes: set[Node], wanted: set[Value]) -> list[Value]:
    return [
        value
        for node in nodes
        for value in node.outputs
        if value in wanted or any(reader not in nodes for reader, _ in value.uses)
    ]


def _is_one_domain(nodes: set[Node], wanted: set[Value]) -> bool:
    """Whether what is read outside has one shape, and all has the same rows."""
    outputs = {value.type.shape for value in _read_outside(nodes, wanted)}
    rows = {value.type.shape[:-1] for node in nodes for value in node.outputs}
    ranks = {value.type.rank for node in nodes for value in node.outputs}
    return len(outputs) == 1 and len(rows) == 1 and len(ranks) == 1


def _finished(group: _Group, order: dict[Match, int], wanted: set[Value]) -> list[Match]:
    matches = sorted(group.matches, key=order.__getitem__)
    fusion = group.fusion
    if fusion is None or len(matches) == 1:
        return matches
    if not any(match.pattern is fusion.pattern for match in matches):
        return matches
    nodes = [node for match in matches for node in match.nodes]
    outputs = _read_outside(set(nodes), wanted)
    order_of = {value: index for index, value in enumerate(v for n in nodes for v in n.outputs)}
    outputs.sort(key=order_of.__getitem__)
    return [fusion.match(nodes, outputs)]
