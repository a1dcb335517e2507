"""Are the claims of ops true? Decided for all numbers that can occur."""

from __future__ import annotations

from collections.abc import Iterator

from qir.analysis.reach import StoredReach
from qir.ir import Graph, Node, Value
from qir.ops.claims import BoundedOperand, Claim


def bounded(value: Value, stored: StoredReach) -> BoundedOperand:
    """Returns a value as proofs know it."""
    return BoundedOperand(value.type, *stored.steps_by_place(value))


def false_claims(graph: Graph) -> Iterator[tuple[Node, Claim, str]]:
    """Yields the nodes whose ops claim too much, with the claim and what is wrong.

    Args:
        graph: A program that is valid otherwise; regions are looked at too.
    """
    claiming = [(node, claims) for node in graph.walk() if (claims := node.op.claims())]
    if not claiming:
        return
    stored = StoredReach.of(graph)
    for node, claims in claiming:
        operands = [bounded(value, stored) for value in node.inputs]
        for claim in claims:
            if wrong := claim.disproof(operands):
                yield node, claim, wrong


def drop_false_claims(graph: Graph) -> list[str]:
    """Takes back what rewrites have made untrue; returns a sentence for each claim.

    A claim that was proved for more numbers than can occur now stays true, one about other scales
    seldom does.
    """
    dropped = []
    for node, claim, wrong in list(false_claims(graph)):
        node.op = claim.without(node.op)
        dropped.append(f"%{node.outputs[0].name} {wrong}")
    return dropped
