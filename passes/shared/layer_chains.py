"""Layers between which a factor for each channel can travel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qir.ir import Node, Value
from qir.numbers.affine_map import AffineMap
from qir.ops import Broadcast, Dot
from qir.ops.products import Products
from qir.passes.shared.commute import FARTHEST, outside
from qir.pipeline.rewrite import Skip
from qir.types import known


@dataclass(frozen=True, eq=False)
class LayerPath:
    """Two layers with nothing but homogeneous ops between.

    Attributes:
        first: The layer that computes the channels.
        second: The layer that reads them.
        values: The values between, the last one first.
        routes: For each value, for each place of its last axis, the output of the first layer that
            it is; None where channels are along another axis.
    """

    first: Node
    second: Node
    values: tuple[Value, ...]
    routes: tuple[NDArray[np.int64] | None, ...]

    @property
    def channels(self) -> NDArray[np.int64]:
        """For each channel that the second layer reads, the output of the first that it is."""
        (channels, *_) = self.routes
        assert channels is not None
        return channels

    @property
    def is_by_rows(self) -> bool:
        """Whether it can be computed on any number of rows of the first axis.

        Each row goes its own way, and channels lie along the last axis.
        """
        values = (self.first.inputs[0], *self.values)
        return (
            all(route is not None for route in self.routes)
            and all(value.type.rank > 1 for value in values)
            and all(isinstance(size, int) for value in values for size in value.type.shape[1:])
            and all(map(_keeps_rows, self.values[:-1]))
        )


def _keeps_rows(value: Value) -> bool:
    assert value.op is not None
    carried = value.op.carried([operand.type for operand in value.inputs], [value.type])
    along = any(each.axis == each.becomes == 0 for each in carried)
    return along and not isinstance(value.op, Broadcast)  # which has a number of rows of its own


def find_pair(node: Node) -> LayerPath | Skip | None:
    """Finds the layer before a layer, as far as a factor for each channel can travel.

    Returns:
        The path; what stands in its way; None where the node is no layer or the first one.
    """
    if not is_layer(node):
        return None
    values = [node.inputs[0]]
    while not is_layer(values[-1].node):
        value = values[-1]
        if value.node is None or len(values) > FARTHEST:
            return None
        if len(value.node.inputs) != 1:
            return Skip(f"{value.node.op.name} has several operands", value)
        values.append(value.inputs[0])
    if other := next((value for value in values if len(value.uses) != 1), None):
        return Skip("what lies between is read elsewhere too", other)
    first, rank = values[-1].node, values[-1].type.rank
    assert first is not None
    outputs = known(values[-1].type.shape[-1], "equalize")
    # Numbered factors tell where each channel goes.
    affine = AffineMap(np.arange(1.0, outputs + 1), np.zeros(1), rank - 1)
    routes = [_route(affine, values[-1])]
    for value in reversed(values[:-1]):
        assert value.op is not None
        moved = outside(value, value.op, affine)
        if isinstance(moved, Skip):
            return moved
        affine = moved[1]
        routes.append(_route(affine, value))
    if routes[-1] is None:
        return Skip("the channels are not those of the next layer", node.inputs[0])
    return LayerPath(first, node, tuple(values), tuple(reversed(routes)))


def _route(affine: AffineMap, value: Value) -> NDArray[np.int64] | None:
    if affine.varies and affine.axis != value.type.rank - 1:
        return None
    numbers = np.broadcast_to(affine.factor, known(value.type.shape[-1], "equalize"))
    return numbers.astype(np.int64) - 1


def is_layer(node: Node | None) -> bool:
    """Whether a node multiplies activations with constant weights, and adds constants if any."""
    return (
        node is not None
        and isinstance(node.op, Products)
        and not (isinstance(node.op, Dot) and node.op.batch)
        and node.outputs[0].type.is_float
        and all(value.is_constant for value in node.inputs[1:])
    )


def chains(paths: Iterable[LayerPath]) -> list[tuple[LayerPath, ...]]:
    """Joins paths that end where another one begins, each chain in its order.

    Args:
        paths: Paths in the order of the program.
    """
    found: dict[Node, list[LayerPath]] = {}
    for path in paths:
        chain = found.pop(path.first, [])
        found[path.second] = [*chain, path]
    return [tuple(chain) for chain in found.values()]
