"""Inlining: what a region computes, computed in the graph around it instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qir.ir import Builder, Graph, Value
from qir.ir.cloner import copy_node
from qir.ops import Return


def inline(
    region: Graph,
    inputs: Sequence[Value],
    builder: Builder,
    name: Callable[[str], str] | None = None,
) -> list[Value]:
    """Copies the nodes of a region to where a builder stands.

    The copies keep what is known of the nodes and their results: ranges, origins, notes, places.
    What has no place of its own gets the builder's. The region stays as it is.

    Args:
        region: The region.
        inputs: What its inputs stand for, values of the builder's graph.
        builder: Where to insert; the copies are among what it has emitted.
        name: Gives the name of a copy, and each of its origins, by that of the original, where
            several copies are made, of what is inside of regions too; None keeps them. Names are
            made unique by a number.

    Returns:
        What the region returns: copies, or what was given for an input that it returns.
    """
    mapping = dict(zip(region.inputs, inputs, strict=True))
    for node in region.nodes:
        if isinstance(node.op, Return):
            continue
        names = [value.name for value in node.outputs]
        twin = copy_node(
            node,
            builder.graph,
            [mapping[value] for value in node.inputs],
            names=names if name is None else list(map(name, names)),
            before=builder.anchor,
        )
        twin.loc = twin.loc or builder.loc
        if name is not None:
            _rename_origins(twin.outputs, name)
            for inner in twin.regions:
                _rename(inner, name)
        builder.emitted.append(twin)
        mapping.update(zip(node.outputs, twin.outputs, strict=True))
    return [mapping[value] for value in region.outputs]


def _rename(region: Graph, name: Callable[[str], str]) -> None:
    """Renames what is inside of a region, as no two values of a program have one name."""
    region.rename_all({value: name(value.name) for value in region.values()})
    _rename_origins(list(region.values()), name)
    for node in region.nodes:
        for inner in node.regions:
            _rename(inner, name)


def _rename_origins(values: Sequence[Value], name: Callable[[str], str]) -> None:
    for value in values:
        value.origins = {name(origin): order for origin, order in value.origins.items()}
