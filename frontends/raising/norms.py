"""Norms from whatever arithmetic computes them, known by their numbers rather than by spelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qir.errors import QirError
from qir.frontends.raising.matching import in_float64, shortest, single_use
from qir.ir import Builder, Graph, Node, Value
from qir.ops import (
    Abs,
    Add,
    Broadcast,
    Cast,
    Clip,
    Div,
    GroupNorm,
    L2Norm,
    LayerNorm,
    Maximum,
    Mean,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    ReduceSum,
    Relu,
    Reshape,
    RmsNorm,
    Rsqrt,
    Sqrt,
    Square,
    Sub,
    Transpose,
)
from qir.ops.normalization import Guard, Normalization
from qir.pipeline.rewrite import rule
from qir.types import Array, Dim, DType, Shape

_ARITHMETIC = (
    Abs,
    Add,
    Clip,
    Div,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Reciprocal,
    Relu,
    Rsqrt,
    Sqrt,
    Square,
    Sub,
)
_MOVES = (Reshape, Transpose, Broadcast)
_SUMS = (Mean, ReduceSum)
_KNOWN = (*_ARITHMETIC, *_MOVES, *_SUMS, Cast)

_MOST_NODES = 64
"""Nodes of a norm in its longest spelling, and some."""
_MOST_OPERANDS = 6
_MOST_NUMBERS = 2**24
_EXACT = 1e-9
"""How far float64 may be off, relatively to the greatest number; sums lose a few bits of 52."""
_CLOSE = 1e-6
"""The same once epsilon has been rounded to float32."""


def raise_norms(graph: Graph) -> None:
    """Replaces what computes a norm by the op.

    From each square root the values that it alone depends on are found, and those that follow from
    it and one of them. What these have to do with one another is read off their numbers at random
    operands: what is summed together, gamma and beta from operands so large that epsilon is
    nothing, epsilon from operands so small that it is much. The op is believed if it gives the same
    numbers at others. So any spelling is known that computes a norm, and none that does not.

    Args:
        graph: The graph to change.
    """
    for root in list(graph.nodes):
        is_root = isinstance(root.op, Sqrt | Rsqrt | Pow)
        if root.erased or not is_root or not root.output.type.is_float:
            continue
        with suppress(QirError):  # then it stays as it was imported
            found = _largest(graph, root)
            if found is not None:
                _replace(found, graph.before(_node(found.y)))


class _Found(NamedTuple):
    """A norm: y = op(x) * gamma + beta, both arrays of x's rank in float64, gamma with beta."""

    op: Normalization
    x: Value
    y: Value
    gamma: Array | None
    beta: Array | None
    constants: Sequence[Value]


