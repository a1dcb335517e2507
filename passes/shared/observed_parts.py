"""Which values are observed by channels and by rows, and how they follow from what is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from qir.ir import Graph, Node, Value
from qir.observe.channels import (
    ChannelMoments,
    ChannelStatistic,
    RowPeaks,
    observe_channels,
    observe_rows,
)
from qir.observe.statistics import Statistics, TensorStatistics, key_of_imported
from qir.observe.statistics_file import Statistic
from qir.ops import Div, Dot, Softmax
from qir.ops.products import Products
from qir.passes.shared.layer_chains import LayerPath
from qir.pipeline import Context
from qir.types import Array, DType

_NOTHING = TensorStatistics()


@dataclass(frozen=True, eq=False)
class Parts:
    """What is observed of parts of values.

    Attributes:
        channels: For each value observed by channels, the axes that number them.
        rows: For each value that is read along rows, the axes of a row and the mask, or None.
        positions: For each quotient of a division by rows, the axes that number the rows.
        moments: The values of whose channels, along the last axis, mean and variance are taken.
    """

    channels: dict[Value, tuple[int, ...]] = field(default_factory=dict)
    rows: dict[Value, tuple[tuple[int, ...], Value | None]] = field(default_factory=dict)
    positions: dict[Value, tuple[int, ...]] = field(default_factory=dict)
    moments: dict[Value, None] = field(default_factory=dict)

    @property
    def values(self) -> list[Value]:
        """The values that are observed whole."""
        return list(dict.fromkeys([*self.channels, *self.rows, *self.positions]))

    @property
    def masks(self) -> list[Value]:
        """The computed masks."""
        masks = dict.fromkeys(mask for _, mask in self.rows.values())
        return [mask for mask in masks if mask is not None and not mask.is_constant]


@dataclass(frozen=True, eq=False)
class PartStatistics:
    """What was observed of parts of values, on one batch or on several.

    Attributes:
        channels: The statistic of the channels of a value.
        rows: The least row maximum of a value.
        positions: The statistic of each position of a value.
        moments: Mean and variance of the channels of a value.
    """

    channels: dict[Value, ChannelStatistic] = field(default_factory=dict)
    rows: dict[Value, RowPeaks] = field(default_factory=dict)
    positions: dict[Value, ChannelStatistic] = field(default_factory=dict)
    moments: dict[Value, ChannelMoments] = field(default_factory=dict)

    def add(self, other: PartStatistics) -> None:
        """Merges in what was observed on further batches."""
        for mine, theirs in (
            (self.channels, other.channels),
            (self.positions, other.positions),
        ):
            for value, channels in theirs.items():
                known = mine.get(value)
                mine[value] = channels if known is None else known.merge(channels)
        for value, rows in other.rows.items():
            peaks = self.rows.get(value)
            self.rows[value] = rows if peaks is None else peaks.merge(rows)
        for value, moments in other.moments.items():
            before = self.moments.get(value)
            self.moments[value] = moments if before is None else before.merge(moments)


def observed_parts(graph: Graph, chains: Sequence[Sequence[LayerPath]] = ()) -> Parts:
    """Finds what passes ask for: few values, since observing one takes as long as counting it.

    By channels of the last axis what is multiplied with constant weights; by channels of the batch
    axes but the first, such as the heads, the operands of a product of batches; by rows what a
    softmax reads; by positions what is divided row by row; by channels of the last axis what lies
    between layers that can be equalized. Of what is convolved or multiplied with constant weights,
    mean and variance of the channels.

    Args:
        graph: The program.
        chains: The chains of layers that may be equalized.
    """
    parts = Parts()
    for node in graph.walk():
        if isinstance(node.op, Products) and node.inputs[1].is_constant:
            x = node.inputs[0]
            if _is_observed(x) and isinstance(x.type.shape[-1], int):
                parts.moments[x] = None
        match node.op:
            case Dot(batch=0) if node.inputs[1].is_constant:
                _number(node.inputs[0], (node.inputs[0].type.rank - 1,), parts)
            case Dot(batch=batch) if batch > 1:
                for operand in node.inputs[:2]:
                    _number(operand, tuple(range(1, batch)), parts)
            case Div() if (axes := _positions(node)) and _is_observed(node.output):
                parts.positions[node.output] = axes
            case Softmax() if _is_observed(node.inputs[0]):
                parts.rows.setdefault(node.inputs[0], (softmax_axes(node.op), _mask(node)))
            case _:
                pass
    for chain in chains:
        for value in (value for path in chain for value in path.values):
            if value.op is not None and value.op.clip_bounds() is None:
                _number(value, (value.type.rank - 1,), parts)
    return parts


def softmax_axes(op: Softmax) -> tuple[int, ...]:
    """Returns the axes of a row of a softmax."""
    axis: int | tuple[int, ...] = op.axis
    return axis if isinstance(axis, tuple) else (axis,)


def _mask(node: Node) -> Value | None:
    masks = (value for value in node.inputs[1:] if value.type.element is DType.BOOL)
    return next(masks, None)


def _positions(node: Node) -> tuple[int, ...]:
    """Returns the axes behind the first that number the rows of a division by rows, or none."""
    quotient, divisor = node.output.type.shape, node.inputs[1].type.shape
    if len(quotient) != len(divisor) or node.inputs[1].is_constant or 1 not in divisor[1:]:
        return ()
    axes = tuple(axis for axis in range(1, len(divisor)) if divisor[axis] != 1)
    return axes if all(isinstance(quotient[axis], int) for axis in axes) else ()


def _is_observed(value: Value) -> bool:
    return value.type.is_float and not value.is_constant


def _number(value: Value, axes: tuple[int, ...], parts: Parts) -> None:
    shape = value.type.shape
    if (
        _is_observed(value)
        and len(shape) > 1
        and all(isinstance(shape[axis], int) for axis in axes)
    ):
        parts.channels.setdefault(value, axes)


def observe_parts(
    parts: Parts,
    value: Value,
    arrays: Sequence[Array],
    masks: Sequence[Array] | None,
    statistics: PartStatistics,
) -> None:
    """Takes the statistics of one value's parts on a batch.

    Args:
        parts: What is observed.
        value: The value.
        arrays: Its numbers, in a loop those of some trips.
        masks: As many masks of its rows, bools, or None.
        statistics: What was observed on the batch, to which the value's is added.
    """
    if axes := parts.channels.get(value):
        statistics.channels[value] = _channels(arrays, axes)
    if axes := parts.positions.get(value):
        statistics.positions[value] = _channels(arrays, axes)
    if value in parts.rows:
        along, _ = parts.rows[value]
        shown = [None] * len(arrays) if masks is None else masks
        peaks = [
            observe_rows(array, along, mask) for array, mask in zip(arrays, shown, strict=True)
        ]
        statistics.rows[value] = reduce(RowPeaks.merge, peaks)


def _channels(arrays: Sequence[Array], axes: tuple[int, ...]) -> ChannelStatistic:
    """Takes the statistic of the channels of some arrays of one shape."""
    if len(arrays) == 1:
        return observe_channels(arrays[0], axes)
    found = observe_channels(np.stack(arrays), [axis + 1 for axis in axes])
    return replace(found, axes=axes)


def known_moments(value: Value, context: Context) -> ChannelMoments | None:
    """Returns what calibrate observed of the channels of what a product reads; None if nothing."""
    found: ChannelMoments | None = known_part(value, context.statistics, "moments")
    if found is None or not found.count or found.sums.shape != value.type.shape[-1:]:
        return None
    return found


def pass_on_moments(
    whole: ChannelMoments | None, parts: Mapping[Value, Array], context: Context
) -> None:
    """Leaves in the context what is known of the channels of parts of a value.

    Args:
        whole: That of the value, or None.
        parts: For each part, which have their names already, its channels.
        context: Where it goes.
    """
    if whole is not None:
        for part, channels in parts.items():
            found = {"moments": whole.take(channels)}
            keep_parts(part, context.statistics, found, missing_only=True)


def statistic_names(value: Value) -> Mapping[str, tuple[int, ...] | None]:
    """Returns the keys of a value's statistics in the context, each with an order as in origins."""
    # The % keeps a value that stands for no imported one from an imported one of the same name.
    imported = {key_of_imported(name): order for name, order in value.origins.items()}
    return imported or {f"%{value.name}": None}


