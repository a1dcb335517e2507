"""Identities of loops and branches: what goes through them for nothing, and those that run once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ops import Broadcast, Cond, Const, Dequantize, Reshape, Scan, While
from qir.ops.regions import RegionOp
from qir.passes.shared.inlining import inline
from qir.passes.shared.lanes import (
    Lane,
    bodies,
    inputs_read,
    lanes_of,
    rebuild,
    resized,
    trip_count,
)
from qir.pipeline.rewrite import Skip, rule
from qir.types import Array, TensorType, known


@rule(RegionOp)
def drop_unread_lanes(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Drops what goes in or out unread, and what is carried for nothing but itself."""
    node = _node(y)
    lanes = lanes_of(node)
    live = {index for index, lane in enumerate(lanes) if _is_read_outside(lane)}
    while True:
        needed = _needed(node, [lanes[index] for index in live])
        found = {
            index
            for index, lane in enumerate(lanes)
            if index in live or not needed.isdisjoint(lane.inputs)
        }
        if found == live:
            break
        live = found
    if len(live) == len(lanes):
        return None
    kept = [lane for index, lane in enumerate(lanes) if index in live]
    op = resized(node, kept)
    if op is None:
        # The number of trips is that of the places of something.
        counting = next((lane for lane in lanes if _counts(lane) and lane not in kept), None)
        if counting is None or len(live) + 1 == len(lanes):
            return Skip("what goes through has to stay", y)
        kept = [lane for lane in lanes if lane in kept or lane is counting]
        op = resized(node, kept)
        if op is None:
            return Skip("what goes through has to stay", y)
    return rebuild(node, op, kept, b)


def _is_read_outside(lane: Lane) -> bool:
    # The index of a cond goes into no region.
    return bool(lane.result.uses) if lane.result is not None else not lane.inputs


def _counts(lane: Lane) -> bool:
    return lane.kind == "stacked" and lane.operand is not None


def _needed(node: Node, live: Sequence[Lane]) -> set[Value]:
    """Returns the inputs of regions from which what is wanted of them is computed."""
    needed: set[Value] = set()
    returning = {index: place for place, index in enumerate(bodies(node))}
    for index, region in enumerate(node.regions):
        outputs = (
            [lane.returned[returning[index]] for lane in live if lane.returned]
            if index in returning
            else region.outputs
        )
        needed |= inputs_read(region, outputs)
    return needed