def _largest(graph: Graph, root: Node) -> _Found | None:
    """Returns the norm around a root whose operand is farthest from it."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    best: _Found | None = None
    for x in _operands(root, place):
        found = _norm(list(graph.nodes), place, x, root)
        if found is not None:
            best = found
        elif best is not None:
            break
    return best


def _node(value: Value) -> Node:
    assert value.node is not None
    return value.node


def _operands(root: Node, place: dict[Node, int]) -> Iterator[Value]:
    """Yields the values of which, with constants, a root is computed, each alone; nearest first."""
    frontier, summed, yielded = {root.output}, False, 0
    for _ in range(_MOST_NODES):
        if len(frontier) == 1 and summed:
            yield from frontier
            yielded += 1
        inner = [value for value in frontier if value.node in place]
        if not inner or yielded == _MOST_OPERANDS:
            return
        last = max(inner, key=lambda value: place[_node(value)])
        if not isinstance(last.op, _KNOWN):
            return
        summed = summed or isinstance(last.op, _SUMS)
        frontier.remove(last)
        frontier.update(value for value in last.inputs if not value.is_constant)


@dataclass(frozen=True, eq=False)
class _Cone:
    """What follows from one value and constants.

    Attributes:
        x: The value.
        nodes: The nodes in order.
        results: Those of their results that have the type of x and follow from the root.
    """

    x: Value
    nodes: Sequence[Node]
    results: Sequence[Value]

    def run(self, numbers: Array) -> dict[Value, Array]:
        """Computes the results in float64, casts between floating-point types left out."""
        last_use = {value: node for node in self.nodes for value in node.inputs}
        values = {self.x: numbers}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                operands = [_in_float64(value, values) for value in node.inputs]
                if isinstance(node.op, Cast) and node.output.type.is_float:
                    values[node.output] = operands[0]
                else:
                    computed = node.op.evaluate(*operands)
                    assert not isinstance(computed, tuple)
                    values[node.output] = computed
                for value in node.inputs:
                    if last_use[value] is node and value not in self.results:
                        values.pop(value, None)
        return {value: values[value] for value in self.results}


def _in_float64(value: Value, values: dict[Value, Array]) -> Array:
    if value in values:
        return values[value]
    return value.array.astype(np.float64) if value.type.is_float else value.array


def _cone(nodes: Sequence[Node], x: Value, root: Node) -> _Cone | None:
    inside: dict[Node, bool] = {}
    for node in nodes:
        if len(inside) > _MOST_NODES:
            break
        varying = [value for value in node.inputs if not value.is_constant]
        if not isinstance(node.op, _KNOWN) or not varying or x in node.outputs:
            continue
        if all(value is x or value.node in inside for value in varying):
            rooted = any(value.node is not None and inside.get(value.node) for value in varying)
            inside[node] = node is root or rooted
    results = [
        node.output for node, rooted in inside.items() if rooted and node.output.type == x.type
    ]
    if not results or not inside.get(root):
        return None
    results = results[-_MOST_OPERANDS:]
    order = list(inside)
    return _Cone(x, order[: order.index(_node(results[-1])) + 1], results)


def _norm(nodes: Sequence[Node], place: dict[Node, int], x: Value, root: Node) -> _Found | None:
    """Returns the norm of x that a root belongs to, with as much of what follows as there is."""
    start = 0 if x.node is None else place[x.node]
    cone = _cone(nodes[start:], x, root) if x.type.is_float else None
    if cone is None:
        return None
    shape = _sizes(x.type.shape)
    if not 2 <= np.prod(shape) <= _MOST_NUMBERS:
        return None
    labels = _labels(cone, root, shape)
    if labels is None:
        return None
    cores = list(_cores(labels))
    if not cores:
        return None
    fit = _Fit(cone, np.random.default_rng(0).normal(0.3, 1, shape))
    for y in reversed(cone.results):
        for core in cores:
            found = fit.norm(y, core)
            if found is not None:
                return found
    return None


def _sizes(shape: Shape) -> tuple[int, ...]:
    """Returns sizes to try a shape at: 2 for each name, as a broadcast to a size of 1 is none."""
    return tuple(
        size.factor * 2 ** len(size.names) if isinstance(size, Dim) else size for size in shape
    )


def _labels(cone: _Cone, root: Node, shape: tuple[int, ...]) -> Array | None:
    """Numbers what is summed together: for each number of x the place of the sum it goes into.

    None where sums differ, or one is not of numbers that each follow from one of x.
    """
    indices = np.arange(np.prod(shape)).reshape(shape)
    places: dict[Value, Array | None] = {cone.x: indices}
    found: Array | None = None
    for node in cone.nodes:
        operands = [places.get(value) for value in node.inputs if not value.is_constant]
        known = [operand for operand in operands if operand is not None]
        moved = known[0] if known else None
        if isinstance(node.op, _SUMS) and moved is not None:
            total = np.zeros(np.delete(moved.shape, node.op.axes), int)
            total = np.arange(total.size).reshape(total.shape)
            spread = np.broadcast_to(np.expand_dims(total, node.op.axes), moved.shape)
            labels = np.empty(indices.size, int)
            labels[moved.reshape(-1)] = spread.reshape(-1)
            labels = labels.reshape(shape)
            if found is not None and not np.array_equal(_renumbered(found), _renumbered(labels)):
                return None
            found, moved = labels, None
        elif isinstance(node.op, Reshape | Transpose) and moved is not None:
            turned = node.op.evaluate(moved)
            assert not isinstance(turned, tuple)
            moved = turned
        elif isinstance(node.op, Broadcast):
            moved = None
        places[node.output] = moved
        if node is root:
            break
    return found


def _renumbered(labels: Array) -> Array:
    """Numbers labels in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse]).reshape(labels.shape)


