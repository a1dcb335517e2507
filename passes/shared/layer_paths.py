"""Ways from a value back to the layer that computes its channels, along which factors travel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qir.ir import Node, Value
from qir.numbers.affine_map import AffineMap
from qir.ops import Dot, Relu
from qir.ops.products import Products
from qir.ops.traits import Moves
from qir.passes.shared.commute import FARTHEST, outside
from qir.pipeline.rewrite import Skip
from qir.types import known


@dataclass(frozen=True, eq=False)
class LayerPath:
    """A layer and what its results become by nothing but homogeneous ops.

    Attributes:
        layer: The layer that computes the channels.
        values: The values from the last one, in whose channels factors are given, back to the
            layer's result.
        channels: For each channel of the last value, the output of the layer that it is.
    """

    layer: Node
    values: tuple[Value, ...]
    channels: NDArray[np.int64]


def find_path(value: Value) -> LayerPath | Skip | None:
    """Finds the layer behind a value, as far as a factor for each channel can travel.

    Args:
        value: What other layers read.

    Returns:
        The path; what stands in its way; None where no layer computes the value.
    """
    values = [value]
    while not is_layer(values[-1].node):
        last = values[-1]
        if last.node is None or len(values) > FARTHEST:
            return None
        if len(last.node.inputs) != 1:
            return Skip(f"{last.node.op.name} has several operands", last)
        values.append(last.inputs[0])
    if other := next((each for each in values[1:] if len(each.uses) != 1), None):
        return Skip("what lies between is read elsewhere too", other)
    layer, rank = values[-1].node, values[-1].type.rank
    assert layer is not None
    outputs = known(values[-1].type.shape[-1], "layer")
    # Numbered factors tell where each channel goes.
    affine = AffineMap(np.arange(1.0, outputs + 1), np.zeros(1), rank - 1)
    for each in reversed(values[:-1]):
        assert each.op is not None
        moved = outside(each, each.op, affine)
        if isinstance(moved, Skip):
            return moved
        affine = moved[1]
    if affine.varies and affine.axis != value.type.rank - 1:
        return Skip("the channels are not those of the next layer", value)
    channels = np.broadcast_to(affine.factor, known(value.type.shape[-1], "layer"))
    return LayerPath(layer, tuple(values), channels.astype(np.int64) - 1)


def is_layer(node: Node | None) -> bool:
    """Whether a node sums products of floats with constant weights."""
    return (
        node is not None
        and isinstance(node.op, Products)
        and not (isinstance(node.op, Dot) and node.op.batch)
        and node.outputs[0].type.is_float
        and all(value.is_constant for value in node.inputs[1:])
    )


def plain_path(value: Value) -> LayerPath | None:
    """Finds the layer behind a value that only layers read, with but moves and relu between.

    The numbers between are then those of the value itself, or below 0 what relu makes 0 of: their
    ranges follow from its own.

    Args:
        value: The value.
    """
    if not value.uses or not all(
        is_layer(user) and user.inputs[0] is value for user in value.users
    ):
        return None
    found = find_path(value)
    if not isinstance(found, LayerPath):
        return None
    between = (each.op for each in found.values[:-1])
    is_plain = all(
        op is not None and (isinstance(op, Relu) or op.moves is Moves.ORDER) for op in between
    )
    return found if is_plain else None
