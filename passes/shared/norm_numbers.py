"""Norms read off the numbers of what computes them: statistics, gamma, beta and epsilon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qir.ir import Node, Value
from qir.ops import (
    Broadcast,
    Cast,
    GroupNorm,
    L2Norm,
    LayerNorm,
    Mean,
    ReduceSum,
    Reshape,
    RmsNorm,
    Transpose,
)
from qir.ops.normalization import Guard, Normalization
from qir.types import Array, Dim, DType, Shape

MOST_NUMBERS = 2**24
"""How large a tensor may be to try numbers on it."""
_EXACT = 1e-9
"""How far float64 may be off, relatively to the greatest number; sums lose a few bits of 52."""
_CLOSE = 1e-6
"""The same once epsilon has been rounded to float32."""


class FoundNorm(NamedTuple):
    """A norm: y = op(x) * gamma + beta, both arrays of x's rank in float64, gamma with beta."""

    op: Normalization
    x: Value
    y: Value
    gamma: Array | None
    beta: Array | None
    constants: Sequence[Value]


def sizes_of(shape: Shape) -> tuple[int, ...]:
    """Returns sizes to try a shape at: 2 for each name, as a broadcast to a size of 1 is none."""
    return tuple(
        size.factor * 2 ** len(size.names) if isinstance(size, Dim) else size for size in shape
    )


@dataclass(frozen=True, eq=False)
class Cone:
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


def fitted_norm(cone: Cone, root: Node) -> FoundNorm | None:
    """Returns the norm of a cone's operand that a root belongs to, with as much as follows of it.

    Args:
        cone: The cone.
        root: The square root.

    Returns:
        None where the cone computes no norm.

    Raises:
        QirError: An op of the cone does not compute at sizes that stand for names.
    """
    shape = sizes_of(cone.x.type.shape)
    if not 2 <= np.prod(shape) <= MOST_NUMBERS:
        return None
    labels = _labels(cone, root, shape)
    cores = [] if labels is None else list(_cores(labels))
    if not cores:
        return None
    fit = _Fit(cone, np.random.default_rng(0).normal(0.3, 1, shape))
    found = (fit.norm(y, core) for y in reversed(cone.results) for core in cores)
    return next((norm for norm in found if norm is not None), None)


def _labels(cone: Cone, root: Node, shape: tuple[int, ...]) -> Array | None:
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
        if isinstance(node.op, Mean | ReduceSum) and moved is not None:
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

    def __init__(self, cone: Cone, x: Array) -> None:
        self.cone = cone
        self.x = x
        self.ran: dict[float, dict[Value, Array]] = {}

    def at(self, y: Value, factor: float) -> Array:
        """Returns a result at a multiple of x."""
        if factor not in self.ran:
            self.ran[factor] = self.cone.run(self.x * factor)
        return self.ran[factor][y]

    def norm(self, y: Value, core: Normalization) -> FoundNorm | None:
        """Returns the norm that a result is; None where it is none with these statistics."""
        above, below = self.at(y, 1e12), self.at(y, -1e12)
        odd, beta = (above - below) / 2, (above + below) / 2
        unit = core.evaluate(self.x)
        largest = float(np.max(np.abs(odd)))
        if not (np.all(np.isfinite(odd)) and largest > 0):
            return None
        gamma = _projected(odd, unit, _EXACT * largest)
        offset = _projected(
            beta, np.ones_like(beta), _EXACT * max(largest, float(np.max(np.abs(beta))))
        )
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
        # Where epsilon is four times the variance, an added one shows apart from a bound.
        if share(part) > 0:
            part = 0.5 * part / share(part)
        if left := share(part):
            near = variance * (part / left) ** 2
            yield from self._with_epsilon(core, near - variance * part**2, "add")
            yield from self._with_epsilon(core, near, "max")
            root = np.sqrt(variance) * part * (1 / left - 1)
            yield from self._with_epsilon(core, float(root) ** 2, "root")

    def _with_epsilon(
        self, core: Normalization, epsilon: float, guard: Guard
    ) -> Iterator[tuple[Normalization, float]]:
        if isinstance(core, LayerNorm):
            yield LayerNorm(core.axes, _short(epsilon), guard), 1.0
        elif isinstance(core, GroupNorm):
            yield GroupNorm(core.groups, _short(epsilon), guard), 1.0
        elif isinstance(core, RmsNorm):
            count = np.prod([self.x.shape[axis] for axis in core.axes])
            if guard != "max":
                yield RmsNorm(core.axes, _short(epsilon), guard), 1.0
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

    def _found(self, y: Value, op: Normalization, gamma: Array, offset: Array) -> FoundNorm:
        if isinstance(op, RmsNorm):
            count = np.prod([self.x.shape[axis] for axis in op.axes])
            if np.all(np.abs(gamma * np.sqrt(count) - 1) <= _CLOSE):
                epsilon = _short(op.epsilon * float(count))
                op, gamma = L2Norm(op.axes, epsilon, op.guard), np.ones((1,))
        is_one = bool(np.all(np.abs(gamma - 1) <= _CLOSE / 10))
        beta = offset if np.any(offset) else None
        constants = [
            value for node in self.cone.nodes for value in node.inputs if value.is_constant
        ]
        return FoundNorm(
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
    return DType.F32.shortest(number) if number > 2.0**-126 else max(number, 0.0)