def _cores(labels: Array) -> Iterator[Normalization]:
    """Yields the norms without epsilon whose statistics are those that labels tell apart."""
    axes = tuple(
        axis
        for axis, size in enumerate(labels.shape)
        if size > 1 and np.all(labels == labels.take([0], axis))
    )
    if len(np.unique(labels)) * np.prod([labels.shape[axis] for axis in axes]) == labels.size:
        if axes:
            yield LayerNorm(axes, 0.0)
            yield RmsNorm(axes, 0.0)
        return
    channels = labels[(0,) * (labels.ndim - 1)]
    groups = len(np.unique(channels))
    if labels.ndim < 2 or channels.size % groups:
        return
    group = np.repeat(np.arange(groups), channels.size // groups)
    samples = np.arange(labels.shape[0]).reshape((-1,) + (1,) * (labels.ndim - 1))
    wanted = np.broadcast_to(samples * groups + group, labels.shape)
    if np.array_equal(_renumbered(labels), _renumbered(wanted)):
        yield GroupNorm(groups, 0.0)


class _Fit:
    """Reads gamma, beta and epsilon off the numbers of a cone."""

    def __init__(self, cone: _Cone, x: Array) -> None:
        self.cone = cone
        self.x = x
        self.ran: dict[float, dict[Value, Array]] = {}

    def at(self, y: Value, factor: float) -> Array:
        """Returns a result at a multiple of x."""
        if factor not in self.ran:
            self.ran[factor] = self.cone.run(self.x * factor)
        return self.ran[factor][y]

    def norm(self, y: Value, core: Normalization) -> _Found | None:
        """Returns the norm that a result is; None where it is none with these statistics."""
        above, below = self.at(y, 1e8), self.at(y, -1e8)
        odd, beta = (above - below) / 2, (above + below) / 2
        unit = core.evaluate(self.x)
        largest = float(np.max(np.abs(odd)))
        if not (np.all(np.isfinite(odd)) and largest > 0):
            return None
        gamma = _projected(odd, unit, _EXACT * largest)
        offset = _projected(
            beta, np.ones_like(beta), _EXACT * max(largest, float(np.max(np.abs(beta))))
        )
        if max(gamma.size, offset.size) == odd.size > 1:
            rest = [size for size in odd.shape if size > 1]
            if len(rest) > 1 and core.view_axes(odd.ndim) != tuple(range(odd.ndim)):
                return None
        if np.max(np.abs(offset)) <= _EXACT * largest:
            offset = np.zeros_like(offset[:1])
        for op, factor in self._guarded(y, core, gamma, offset, np.abs(odd)):
            if self._holds(y, op, gamma * factor, offset):
                return self._found(y, op, gamma * factor, offset)
        return None

    def _guarded(
        self, y: Value, core: Normalization, gamma: Array, offset: Array, sizes: Array
    ) -> Iterator[tuple[Normalization, float]]:
        """Yields norms with what epsilon may be, and what gamma is multiplied by for them."""
        place = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
        root = np.broadcast_to(core.root(self.x), core.viewed(self.x).shape).reshape(self.x.shape)
        variance = float(root[place]) ** 2

        def share(factor: float) -> float:
            """What epsilon leaves of the result."""
            left = (self.at(y, factor) - self.at(y, -factor))[place] / 2
            return float(np.abs(left) / sizes[place])

        part = next(
            (part for part in (1e-4, 1e-8, 1e-12, 1e-16, 1e-20, 1e-24) if share(part) < 0.5), None
        )
        if part is None:
            yield from self._with_epsilon(core, 0.0, "add")
            return
        near = variance * part**2 / share(part) ** 2
        # Where epsilon is four times the variance, an added one shows apart from a bound.
        part = 0.5 * float(np.sqrt(near / variance))
        left = share(part)
        yield from self._with_epsilon(core, variance * part**2 * (left**-2 - 1), "add")
        yield from self._with_epsilon(core, variance * part**2 * left**-2, "max")

    def _with_epsilon(
        self, core: Normalization, epsilon: float, guard: Guard
    ) -> Iterator[tuple[Normalization, float]]:
        if isinstance(core, LayerNorm) and guard == "add":
            yield LayerNorm(core.axes, _short(epsilon)), 1.0
        elif isinstance(core, GroupNorm) and guard == "add":
            yield GroupNorm(core.groups, _short(epsilon)), 1.0
        elif isinstance(core, RmsNorm):
            count = np.prod([self.x.shape[axis] for axis in core.axes])
            if guard == "add":
                yield RmsNorm(core.axes, _short(epsilon)), 1.0
            else:
                yield L2Norm(core.axes, _short(epsilon * count), guard), float(np.sqrt(count))

    def _holds(self, y: Value, op: Normalization, gamma: Array, offset: Array) -> bool:
        """Whether a norm gives the numbers of a result at other operands."""
        rng = np.random.default_rng(1)
        small = float(np.sqrt(op.epsilon)) or 1e-3
        zero = self.at(y, 0.0)
        if op.epsilon == 0 and np.all(np.isfinite(zero)):
            return False
        for size, shift in ((1.0, 2.0), (small, 0.0), (small * 30, -small), (1e3, 1e3)):
            x = rng.normal(shift, size, self.x.shape)
            wanted = self.cone.run(x)[y]
            found = op.evaluate(x) * gamma + offset
            bound = _CLOSE * (np.max(np.abs(wanted)) + np.max(np.abs(offset)))
            if not np.all(np.abs(found - wanted) <= bound):
                return False
        return True

    def _found(self, y: Value, op: Normalization, gamma: Array, offset: Array) -> _Found:
        if isinstance(op, RmsNorm):
            count = np.prod([self.x.shape[axis] for axis in op.axes])
            if np.all(np.abs(gamma * np.sqrt(count) - 1) <= _CLOSE):
                op, gamma = L2Norm(op.axes, _short(op.epsilon * float(count))), np.ones((1,))
        is_one = bool(np.all(np.abs(gamma - 1) <= _CLOSE / 10))
        beta = offset if np.any(offset) else None
        constants = [
            value for node in self.cone.nodes for value in node.inputs if value.is_constant
        ]
        return _Found(
            op, self.cone.x, y, None if is_one and beta is None else gamma, beta, constants
        )


def _projected(numbers: Array, unit: Array, bound: float) -> Array:
    """Returns the least array whose product with `unit` is `numbers`, but for a bound.

    Args:
        numbers: The product.
        unit: One factor, of the same shape.
        bound: Greatest distance.

    Returns:
        The other factor: of size 1 along each axis along which it is constant.
    """
    axes: tuple[int, ...] = ()
    with np.errstate(all="ignore"):
        for axis in range(numbers.ndim):
            more = (*axes, axis)
            factor = _factor(numbers, unit, more)
            if np.all(np.abs(factor * unit - numbers) <= bound):
                axes = more
        return _factor(numbers, unit, axes)


def _factor(numbers: Array, unit: Array, axes: tuple[int, ...]) -> Array:
    """Returns the factor of least squares, constant along axes."""
    above = (numbers * unit).sum(axis=axes, keepdims=True)
    return np.asarray(above / (unit * unit).sum(axis=axes, keepdims=True))


def _short(number: float) -> float:
    """Returns the number with the fewest digits that is the same float32, where that is normal."""
    return shortest(number, DType.F32) if number > 2.0**-126 else max(number, 0.0)


def _replace(found: _Found, b: Builder) -> None:
    """Puts the op in the place of the value that it computes."""
    operands = [found.x]
    for array in (found.gamma, found.beta):
        if array is not None:
            operands.append(_constant(array, found, b))
    found.y.replace_with(b.emit(found.op, *operands))


def _constant(array: Array, found: _Found, b: Builder) -> Value:
    """Returns a constant for numbers: the source's own where it has them so."""
    dtype = found.x.type.dtype
    numbers = _without_leading(array.astype(dtype.numpy))
    name = None
    for value in found.constants:
        same = value.type.element == dtype and value.array.size == numbers.size
        if same and np.array_equal(value.array.reshape(-1), numbers.reshape(-1)):
            if value.type.shape == numbers.shape:
                return value
            name = value.name if value.named else None
    return b.const(numbers, name)


def _without_leading(numbers: Array) -> Array:
    """Drops leading axes of size 1, which broadcasting gives back."""
    leading = next((axis for axis, size in enumerate(numbers.shape) if size > 1), numbers.ndim)
    return numbers.reshape(numbers.shape[leading:])


@rule(Add, Mul)
def norm_affine(y: Value, b: Builder) -> Value | None:
    """Makes gamma and beta of a norm of constants that its result is multiplied by or added to."""
    before, c = y.inputs
    norm = before.inputs[0] if isinstance(before.op, Reshape) else before
    if not (isinstance(norm.op, Normalization) and c.is_constant and before.type == y.type):
        return None
    x, *parameters = norm.inputs
    if not all(map(single_use, {norm, before})) or not all(
        value.is_constant for value in parameters
    ):
        return None
    moved = _moved_constant(in_float64(c), before, norm)
    if moved is None:
        return None
    dtype = x.type.dtype.numpy
    gamma = in_float64(parameters[0]) if parameters else np.ones(())
    beta = in_float64(parameters[1]) if parameters[1:] else np.zeros(())
    if isinstance(y.op, Mul):
        gamma, beta = gamma * moved, beta * moved
    else:
        beta = beta + moved
    operands = [b.const(gamma.astype(dtype))]
    if np.any(beta):
        operands.append(b.const(beta.astype(dtype)))
    result = b.emit(norm.op, x, *operands)
    return result if before is norm else b.emit(Reshape(y.type.shape), result)


def _moved_constant(numbers: Array, before: Value, norm: Value) -> Array | None:
    """Returns a constant that broadcasts against a reshaped norm as one against the norm itself."""
    if before is norm:
        return numbers
    if any(isinstance(size, Dim) for size in (*before.type.shape[1:], *norm.type.shape[1:])):
        return None
    if numbers.ndim == before.type.rank and numbers.shape[0] != 1:
        return None
    # A first axis that stays: else the constant might vary along what becomes part of it.
    if before.type.shape[:1] != norm.type.shape[:1]:
        return numbers if numbers.size == 1 else None
    spread = np.broadcast_to(numbers, _sizes(before.type.shape)).reshape(_sizes(norm.type.shape))
    for axis in range(spread.ndim):
        if np.all(spread == spread.take([0], axis)):
            spread = spread.take([0], axis)
    return _without_leading(spread)


NORMS = [norm_affine]
