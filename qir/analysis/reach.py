"""Which integers can occur in a program, proved from the bounds of codes and from constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Node, Value
from qir.ir.passages import passing
from qir.numbers.int32 import Int64Array
from qir.numbers.interval import EVERYTHING, Interval
from qir.numbers.reach import INT32, LONG, Reach, corners, with_zero
from qir.ops import Dot
from qir.ops.op import infer
from qir.ops.regions import RegionOp
from qir.ops.rules import Accumulate, Coded, ExactSum, SameCode
from qir.ops.traits import Formed, Moves, StoredOperand
from qir.types import Affine, Array, DType, FrozenArray, TensorType, known


@dataclass(frozen=True, eq=False)
class Sums:
    """The integers that an op forms, channel by channel or all alike.

    Attributes:
        least: The least of each channel, Python's integers, which have no bound themselves.
        greatest: The greatest of each channel, likewise.
        limit: What they must fit.
    """

    least: Array
    greatest: Array
    limit: Reach = INT32

    @staticmethod
    def of(reach: Reach) -> Sums:
        """Returns the sums of an op that treats all channels alike."""
        return Sums(np.asarray(reach[0], object), np.asarray(reach[1], object))

    @staticmethod
    def formed(integers: Formed) -> Sums:
        """Returns what an op forms that rounds by itself, as it says."""
        sums = Sums.of((integers.least, integers.greatest))
        return replace(sums, limit=LONG) if integers.long else sums

    @property
    def excess(self) -> Array:
        """By how much each channel leaves the limit; 0 or less where it fits."""
        return np.asarray(np.maximum(self.limit[0] - self.least, self.greatest - self.limit[1]))


class Places(NamedTuple):
    """The least and the greatest integer at each place of a tensor: arrays that broadcast to it."""

    low: Int64Array
    high: Int64Array

    @property
    def hull(self) -> Reach:
        """The least and the greatest of all; 0 where there is none."""
        if not self.low.size:
            return 0, 0
        return int(self.low.min()), int(self.high.max())


_EXACT_TRIPS = 64
"""Trips of a loop that are followed one by one where what it carries grows with each."""

_ROUNDS = 4
"""How often what a loop carries is joined before it is taken for all that its type can store."""


class StoredReach:
    """What each value of a graph can store; filled from the inputs on.

    Attributes:
        sums: What `products` says of each node.
    """

    def __init__(self) -> None:
        self.sums: dict[Node, Sums | None] = {}
        self._hulls: dict[Value, Reach] = {}
        self._places: dict[Value, Places] = {}

    @staticmethod
    def of(graph: Graph) -> StoredReach:
        """Goes through a whole graph, regions included."""
        stored = StoredReach()
        stored._follow(graph)
        return stored

    def _follow(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.regions:
                self._follow_regions(node)
            else:
                self.sums[node] = sums = products(node, self)
                self.add(node, sums)

    def _follow_regions(self, node: Node) -> None:
        """Finds what regions can store: their inputs what goes in, in whatever trip.

        What is carried is joined with what is returned until nothing is new. Where that takes more
        trips than are followed, the bounds that still grow are those of the type.
        """
        ports = passing(node)
        carried = [port for port in ports if port.passage.kind == "carried"]
        for port in ports:
            if port.operand is not None:
                for value in port.inputs:
                    self._hulls[value] = self[port.operand]
        types = [value.type for value in node.inputs]
        trips = node.op.trip_count(types) if isinstance(node.op, RegionOp) else None
        exact = max(trips, 1) if isinstance(trips, int) and trips <= _EXACT_TRIPS else None
        rounds = 0
        while True:
            for region in node.regions:
                self._follow(region)
            rounds += 1
            grown = False
            for port in carried:
                for value in port.inputs:
                    before, joined = self[value], self._union([value, *port.returned])
                    if joined == before:
                        continue
                    grown = True
                    if exact is None and rounds >= _ROUNDS:
                        joined = _widened(before, joined, _bounds(value.type))
                    self._hulls[value] = joined
            if not grown or rounds == exact:
                break
        for port in ports:
            if port.result is not None:
                begins = [port.operand] if port in carried and port.operand is not None else []
                self._hulls[port.result] = self._union([*begins, *port.returned])

    def add(self, node: Node, sums: Sums | None) -> None:
        """Finds what the results of a node can store.

        Args:
            node: A node whose operands are known already.
            sums: What `products` says of it.
        """
        for value in node.outputs:
            low, high = _bounds(value.type)
            self._places.pop(value, None)  # That of another trip.
            if sums is not None:
                self._places[value] = places = _placed(sums, value.type)
                least, greatest = places.hull
            else:
                if (moved := self._moved(value)) is not None:
                    self._places[value] = moved
                hull = moved.hull if moved is not None else self._stored(value)
                least, greatest = hull or (low, high)
            self._hulls[value] = max(least, low), min(greatest, high)

    def _stored(self, value: Value) -> Reach | None:
        op, code = value.op, value.type.quant
        if value.is_constant:
            return None if value.type.is_float else _extremes(value.array)
        if op is None or not value.type.dtype.is_integer:
            return None
        if (narrowed := op.stored([self._known(x) for x in value.inputs], value.type)) is not None:
            return narrowed
        if code is None:
            return None
        if isinstance(op.quant, SameCode) and is_exact(value.type):
            # In real numbers, so that the op's own rule says what it clips or fills in.
            bounds = op.interval(*map(self.real, value.inputs)).bounds
            return _extremes(code.encode(bounds))
        if op.moves is not Moves.NONE:
            return self._union([x for x in value.inputs if x.type.quant is not None])
        return None

    def _known(self, value: Value) -> StoredOperand:
        return StoredOperand(value.type, self[value], value.array if value.is_constant else None)

    def _union(self, values: list[Value]) -> Reach:
        reaches = [self[value] for value in values]
        return min(low for low, _ in reaches), max(high for _, high in reaches)

    def _moved(self, value: Value) -> Places | None:
        """Follows channels through an op that moves the numbers of one operand."""
        sources = [x for x in value.inputs if x.type.quant is not None]
        if len(sources) != 1 or value.op is None:
            return None
        places = self._places.get(sources[0])
        if value.op.clip_bounds() == (0.0, np.inf):
            return places and Places(*(np.maximum(bound, 0) for bound in places))
        if places is None or value.op.moves is Moves.NONE:
            return None
        if (origins := followed(value, places.low.shape)) is None:
            return None
        return Places(*(bound.reshape(-1)[origins] for bound in places))

    def __getitem__(self, value: Value) -> Reach:
        return self._hulls.get(value) or _bounds(value.type)

    def real(self, value: Value) -> Interval:
        """Returns the real numbers that a value can stand for; everything where it has no code."""
        code = value.type.quant
        if code is None or not is_exact(value.type):
            return EVERYTHING
        low, high = self.steps(value)
        return Interval.of(low * float(code.scale.array), high * float(code.scale.array))

    def steps(self, value: Value) -> Reach:
        """Returns the integers that the scale multiplies; for plain integers, these."""
        (low, high), code = self[value], value.type.quant
        if code is None:
            return low, high
        steps = code.steps_between(low, high)
        if steps is None:
            raise QirError(code.without_steps)
        return steps

    def steps_by_place(self, value: Value) -> Places:
        """Returns `steps` channel by channel, where more than one reach for all is known."""
        if value in self._places:
            return self._places[value]
        code = value.type.quant
        if not isinstance(code, Affine) or code.multipliers is not None:
            return Places(*(np.asarray(bound, np.int64) for bound in self.steps(value)))
        low, high = self[value]
        points = code.zero_points.astype(np.int64)
        return Places(low - points, high - points)


def followed(value: Value, shape: tuple[int, ...]) -> Int64Array | None:
    """Tells where the channels of an operand go.

    Args:
        value: A result of an op with one operand that has a code.
        shape: Shape of the channels: it broadcasts to the operand as scales do.

    Returns:
        For each channel of the result, in a shape that broadcasts to it, the index of the operand's
        channel that it holds; None where channels are mixed.
    """
    if value.node is None or value.op is None:
        return None
    # The op's type rule carries scales along with the numbers: numbered ones tell the way.
    count = prod(shape)
    numbered = Affine(DType.I32, FrozenArray(np.arange(1.0, count + 1).reshape(shape)))
    operands = [
        x.type.with_element(numbered) if x.type.quant is not None else x.type for x in value.inputs
    ]
    try:
        code = infer(value.op, operands)[value.index].quant
    except QirError:
        return None
    return None if code is None else code.scale.array.astype(np.int64) - 1


def products(node: Node, stored: StoredReach) -> Sums | None:
    """Bounds the exact sums that a node stores; those of products by output channel.

    That is the last axis of the weights.

    Args:
        node: A node.
        stored: What its operands can store.

    Returns:
        The sums, of the shape of the weights without the summed axes, or all alike; None where the
        node stores no exact sums of codes.
    """
    rule = node.op.quant
    if isinstance(rule, ExactSum) and node.outputs[0].type.dtype.bits > 16:
        return exact_sums(node, stored)
    if not isinstance(rule, Accumulate) or node.outputs[0].type.quant is None:
        return None
    x, weights = node.inputs[rule.left], node.inputs[rule.right]
    low, high = with_zero(stored.steps(x))
    batch = node.op.batch if isinstance(node.op, Dot) else 0
    summed = tuple(range(batch, weights.type.rank - 1))
    if weights.is_constant:
        positive, negative = _signed_sums(weights, summed)
        least = np.asarray(positive * low + negative * high, object)
        greatest = np.asarray(positive * high + negative * low, object)
    else:
        terms = prod(known(weights.type.shape[axis], "reach") for axis in summed)
        pairs = corners((low, high), stored.steps(weights))
        least, greatest = (np.asarray(terms * product, object) for product in pairs)
    for bias in node.inputs[rule.bias : rule.bias + 1]:
        bounds = (bias.array, bias.array) if bias.is_constant else stored.steps(bias)
        from_below, from_above = (np.asarray(bound).astype(object) for bound in bounds)
        least, greatest = np.asarray(least + from_below), np.asarray(greatest + from_above)
    return Sums(least, greatest, sum_limit(node.outputs[0].type))


def sum_limit(type: TensorType) -> Reach:
    """Returns what the sums that a tensor holds must fit: its bounds, and 48 bits in i64."""
    low, high = _bounds(type)
    return max(low, LONG[0]), min(high, LONG[1])


def exact_sums(node: Node, stored: StoredReach) -> Sums | None:
    """Bounds what an op of rule ExactSum adds up of codes; None for any other node."""
    if not isinstance(node.op.quant, ExactSum) or node.outputs[0].type.quant is None:
        return None
    reach: Reach = (1, 1)
    for value in node.inputs:
        reach = corners(reach, stored.steps(value))
    # Padding counts as zeros.
    low, high = with_zero(reach)
    weight = node.op.weight([value.type for value in node.inputs])
    sums = Sums.of((weight * low, weight * high))
    # One that rounds by itself adds up in 32 bits.
    long = node.outputs[0].type.dtype is DType.I64
    return replace(sums, limit=LONG) if long else sums


def _signed_sums(weights: Value, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns the sums of the positive and of the negative weights, in Python's integers."""
    code = weights.type.quant
    plain = code is None or (isinstance(code, Affine) and not np.any(code.zero_points))
    plain = plain and (code is None or code.multipliers is None)
    steps = weights.array if plain else Coded(weights.array, weights.type).steps
    positive = np.maximum(steps, 0).sum(axis=axes, dtype=np.int64)
    negative = np.minimum(steps, 0).sum(axis=axes, dtype=np.int64)
    return np.asarray(positive, object), np.asarray(negative, object)