@rule(RegionOp)
def merge_equal_lanes(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Lets what goes in twice go in once."""
    node = _node(y)
    lanes = lanes_of(node)
    first: dict[object, Lane] = {}
    kept, instead, inside = [], {}, {}
    for lane in lanes:
        if lane.operand is None or not lane.inputs:
            kept.append(lane)
            continue
        same = first.setdefault((lane.kind, lane.operand, lane.returned), lane)
        if same is lane:
            kept.append(lane)
            continue
        for old, new in zip(lane.inputs, same.inputs, strict=True):
            old.replace_with(new)
            inside[old] = new
        if lane.result is not None and same.result is not None:
            instead[lane.result] = same.result
    if len(kept) == len(lanes):
        return None
    op = resized(node, kept)
    assert op is not None, "one of each kind is left"
    results = rebuild(node, op, kept, b, inside=inside)
    new_of = dict(zip(node.outputs, results, strict=True))
    return [new_of[instead.get(value, value)] for value in node.outputs]


@rule(RegionOp)
def carried_to_invariant(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Makes invariant what is carried and returned as it is."""
    node = _node(y)
    lanes, instead = lanes_of(node), {}
    for index, lane in enumerate(lanes):
        if lane.kind != "carried" or lane.operand is None or lane.result is None:
            continue
        (returned,) = lane.returned
        if returned is lane.inputs[-1] or _are_one_constant(returned, lane.operand):
            lanes[index] = Lane("invariant", lane.operand, lane.inputs, (), None)
            instead[lane.result] = lane.operand
    if not instead:
        return None
    op = resized(node, lanes)
    if op is None:
        return Skip("it carries nothing else", y)
    return rebuild(node, op, lanes, b, instead)


def _are_one_constant(one: Value, other: Value) -> bool:
    return one.is_constant and other.is_constant and one.op == other.op


@rule(RegionOp)
def constants_inside(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Moves constants, decoded ones too, into the regions that read them."""
    node = _node(y)
    lanes = lanes_of(node)
    kept = [lane for lane in lanes if not _is_constant(lane)]
    op = None if len(kept) == len(lanes) else resized(node, kept)
    if op is None:
        return None
    copies: dict[Value, tuple[Graph, Value]] = {}
    for lane in lanes:
        if lane in kept or lane.operand is None:
            continue
        for inner, region in zip(lane.inputs, node.regions, strict=True):
            if not inner.uses:
                continue
            copy = _copied(lane.operand, region.before(next(region.nodes)))
            inner.replace_with(copy)
            copies[inner] = region, copy
    inside = {inner: copy for inner, (_, copy) in copies.items()}
    results = rebuild(node, op, kept, b, inside=inside)
    for inner, (region, copy) in copies.items():
        region.rename(copy, inner.name)
    return results


def _is_constant(lane: Lane) -> bool:
    x = lane.operand
    return (
        lane.kind == "invariant"
        and bool(lane.inputs)
        and x is not None
        and (x.is_constant or (isinstance(x.op, Dequantize) and x.inputs[0].is_constant))
    )


def _copied(value: Value, b: Builder) -> Value:
    """Emits a constant, or a decoded one, where it is to be read."""
    if isinstance(value.op, Const):
        return b.const(value.op.array, element=value.type.element)
    assert value.op is not None
    return b.emit(value.op, _copied(value.inputs[0], b))


@rule(RegionOp)
def returned_from_outside(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Reads outside what a region returns as it was handed in, or as it is in every trip."""
    node = _node(y)
    lanes, instead = lanes_of(node), {}
    handed = {value: lane for lane in lanes for value in lane.inputs}
    for lane in lanes:
        if lane.operand is not None or lane.result is None or not lane.result.uses:
            continue
        sources = {id(handed.get(value)): handed.get(value) for value in lane.returned}
        source = next(iter(sources.values())) if len(sources) == 1 else None
        if source is not None and source.kind == lane.kind and source.operand is not None:
            instead[lane.result] = source.operand
        elif lane.kind == "stacked" and (each := _same_each_trip(lane, source, b)) is not None:
            shape = lane.result.type.shape
            try:
                repeated = b.emit(Broadcast(shape, tuple(range(1, len(shape)))), each)
            except QirError as error:
                return Skip(error.message, y)
            if repeated.type != lane.result.type:
                return Skip("its code would be another one", y)
            instead[lane.result] = repeated
    if not instead:
        return None
    kept = [lane for lane in lanes if lane.result not in instead]
    op = resized(node, kept)
    return (
        Skip("what goes through has to stay", y)
        if op is None
        else rebuild(node, op, kept, b, instead)
    )


def _same_each_trip(lane: Lane, source: Lane | None, b: Builder) -> Value | None:
    """Returns, outside, what a loop returns in every trip alike, if it does."""
    (returned,) = lane.returned
    if isinstance(returned.op, Const):
        return b.const(returned.op.array, element=returned.type.element)
    return source.operand if source is not None and source.kind == "invariant" else None


@rule(Cond)
def choose_branch(y: Value, b: Builder) -> Sequence[Value] | None:
    """Computes the one branch that can run, or that all of them are."""
    node = _node(y)
    index, *operands = node.inputs
    chosen = None
    if index.is_constant:
        chosen = min(max(int(index.array), 0), len(node.regions) - 1)
    elif all(are_alike(node.regions[0], other) for other in node.regions[1:]):
        chosen = 0
    return None if chosen is None else inline(node.regions[chosen], operands, b)


@rule(Scan)
def few_trips(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Computes the body of a scan of one trip; of one of none, what it was given is left."""
    node = _node(y)
    trips = trip_count(node)
    if trips not in (0, 1):
        return None
    lanes = lanes_of(node)
    if trips == 0:
        results = []
        for lane in lanes:
            if lane.kind == "carried" and lane.operand is not None:
                results.append(lane.operand)
            elif lane.result is not None:
                type = lane.result.type
                if not all(isinstance(size, int) for size in type.shape):
                    return Skip("what it stacks has a named dimension", y)
                results.append(b.const(_empty(type), element=type.element))
        return results
    operands = []
    for lane in lanes:
        if lane.operand is None:
            continue
        inner = lane.operand
        if lane.kind == "stacked":
            inner = b.emit(Reshape(lane.operand.type.shape[1:]), lane.operand)
            if inner.type != lane.inputs[0].type:
                return Skip("the code of what is stacked goes through no reshape", lane.operand)
        operands.append(inner)
    found = inline(node.regions[0], operands, b)
    for index, value in enumerate(node.outputs):
        if found[index].type != value.type:
            found[index] = b.emit(Reshape(value.type.shape), found[index])
            if found[index].type != value.type:
                return Skip("the code of what is stacked goes through no reshape", value)
    return found


def _empty(type: TensorType) -> Array:
    shape = tuple(known(size, "canonicalize") for size in type.shape)
    return np.zeros(shape, type.dtype.numpy)


@rule(While)
def no_trips(y: Value, b: Builder) -> Sequence[Value] | None:
    """What is carried into a loop that never begins comes out of it."""
    node = _node(y)
    (goes_on,) = node.regions[0].outputs
    if not goes_on.is_constant or goes_on.array:
        return None
    return [lane.operand for lane in lanes_of(node) if lane.kind == "carried" and lane.operand]


def are_alike(one: Graph, other: Graph) -> bool:
    """Whether two regions compute the same, by equal ops in one order; names don't count."""
    nodes = list(one.nodes), list(other.nodes)
    if len(nodes[0]) != len(nodes[1]) or len(one.inputs) != len(other.inputs):
        return False
    twin = dict(zip(one.inputs, other.inputs, strict=True))
    for node, like in zip(*nodes, strict=True):
        if (
            node.op != like.op
            or [twin[value] for value in node.inputs] != list(like.inputs)
            or [value.type for value in node.outputs] != [value.type for value in like.outputs]
            or len(node.regions) != len(like.regions)
            or not all(map(are_alike, node.regions, like.regions))
        ):
            return False
        twin.update(zip(node.outputs, like.outputs, strict=True))
    return True


def _node(y: Value) -> Node:
    assert y.node is not None
    return y.node


REGION_IDENTITIES = (
    choose_branch,
    few_trips,
    no_trips,
    constants_inside,
    merge_equal_lanes,
    carried_to_invariant,
    returned_from_outside,
    drop_unread_lanes,
)
