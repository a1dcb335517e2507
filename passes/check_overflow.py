"""check-overflow: proves that every integer an op forms fits its type, or refuses the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from qir.errors import PassError
from qir.fixed_point import INT32_MAX, INT32_MIN
from qir.interval import EVERYTHING, Interval
from qir.ir import Graph, Node, Value
from qir.op import Accumulate, Coded, FixedCode, Op, Rescale, SameCode
from qir.ops import (
    Add,
    AvgPool,
    Dot,
    Lookup,
    Mean,
    Mul,
    ReduceSum,
    Requantize,
    ResizeLinear,
    Softmax,
    Sub,
)
from qir.pipeline import Context, Pass, register
from qir.types import Array, TensorType, known

Reach: TypeAlias = tuple[int, int]
"""The least and the greatest integer that can occur."""

INT32: Reach = (INT32_MIN, INT32_MAX)

CARRIED: Reach = (-(2**53), 2**53)
"""What the reference carries exactly: it computes sums of products in float64."""


@dataclass(frozen=True)
class Sums:
    """The integers that an op forms.

    Args:
        reach: The least and the greatest, one for each channel or one for all.
        channels: Shape of the channels; empty where all are alike.
        limit: What they must fit.
    """

    reach: tuple[Reach, ...]
    channels: tuple[int, ...] = ()
    limit: Reach = INT32

    @property
    def hull(self) -> Reach:
        """The least and the greatest over all channels."""
        lows, highs = zip(*self.reach, strict=True) if self.reach else ((0,), (0,))
        return min(lows), max(highs)

    def excess(self) -> list[int]:
        """Returns by how much each channel leaves the limit; 0 or less where it fits."""
        return [max(self.limit[0] - low, high - self.limit[1]) for low, high in self.reach]


@register
class CheckOverflow(Pass):
    """Proves for every op on codes that no integer it forms can overflow, or refuses the program.

    What operands can store follows from their codes' bounds, narrowed by clamps, tables, constants
    and clipping; what is summed, from the weights of each output channel. The arithmetic is exact,
    and calibrated ranges play no part. Integers may wrap on the way: modulo 2^32 only the complete
    sum counts. The graph stays as it is.
    """

    name = "check-overflow"

    def run(self, graph: Graph, context: Context) -> None:
        stored = Stored()
        errors = []
        for node in graph.walk():
            sums = formed(node, stored)
            if sums is not None and max(sums.excess(), default=0) > 0:
                errors.append(f"check-overflow: {_describe(node, sums)}\n  {node.place()}")
            for value in node.outputs:
                stored.add(value, sums)
        if errors:
            raise PassError("\n".join(errors))


def _describe(node: Node, sums: Sums) -> str:
    excess = sums.excess()
    worst = max(range(len(excess)), key=excess.__getitem__)
    place, count = f"%{node.outputs[0].name}", ""
    if sums.channels:
        index = [int(axis) for axis in np.unravel_index(worst, sums.channels)]
        place = f"channel {index[0] if len(index) == 1 else index} of {place}"
        count = f"; channels that overflow: {sum(each > 0 for each in excess)} of {len(excess)}"
    (low, high), (least, greatest) = sums.limit, sums.reach[worst]
    return (
        f"{node.op.name}: {place}: expected integers in [{low}, {high}], "
        f"got up to [{least}, {greatest}]{count}"
    )


class Stored:
    """What each value of a graph can store; filled from the inputs on."""

    def __init__(self) -> None:
        self.reach: dict[Value, Reach] = {}

    def add(self, value: Value, sums: Sums | None = None) -> None:
        """Finds what a value can store, from its operands and the sums that are stored in it."""
        low, high = _bounds(value.type)
        if sums is not None and isinstance(value.op, Op) and isinstance(value.op.quant, Accumulate):
            least, greatest = sums.hull
        else:
            least, greatest = self._stored(value) or (low, high)
        self.reach[value] = max(least, low), min(greatest, high)

    def _stored(self, value: Value) -> Reach | None:
        op, code = value.op, value.type.quant
        match op:
            case Requantize():
                return op.bounds
            case Lookup() if value.inputs[1].is_constant:
                low, high = self[value.inputs[0]]
                return _extremes(op.evaluate(np.arange(low, high + 1), value.inputs[1].array))
            case _ if value.is_constant and not value.type.is_float:
                return _extremes(value.array.astype(np.int64))
            case Op(quant=SameCode()) if code is not None and _is_exact(value.type):
                # In real numbers, so that the op's own rule says what it clips or fills in.
                bounds = op.interval(*map(self.real, value.inputs)).bounds
                return _extremes(code.encode(bounds))
            case _:
                return None

    def __getitem__(self, value: Value) -> Reach:
        return self.reach.get(value) or _bounds(value.type)

    def real(self, value: Value) -> Interval:
        """Returns the real numbers that a value can stand for; everything where it has no code."""
        code = value.type.quant
        if code is None or not _is_exact(value.type):
            return EVERYTHING
        low, high = self.steps(value)
        return Interval.of(low * float(code.scale.array), high * float(code.scale.array))

    def steps(self, value: Value) -> Reach:
        """Returns the integers that the scale multiplies, (stored - zero point)."""
        (low, high), code = self[value], value.type.quant
        if code is None:
            return low, high
        if code.levels is not None:
            levels = code.levels.array
            low, high = (int(levels[bound - code.range[0]]) for bound in (low, high))
        return low - int(code.zero_points.max()), high - int(code.zero_points.min())


def _bounds(type: TensorType) -> Reach:
    if type.quant is not None:
        return type.quant.range
    return type.dtype.bounds if type.dtype.is_integer else (0, 0)


def _is_exact(type: TensorType) -> bool:
    """Whether float64 holds the real numbers of a code, and encoding gives the stored ones back."""
    code = type.quant
    if code is None or not code.per_tensor or code.levels is not None or code.storage.bits > 16:
        return False
    return bool(np.all(np.isfinite(code.decode(code.range))))


def _extremes(array: Array) -> Reach | None:
    return (int(array.min()), int(array.max())) if array.size else None


def formed(node: Node, stored: Stored) -> Sums | None:
    """Returns the integers that a node forms on the way to its result.

    Args:
        node: A node.
        stored: What its operands can store.

    Returns:
        None where the node forms none, as it moves or looks up stored numbers or is no integer op.

    Raises:
        PassError: The node's op is not known here.
    """
    if not any(value.type.quant is not None for value in node.outputs):
        return None
    if isinstance(node.op.quant, Accumulate):
        return _products(node, node.op.quant, stored)
    rule = INTERMEDIATES.get(type(node.op))
    if rule is not None:
        return Sums((rule(node, stored),))
    if isinstance(node.op.quant, Rescale | FixedCode):
        raise PassError(
            f"check-overflow: no bound is known for {node.op.name}; enter one into INTERMEDIATES",
            [node.place()],
        )
    return None


def _products(node: Node, rule: Accumulate, stored: Stored) -> Sums:
    """Bounds sums of products by output channel, the last axis of the weights."""
    x, weights = node.inputs[rule.left], node.inputs[rule.right]
    low, high = _with_zero(stored.steps(x))
    batch = node.op.batch if isinstance(node.op, Dot) else 0
    summed = tuple(range(batch, weights.type.rank - 1))
    if weights.is_constant:
        steps = Coded(weights.array, weights.type).steps
        # Of Python's integers, which have no bound themselves.
        positive = np.asarray(np.maximum(steps, 0).sum(axis=summed), object)
        negative = np.asarray(np.minimum(steps, 0).sum(axis=summed), object)
        least = np.asarray(positive * low + negative * high, object)
        greatest = np.asarray(positive * high + negative * low, object)
    else:
        terms = prod(known(weights.type.shape[axis], "check-overflow") for axis in summed)
        products = _corners((low, high), stored.steps(weights))
        least, greatest = (np.asarray(terms * product, object) for product in products)
    for bias in node.inputs[rule.bias : rule.bias + 1]:
        bounds = (bias.array, bias.array) if bias.is_constant else stored.steps(bias)
        from_below, from_above = (np.asarray(bound).astype(object) for bound in bounds)
        least, greatest = np.asarray(least + from_below), np.asarray(greatest + from_above)
    limit = _bounds(node.outputs[0].type)
    reach = tuple(zip(least.ravel().tolist(), greatest.ravel().tolist(), strict=True))
    return Sums(reach, least.shape, (max(limit[0], CARRIED[0]), min(limit[1], CARRIED[1])))


def _with_zero(reach: Reach) -> Reach:
    """Adds the real number 0, which padding puts between the others."""
    return min(reach[0], 0), max(reach[1], 0)


def _corners(a: Reach, b: Reach) -> Reach:
    products = [left * right for left in a for right in b]
    return min(products), max(products)


def _added(node: Node, stored: Stored) -> Reach:
    assert isinstance(node.op, Add | Sub)
    x, y = node.inputs
    (mx, my), shift = node.op.multipliers(x.type, y.type, node.outputs[0].type)
    a, b = _corners(stored.steps(x), (mx, mx)), _corners(stored.steps(y), (my, my))
    return a[0] + b[0], a[1] + b[1] + 2 ** (shift - 1)


def _multiplied(node: Node, stored: Stored) -> Reach:
    x, y = node.inputs
    return _corners(stored.steps(x), stored.steps(y))


def _summed(count: Callable[[Node], int]) -> Callable[[Node, Stored], Reach]:
    def reach(node: Node, stored: Stored) -> Reach:
        low, high = _with_zero(stored.steps(node.inputs[0]))
        return count(node) * low, count(node) * high

    return reach


def _reduced(node: Node) -> int:
    assert isinstance(node.op, Mean | ReduceSum)
    return node.op.count(node.inputs[0].type)


def _pooled(node: Node) -> int:
    assert isinstance(node.op, AvgPool)
    return prod(node.op.window)


def _blended(node: Node) -> int:
    assert isinstance(node.op, ResizeLinear)
    return node.op.denominator(node.inputs[0].type)


def _exponentials(node: Node, stored: Stored) -> Reach:
    assert isinstance(node.op, Softmax)
    x, table = node.inputs
    low, high = _with_zero(stored[table])
    count = known(x.type.shape[node.op.axis], "check-overflow")
    return count * low, max(count * high, 256 * high + count * high // 2)


def _requantized(node: Node, stored: Stored) -> Reach:
    return stored.steps(node.inputs[0])


INTERMEDIATES: dict[type[Op], Callable[[Node, Stored], Reach]] = {
    Add: _added,
    Sub: _added,
    Mul: _multiplied,
    Mean: _summed(_reduced),
    ReduceSum: _summed(_reduced),
    AvgPool: _summed(_pooled),
    ResizeLinear: _summed(_blended),
    Softmax: _exponentials,
    Requantize: _requantized,
}
"""For each op that rescales: the integers that it forms, all of which must fit int32.

Ops of one's own are entered here.
"""
