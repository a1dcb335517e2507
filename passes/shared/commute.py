"""How far an affine map can travel: back to the weights that compute a value, or on to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qir.ir import Builder, Value
from qir.ir.held import are_transposed
from qir.numbers.affine_map import AffineMap
from qir.ops import Embedding
from qir.ops.op import Op
from qir.ops.products import Products
from qir.ops.traits import Inward, Maps, Outward
from qir.passes.shared.affine import affine_chain
from qir.passes.shared.constants import rounded
from qir.passes.shared.weights import WeightPlan, emit_as, into_outputs
from qir.pipeline.rewrite import Skip
from qir.types import TensorType

FARTHEST = 64
"""Ops that a map may travel through: more than lie between two layers, and safe to recurse."""


def backward(value: Value, affine: AffineMap, distance: int = 0) -> WeightPlan | Skip:
    """Plans affine(value) by other weights and constants in what computes the value.

    Args:
        value: A value that only the map reads.
        affine: The map.
        distance: How many ops it has travelled through.

    Returns:
        What emits the result, or what stands in the way.
    """
    if distance > FARTHEST:
        return Skip(f"weights are more than {FARTHEST} ops away", value)
    op = value.op
    if op is None:
        return Skip("it is an input of the program", value)
    if isinstance(op, Products):
        return _into_products(value, op, affine, distance)
    return _inside(value, _ways(value, op, affine), distance)


def _ways(value: Value, op: Op, affine: AffineMap) -> Sequence[Inward] | Skip:
    """Asks an op how a map of its result is one of its operands."""
    assert value.node is not None
    operands, results = (
        [each.type for each in values] for values in (value.inputs, value.node.outputs)
    )
    if len(results) != 1:
        return Skip("is one of several results", value)
    ways = op.affine_inward(affine, operands, results)
    return Skip(ways, value) if isinstance(ways, str) else ways


def _inside(value: Value, ways: Sequence[Inward] | Skip, distance: int) -> WeightPlan | Skip:
    """Plans the first way that can be gone, constants before what is computed."""
    if isinstance(ways, Skip):
        return ways
    found: WeightPlan | Skip = Skip("no operand takes it", value)
    for way in sorted(ways, key=lambda way: not _is_free(way, value)):
        found = _through(value, way, distance)
        if not isinstance(found, Skip):
            break
    return found


def _is_free(way: Inward, value: Value) -> bool:
    return all(x.is_constant for x, part in zip(value.inputs, way.maps, strict=True) if part)


def _into_products(value: Value, op: Op, affine: AffineMap, distance: int) -> WeightPlan | Skip:
    """Plans affine(value) for a sum of products: by its weights, else by one of its factors."""
    kernel = value.inputs[1]
    uniform = not (affine.varies or affine.shifts)
    if not uniform or (kernel.is_constant and not _is_tied(kernel)):
        return into_outputs(value, affine)
    ways = _ways(value, op, affine)
    if kernel.is_constant and not isinstance(ways, Skip):
        ways = [way for way in ways if way.maps[1] is None]
    plan = _inside(value, ways, distance)
    return into_outputs(value, affine) if isinstance(plan, Skip) and kernel.is_constant else plan


def _through(value: Value, way: Inward, distance: int) -> WeightPlan | Skip:
    """Plans op(affine(operand), …), with a map for each operand."""
    plans: list[WeightPlan] = []
    for index, part in enumerate(way.maps):
        plan = _itself(value.inputs[index])
        if part is not None:
            mapped = _operand(value, index, part, distance)
            if isinstance(mapped, Skip):
                return mapped
            plan = mapped
        plans.append(plan)

    def build(builder: Builder) -> Value:
        return emit_as(builder, value, way.op, *[plan(builder) for plan in plans])

    return build


def _is_tied(kernel: Value) -> bool:
    """Whether weights are the transposed table of an embedding, whose numbers they share."""
    if not kernel.is_constant or kernel.type.rank != 2:
        return False
    return any(
        isinstance(node.op, Embedding)
        and node.inputs[0].is_constant
        and node.inputs[0].type == TensorType(kernel.type.shape[::-1], kernel.type.element)
        and are_transposed(node.inputs[0].array, kernel.array)
        for node in kernel.owner.nodes
    )


def _operand(value: Value, index: int, affine: AffineMap, distance: int) -> WeightPlan | Skip:
    x = value.inputs[index]
    if x.is_constant:
        return _constant(x, value, affine)
    if affine.varies and value.op is not None and value.op.elementwise:
        shape, axis = value.type.shape, affine.axis
        if x.type.rank != value.type.rank or x.type.shape[axis] != shape[axis]:
            return Skip("an operand is broadcast along the axis", x)
    if len(x.uses) != 1:
        return Skip("is read elsewhere too", x)
    return backward(x, affine, distance + 1)


def _constant(x: Value, value: Value, affine: AffineMap) -> WeightPlan | Skip:
    """Plans affine(x) for a constant operand, which may broadcast against the value."""
    if not x.type.is_float:
        return Skip("it is computed", x)
    broadcasts = value.op is not None and value.op.elementwise
    rank = value.type.rank if broadcasts else x.type.rank
    array = rounded(affine(x.array.astype(np.float64), rank), x.type.dtype)
    if array is None:
        return Skip("the folded constant would not be finite", x)
    return lambda builder: builder.const(array, x.name, x.type.element)


class Extracted(NamedTuple):
    """A value as an affine map of another one.

    Attributes:
        plan: Emits the other one.
        affine: The map.
    """

    plan: WeightPlan
    affine: AffineMap


def extracted(value: Value, distance: int = 0) -> Extracted | Skip | None:
    """Finds the affine map that can be taken out of what computes a value, and left for its reader.

    Args:
        value: A value with one reader.
        distance: How many ops lie between it and where the search began.

    Returns:
        The map and what it is applied to; None where there is no map; a Skip where one can't leave.
    """
    if (chain := affine_chain(value)) is not None:
        return Extracted(lambda _: chain.source, chain.affine)
    op, node = value.op, value.node
    if distance > FARTHEST or op is None or op.commutes is Maps.NONE:
        return None
    if node is None or len(node.outputs) != 1:
        return None
    found = [_extracted_operand(x, distance) for x in value.inputs]
    if not any(isinstance(part, Extracted) for part in found):
        return next((part for part in found if isinstance(part, Skip)), None)
    parts = [
        part if isinstance(part, Extracted) else Extracted(_itself(x), AffineMap.identity())
        for part, x in zip(found, value.inputs, strict=True)
    ]
    way = _way_out(value, op, [part.affine for part in parts])
    if isinstance(way, Skip):
        return way
    plans = [part.plan for part in parts]
    return Extracted(lambda b: emit_as(b, value, way.op, *[plan(b) for plan in plans]), way.affine)


def _extracted_operand(x: Value, distance: int) -> Extracted | Skip | None:
    return extracted(x, distance + 1) if len(x.uses) == 1 else None


def _itself(x: Value) -> WeightPlan:
    return lambda _: x


def _way_out(value: Value, op: Op, maps: Sequence[AffineMap]) -> Outward | Skip:
    """Asks an op how maps of its operands are one of its result."""
    assert value.node is not None
    operands, results = (
        [each.type for each in values] for values in (value.inputs, value.node.outputs)
    )
    way = op.affine_outward(maps, operands, results)
    return Skip(way, value) if isinstance(way, str) else way


def outside(value: Value, op: Op, affine: AffineMap) -> tuple[Op, AffineMap] | Skip:
    """Returns op' and affine' such that op(affine(x)) = affine'(op'(x)).

    Args:
        value: The result of the op.
        op: An op of one operand.
        affine: A map of that operand.
    """
    way = _way_out(value, op, [affine])
    return way if isinstance(way, Skip) else (way.op, way.affine)
