"""The values that go through a node with regions: outside, inside, and on their way."""

from __future__ import annotations

from typing import NamedTuple

from qir.ir.node import Node
from qir.ir.value import Value
from qir.ops.regions import Passage, RegionOp


class Passing(NamedTuple):
    """The values that one passage is: they hold numbers of one kind, and have one code.

    Attributes:
        passage: How it goes through.
        operand: The operand; None where it begins inside.
        inputs: The inputs of regions.
        returned: What regions return.
        result: The result; None where it ends inside.
    """

    passage: Passage
    operand: Value | None
    inputs: tuple[Value, ...]
    returned: tuple[Value, ...]
    result: Value | None

    @property
    def values(self) -> tuple[Value, ...]:
        """All of them, from the outside in and out again."""
        outside = (value for value in (self.operand,) if value is not None)
        behind = (value for value in (self.result,) if value is not None)
        return (*outside, *self.inputs, *self.returned, *behind)


def passing(node: Node) -> list[Passing]:
    """Lists what goes through a node; nothing for an op without regions."""
    if not isinstance(node.op, RegionOp):
        return []
    counts = len(node.inputs), len(node.outputs), len(node.regions)
    return [
        Passing(
            passage,
            None if passage.operand is None else node.inputs[passage.operand],
            tuple(node.regions[region].inputs[place] for region, place in passage.inputs),
            tuple(node.regions[region].outputs[place] for region, place in passage.outputs),
            None if passage.result is None else node.outputs[passage.result],
        )
        for passage in node.op.passages(*counts)
    ]