def _placed(sums: Sums, type: TensorType) -> Places:
    """Gives sums by channel the places of their channels in the result.

    A sum that overflows wraps: the whole type can occur.
    """
    bounds = _bounds(type)
    fits = np.asarray(sums.excess <= 0)
    shape = sums.least.shape
    if shape:
        shape = (*shape[:-1], *(1,) * (type.rank - len(shape)), shape[-1])
    low, high = (
        np.where(fits, bound, end).astype(np.int64).reshape(shape)
        for bound, end in zip((sums.least, sums.greatest), bounds, strict=True)
    )
    return Places(low, high)


def _bounds(type: TensorType) -> Reach:
    if type.quant is not None:
        return type.quant.range
    return type.dtype.bounds if type.dtype.is_integer else (0, 0)


def is_exact(type: TensorType) -> bool:
    """Whether float64 holds the real numbers of a code, and encoding gives the stored ones back."""
    code = type.quant
    if not isinstance(code, Affine) or not code.per_tensor or code.storage.bits > 16:
        return False
    return bool(np.all(np.isfinite(code.decode(code.range))))


def _widened(before: Reach, after: Reach, bounds: Reach) -> Reach:
    """Returns a reach in which the bounds that have grown are those of the type."""
    low = before[0] if after[0] == before[0] else bounds[0]
    return low, before[1] if after[1] == before[1] else bounds[1]


def _extremes(array: Array) -> Reach | None:
    return (int(array.min()), int(array.max())) if array.size else None
