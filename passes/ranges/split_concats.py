"""split-concats: products over a concat of parts of very different range become sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from qir.analysis.properties import FLOAT_OPS, RANGED
from qir.errors import PassError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.numbers.interval import Interval
from qir.observe.channels import ChannelMoments
from qir.ops import Concat, Conv, Dot, Reshape, Transpose
from qir.ops.op import Op
from qir.passes.shared.constants import derived
from qir.passes.shared.observed_parts import known_moments, pass_on_moments
from qir.passes.shared.partial_sums import (
    PartialSum,
    bound,
    decibels,
    emit_sum,
    predicted_error,
    step,
)
from qir.pipeline import Context, Pass, register
from qir.types import Array, known

LEAST_RATIO = 4.0
"""Parts whose steps differ by less have one product."""


@register
class SplitConcats(Pass):
    """Cuts products over a concat along the summed axis into one for each size of range.

    A concat has one code, in which a part that is 100 times smaller than another one has few steps
    left. So, with the rows of the weights cut alike,

        dot(concat(a, b), W) = dot(a, Wa) + dot(b, Wb)

    for dots and convolutions of one group, whose padding is 0 in each part, also where reshapes and
    transposes stand between. It is the same in real numbers. Parts whose steps differ by less than
    4 times stay together, and nothing is cut where the error that the codes are predicted to make
    falls by less than `gain`: the networks that concatenate activations of one size run as before.

    Attributes:
        gain: Decibels by which the predicted error must fall.
        report: Whether the diagnostics say what was split.
    """

    gain: float = 6.0
    report: bool = False

    name = "split-concats"
    requires = (FLOAT_OPS, RANGED)

    def check(self) -> None:
        if not 0 <= self.gain < np.inf:
            raise PassError(f"split-concats: expected a gain of at least 0 dB, got {self.gain}")

    def run(self, graph: Graph, context: Context) -> None:
        if context.target is not None and not context.target.has_wide_sums:
            return  # The sum of the parts would be rounded to 8 bits, twice.
        names = Inheritance(graph)
        split: list[tuple[ChannelMoments | None, dict[Value, Array]]] = []
        for node in list(graph.nodes):
            found = _find(node)
            groups = None if found is None else _grouped(found.parts)
            if found is None or groups is None:
                continue
            gain = found.predicted_gain(groups)
            if gain < self.gain:
                continue
            root, kernel, name = node.output, node.inputs[1], node.output.name
            channels: dict[Value, Array] = {}
            moments = known_moments(node.inputs[0], context)
            root.replace_with(found.cut(groups, graph.before(node), channels))
            split.append((moments, channels))
            for old in (node, *(move.node for move in found.path), found.concat):
                if not any(value.uses for value in old.outputs):
                    graph.erase(old)
            if kernel.node is not None and not kernel.uses:
                graph.erase(kernel.node)
            if self.report:
                context.diagnostics.append(
                    f"split-concats: %{name}: {len(groups)} products, {gain:.1f} dB"
                )
        names.settle()
        for moments, channels in split:
            pass_on_moments(moments, channels, context)


@dataclass(frozen=True, eq=False)
class _Place:
    """A part of a concat.

    Attributes:
        value: The part.
        rows: The rows of the weights that it meets.
        low: Least number that was observed.
        high: Greatest number, likewise.
    """

    value: Value
    rows: range
    low: float
    high: float

    @property
    def step(self) -> float:
        """The step of its code."""
        return step(self.low, self.high)

    @property
    def mean_square(self) -> float:
        """The mean square of numbers spread evenly over the range."""
        return (self.low**2 + self.low * self.high + self.high**2) / 3


@dataclass(frozen=True, eq=False)
class _Move:
    """A move between a concat and a product.

    Attributes:
        node: The move.
        axis: The axis of its result that the concat is along.
    """

    node: Node
    axis: int

    def resized(self, size: int) -> Op:
        """Returns the move for another size of the axis."""
        if not isinstance(self.node.op, Reshape):
            return self.node.op
        shape = self.node.op.shape
        return Reshape((*shape[: self.axis], size, *shape[self.axis + 1 :]))

    @property
    def before(self) -> int | None:
        """The axis of its operand that the concat is along; None where it is no axis of its own."""
        operands, results = [self.node.inputs[0].type], [self.node.output.type]
        carried = self.node.op.carried(operands, results)
        return next((each.axis for each in carried if each.becomes == self.axis), None)


@dataclass(frozen=True, eq=False)
class _Found:
    """A product over a concat.

    Attributes:
        node: The product.
        path: The moves between, from the product to the concat.
        concat: The concat.
        parts: Its parts.
    """

    node: Node
    path: Sequence[_Move]
    concat: Node
    parts: Sequence[_Place]

    def predicted_gain(self, groups: Sequence[Sequence[_Place]]) -> float:
        """Returns by how many decibels the predicted error falls."""
        before = self._error(self.parts)
        return decibels(before, sum(self._error(group) for group in groups))

    def _error(self, parts: Sequence[_Place]) -> float:
        weights = self._weights(parts)
        squares = np.concatenate([np.full(len(part.rows), part.mean_square) for part in parts])
        low, high = min(part.low for part in parts), max(part.high for part in parts)
        taps, rows, columns = weights.shape
        return predicted_error(
            step(low, high), np.tile(squares, taps), weights.reshape(taps * rows, columns)
        )

    def _weights(self, parts: Sequence[_Place]) -> Array:
        """Returns the weights [taps, rows, columns] that some parts meet."""
        kernel = self.node.inputs[1].array
        return kernel.reshape(prod(kernel.shape[:-2]), *kernel.shape[-2:])[:, _rows(parts)]

    def cut(
        self,
        groups: Sequence[Sequence[_Place]],
        builder: Builder,
        channels: dict[Value, Array],
    ) -> Value:
        """Builds the sum of the products of groups of parts.

        Args:
            groups: The groups.
            builder: Where to build.
            channels: Gets for what each product reads its channels in the whole.
        """
        kernel = self.node.inputs[1]
        built = []
        for group in groups:
            weights = self._weights(group)
            window = kernel.array.shape[:-2]
            builder.loc = kernel.loc
            own = derived(builder, weights.reshape(*window, *weights.shape[1:]), kernel)
            builder.graph.name_after(own, f"{kernel.name}.part")
            x = self._joined(group, builder)
            channels[x] = _rows(group)
            built.append(PartialSum(x, own, self._bound(group, weights)))
        return emit_sum(self.node.output, built, builder)

    def _joined(self, group: Sequence[_Place], builder: Builder) -> Value:
        """Builds the concat of a group of parts, moved as the whole one was."""
        x = group[0].value
        builder.loc = self.concat.loc
        observed = Interval.of(min(part.low for part in group), max(part.high for part in group))
        if len(group) > 1:
            x = builder.emit(self.concat.op, *(part.value for part in group))
            x.observed = observed
        for move in reversed(self.path):
            builder.loc = move.node.loc
            x = builder.emit(move.resized(sum(len(part.rows) for part in group)), x)
            x.observed = observed
        return x

    def _bound(self, group: Sequence[_Place], weights: Array) -> Interval:
        taps, rows, columns = weights.shape
        sizes = [len(part.rows) for part in group]
        # The padding of a convolution is 0.
        low = np.repeat([min(part.low, 0.0) for part in group], sizes)
        high = np.repeat([max(part.high, 0.0) for part in group], sizes)
        flat = weights.reshape(taps * rows, columns)
        return bound(np.tile(low, taps), np.tile(high, taps), flat)


def _rows(parts: Sequence[_Place]) -> Array:
    """Returns the rows of the weights that some parts meet, which are channels of the concat."""
    return np.concatenate([np.arange(part.rows.start, part.rows.stop) for part in parts])


def _find(node: Node) -> _Found | None:
    """Finds the concat along the summed axis that a product reads; None where there is none."""
    if not isinstance(node.op, Dot | Conv) or not _is_plain(node):
        return None
    value = node.inputs[0]
    axis: int | None = value.type.rank - 1
    path = []
    while isinstance(value.op, Reshape | Transpose):
        assert value.node is not None
        assert axis is not None
        path.append(_Move(value.node, axis))
        axis = path[-1].before
        if axis is None:
            return None
        value = value.inputs[0]
    if not isinstance(value.op, Concat) or value.op.axis != axis or value.node is None:
        return None
    parts, start = [], 0
    for part in value.inputs:
        size = known(part.type.shape[axis], "split-concats")
        if part.range is None or part.is_constant:
            return None
        parts.append(_Place(part, range(start, start + size), *part.range.bounds))
        start += size
    return _Found(node, path, value.node, parts)


def _is_plain(node: Node) -> bool:
    """Whether a product has weights that can be cut and a bias that can stand in one part."""
    several = isinstance(node.op, Dot) and node.op.batch
    grouped = isinstance(node.op, Conv) and node.op.groups != 1
    return (
        not (several or grouped)
        and node.inputs[0].type.is_float
        and node.output.range is not None
        and all(value.is_constant and value.type.is_float for value in node.inputs[1:])
    )


def _grouped(parts: Sequence[_Place]) -> list[list[_Place]] | None:
    """Groups parts by the size of their steps, the greatest first; None where all are alike."""
    groups: list[list[_Place]] = []
    for part in sorted(parts, key=lambda part: -part.step):
        if groups and part.step * LEAST_RATIO > groups[-1][0].step:
            groups[-1].append(part)
        else:
            groups.append([part])
    if len(groups) < 2:
        return None
    return [sorted(group, key=lambda part: part.rows.start) for group in groups]
