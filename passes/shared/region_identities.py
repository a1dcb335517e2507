"""Identities of loops and branches: what goes through them for nothing, and those that run once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ops import Broadcast, Cond, Const, Dequantize, Reshape, Scan, While
from qir.ops.regions import RegionOp
from qir.passes.shared.inlining import inline
from qir.passes.shared.ports import (
    Port,
    bodies,
    inputs_read,
    ports_of,
    rebuild,
    resized,
    trip_count,
)
from qir.pipeline.rewrite import Skip, rule
from qir.types import Array, TensorType, known


@rule(RegionOp)
def drop_unread_ports(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Drops what goes in or out unread, and what is carried for nothing but itself."""
    node = _node(y)
    ports = ports_of(node)
    live = {index for index, port in enumerate(ports) if _is_read_outside(port)}
    while True:
        needed = _needed(node, [ports[index] for index in live])
        found = {
            index
            for index, port in enumerate(ports)
            if index in live or not needed.isdisjoint(port.inputs)
        }
        if found == live:
            break
        live = found
    if len(live) == len(ports):
        return None
    kept = [port for index, port in enumerate(ports) if index in live]
    op = resized(node, kept)
    if op is None:
        # The number of trips is that of the places of something.
        counting = next((port for port in ports if _counts(port) and port not in kept), None)
        if counting is None or len(live) + 1 == len(ports):
            return Skip("what goes through has to stay", y)
        kept = [port for port in ports if port in kept or port is counting]
        op = resized(node, kept)
        if op is None:
            return Skip("what goes through has to stay", y)
    return rebuild(node, op, kept, b)


def _is_read_outside(port: Port) -> bool:
    # The index of a cond goes into no region.
    return bool(port.result.uses) if port.result is not None else not port.inputs


def _counts(port: Port) -> bool:
    return port.kind == "stacked" and port.operand is not None


def _needed(node: Node, live: Sequence[Port]) -> set[Value]:
    """Returns the inputs of regions from which what is wanted of them is computed."""
    needed: set[Value] = set()
    returning = {index: place for place, index in enumerate(bodies(node))}
    for index, region in enumerate(node.regions):
        outputs = (
            [port.returned[returning[index]] for port in live if port.returned]
            if index in returning
            else region.outputs
        )
        needed |= inputs_read(region, outputs)
    return needed


@rule(RegionOp)
def merge_equal_ports(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Lets what goes in twice go in once."""
    node = _node(y)
    ports = ports_of(node)
    first: dict[object, Port] = {}
    kept, instead = [], {}
    for port in ports:
        if port.operand is None or not port.inputs:
            kept.append(port)
            continue
        same = first.setdefault((port.kind, port.operand, port.returned), port)
        if same is port:
            kept.append(port)
            continue
        for old, new in zip(port.inputs, same.inputs, strict=True):
            old.replace_with(new)
        if port.result is not None and same.result is not None:
            instead[port.result] = same.result
    if len(kept) == len(ports):
        return None
    op = resized(node, kept)
    assert op is not None, "one of each kind is left"
    results = rebuild(node, op, kept, b)
    new_of = dict(zip(node.outputs, results, strict=True))
    return [new_of[instead.get(value, value)] for value in node.outputs]


@rule(RegionOp)
def carried_to_invariant(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Makes invariant what is carried and returned as it is."""
    node = _node(y)
    ports, instead = ports_of(node), {}
    for index, port in enumerate(ports):
        if port.kind != "carried" or port.operand is None or port.result is None:
            continue
        (returned,) = port.returned
        if returned is port.inputs[-1] or _are_one_constant(returned, port.operand):
            ports[index] = Port("invariant", port.operand, port.inputs, (), None)
            instead[port.result] = port.operand
    if not instead:
        return None
    op = resized(node, ports)
    if op is None:
        return Skip("it carries nothing else", y)
    return rebuild(node, op, ports, b, instead)


def _are_one_constant(one: Value, other: Value) -> bool:
    return one.is_constant and other.is_constant and one.op == other.op


@rule(RegionOp)
def constants_inside(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
    """Moves constants, decoded ones too, into the regions that read them."""
    node = _node(y)
    ports = ports_of(node)
    kept = [port for port in ports if not _is_constant(port)]
    op = None if len(kept) == len(ports) else resized(node, kept)
    if op is None:
        return None
    names = []
    for port in ports:
        if port in kept or port.operand is None:
            continue
        for inner, region in zip(port.inputs, node.regions, strict=True):
            if not inner.uses:
                continue
            copy = _copied(port.operand, region.before(next(region.nodes)))
            inner.replace_with(copy)
            names.append((region, copy, inner.name))
    results = rebuild(node, op, kept, b)
    for region, copy, name in names:
        region.rename(copy, name)
    return results


def _is_constant(port: Port) -> bool:
    x = port.operand
    return (
        port.kind == "invariant"
        and bool(port.inputs)
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
    ports, instead = ports_of(node), {}
    handed = {ports_inputs: port for port in ports for ports_inputs in port.inputs}
    for port in ports:
        if port.operand is not None or port.result is None or not port.result.uses:
            continue
        sources = {id(handed.get(value)): handed.get(value) for value in port.returned}
        source = next(iter(sources.values())) if len(sources) == 1 else None
        if source is not None and source.kind == port.kind and source.operand is not None:
            instead[port.result] = source.operand
        elif port.kind == "stacked" and (each := _same_each_trip(port, source, b)) is not None:
            shape = port.result.type.shape
            try:
                repeated = b.emit(Broadcast(shape, tuple(range(1, len(shape)))), each)
            except QirError as error:
                return Skip(error.message, y)
            if repeated.type != port.result.type:
                return Skip("its code would be another one", y)
            instead[port.result] = repeated
    if not instead:
        return None
    kept = [port for port in ports if port.result not in instead]
    op = resized(node, kept)
    return (
        Skip("what goes through has to stay", y)
        if op is None
        else rebuild(node, op, kept, b, instead)
    )


def _same_each_trip(port: Port, source: Port | None, b: Builder) -> Value | None:
    """Returns, outside, what a loop returns in every trip alike, if it does."""
    (returned,) = port.returned
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
    ports = ports_of(node)
    if trips == 0:
        results = []
        for port in ports:
            if port.kind == "carried" and port.operand is not None:
                results.append(port.operand)
            elif port.result is not None:
                type = port.result.type
                if not all(isinstance(size, int) for size in type.shape):
                    return Skip("what it stacks has a named dimension", y)
                results.append(b.const(_empty(type), element=type.element))
        return results
    operands = []
    for port in ports:
        if port.operand is None:
            continue
        inner = port.operand
        if port.kind == "stacked":
            inner = b.emit(Reshape(port.operand.type.shape[1:]), port.operand)
            if inner.type != port.inputs[0].type:
                return Skip("the code of what is stacked goes through no reshape", port.operand)
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
    return [port.operand for port in ports_of(node) if port.kind == "carried" and port.operand]


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
    merge_equal_ports,
    carried_to_invariant,
    returned_from_outside,
    drop_unread_ports,
)
