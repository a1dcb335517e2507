"""A program of a fixed batch as one of fewer samples."""

from __future__ import annotations

from dataclasses import replace

from qir.analysis.verify import verify
from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ir.cloner import copy_node
from qir.ops import Const, Return
from qir.types import TensorType


def with_fewer_samples(graph: Graph, samples: int) -> Graph | None:
    """Copies a program of a fixed batch so that it takes fewer samples.

    The first dimension of what follows from the inputs has to be a multiple of the batch. That each
    sample is computed by itself is not looked at: a mean over the batch stays one.

    Args:
        graph: The program; it stays as it is.
        samples: How many samples the copy takes, at least 1.

    Returns:
        The copy; None where the inputs do not have one first dimension of more than as many, or an
        op holds on to it, or has regions.
    """
    leading = {value.type.shape[0] if value.type.rank else 1 for value in graph.inputs}
    batch = leading.pop() if len(leading) == 1 else 1
    if not isinstance(batch, int) or batch <= samples or any(node.regions for node in graph.nodes):
        return None

    def fewer(type_: TensorType) -> TensorType:
        first = type_.shape[0] if type_.rank else 0
        if not isinstance(first, int) or first == 0 or first % batch:
            return type_
        return replace(type_, shape=(first // batch * samples, *type_.shape[1:]))

    copy = Graph(graph.name)
    twins: dict[Value, Value] = {}
    followed = set(graph.inputs)
    for value in graph.inputs:
        twins[value] = copy.add_input(value.name, fewer(value.type))
        twins[value].origins = value.origins
        twins[value].take_ranges(value)
    try:
        for node in graph.nodes:
            if isinstance(node.op, Return):
                continue
            follows = not isinstance(node.op, Const) and not followed.isdisjoint(node.inputs)
            operands = [twins[value] for value in node.inputs]
            names = [value.name for value in node.outputs]
            new = copy_node(node, copy, operands, names=names, retype=fewer if follows else None)
            twins.update(zip(node.outputs, new.outputs, strict=True))
            if follows:
                followed.update(node.outputs)
        copy.set_outputs([twins[value] for value in graph.outputs])
        verify(copy)
    except QirError:
        return None
    return copy