def keep_parts(
    value: Value,
    statistics: Statistics,
    parts: Mapping[str, Statistic],
    *,
    missing_only: bool = False,
) -> None:
    """Adds what was observed of a value under each of its names, along that name's axes.

    Args:
        value: The value, whose axes may stand in another order than those of an imported one.
        statistics: Where it goes.
        parts: What was observed, by the attribute of `TensorStatistics`.
        missing_only: Whether what is known already stays.
    """
    for name, order in statistic_names(value).items():
        turned = {
            kind: found
            for kind, part in parts.items()
            if (found := _turned(part, None if order is None else _inverse(order))) is not None
            and not (missing_only and getattr(statistics.get(name, _NOTHING), kind) is not None)
        }
        if turned:
            statistics.add(name, **turned)


def known_part(value: Value, statistics: Statistics, kind: str) -> Any:
    """Returns one of the statistics of a value along its own axes, or None.

    It is that of the first of its names that has it. Positions are along the imported value's axes:
    the last one numbers them.

    Args:
        value: The value.
        statistics: What was observed.
        kind: An attribute of `TensorStatistics`.
    """
    for name, order in statistic_names(value).items():
        part = getattr(statistics.get(name, _NOTHING), kind)
        own = None if kind == "positions" else order
        if part is not None and (found := _turned(part, own)) is not None:
            return found
    return None


def _turned(part: Statistic, order: Sequence[int] | None) -> Statistic | None:
    """Returns a statistic along axes in another order; None for moments of other axes."""
    if order is None:
        return part
    if isinstance(part, ChannelMoments):
        return part if order[-1] == len(order) - 1 else None
    return part.turned(order) if isinstance(part, ChannelStatistic | RowPeaks) else part


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def channel_statistic(value: Value, statistics: Statistics) -> ChannelStatistic | None:
    """Returns what was observed of the channels along the last axis of a value with a range.

    Args:
        value: The value.
        statistics: What was observed.
    """
    found: ChannelStatistic | None = known_part(value, statistics, "channels")
    if found is None or not found.count or value.range is None:
        return None
    fits = found.axes == (value.type.rank - 1,) and found.minimum.shape == value.type.shape[-1:]
    return found if fits else None


def channel_extremes(value: Value, statistics: Statistics) -> tuple[Array, Array] | None:
    """Returns the extremes of the channels along the last axis of a value, two arrays [channels].

    Those of a clip, such as a relu, are those of its operand, clipped.

    Args:
        value: The value.
        statistics: What was observed.
    """
    if (found := channel_statistic(value, statistics)) is not None:
        return found.minimum, found.maximum
    if value.op is None or value.op.clip_bounds() is None:
        return None
    known = channel_extremes(value.inputs[0], statistics)
    if known is None:
        return None
    low, high = (np.asarray(value.op.evaluate(each)) for each in known)
    return low, high
