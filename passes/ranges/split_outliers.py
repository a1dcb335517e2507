"""split-outliers: few channels that are far larger than the others get a code of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qir.analysis.properties import FLOAT_OPS, RANGED
from qir.errors import PassError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.numbers.interval import Interval
from qir.observe.channels import ChannelMoments, ChannelStatistic
from qir.ops import Clip, Dot, Gather, Gelu, Silu
from qir.ops.rules import FixedCode, SameCode
from qir.ops.traits import Moves
from qir.passes.shared.constants import derived
from qir.passes.shared.functions import elementwise_functions
from qir.passes.shared.observed_parts import (
    channel_statistic,
    known_moments,
    pass_on_moments,
)
from qir.passes.shared.partial_sums import (
    PartialSum,
    bound,
    decibels,
    emit_sum,
    predicted_error,
    step,
)
from qir.pipeline import Context, Pass, register
from qir.types import Array, FrozenArray

COUNTS = (4, 8)
"""Numbers of channels that are tried: multiples of 4, as machines multiply 4 at once."""
COUNTS_BEHIND_GATES = (4, 8, 16, 32)
"""Those for what gelu and silu return, where many channels are large, each in a few rows."""
LEAST_CHANNELS = 64
"""Channels that a product must sum over."""
WORTH_MORE = 1.0
"""Decibels that the next greater number of channels must bring."""


@register
class SplitOutliers(Pass):
    """Splits products whose operand has channels of far larger numbers than the others.

    In transformers a few channels of what norms and gates return are 10 to 100 times larger than
    the rest and leave it few steps of a code (arXiv:2208.07339). So

        dot(x, W) = dot(clip(x, lo, hi), W with rows of 0) + dot(gather(x, channels), W[channels])

    with lo and hi the extremes of the other channels, and each product has codes of its own. It is
    the same in real numbers for what lies in the ranges that were observed; other numbers saturate
    at lo and hi, as they would in a code. Channels are chosen by the error that the codes of
    activations and weights are predicted to make; products that read one value share them. Where
    that value is a function of another one, element by element, the function is applied to the
    gathered channels of the other one, so that both codes come from there.

    It needs what calibrate observed of channels and leaves products alone of which it did not.

    Attributes:
        gain: Decibels by which the predicted error must fall.
        report: Whether the diagnostics say what was split, and where no channels were observed.
    """

    gain: float = 3.0
    report: bool = False

    name = "split-outliers"
    requires = (FLOAT_OPS, RANGED)
    keeps = "approximate"

    def check(self) -> None:
        if not 0 <= self.gain < np.inf:
            raise PassError(f"split-outliers: expected a gain of at least 0 dB, got {self.gain}")

    def run(self, graph: Graph, context: Context) -> None:
        if context.target is not None and not context.target.has_wide_sums:
            return  # The sum of the parts would be rounded to 8 bits, twice.
        names = Inheritance(graph)
        parts: set[Value] = set()
        split: list[tuple[ChannelMoments | None, dict[Value, Array]]] = []
        for x in graph.values():  # A sum that is built meanwhile is met too: it may be an operand.
            if x in parts:
                continue
            products = [node for node in x.users if _can_split(node, x)]
            if not products or not _has_codes_to_choose(x):
                continue
            statistic = channel_statistic(x, context.statistics)
            if statistic is None:
                if self.report:
                    context.diagnostics.append(f"split-outliers: no channels known of %{x.name}")
                continue
            kernels = [node.inputs[1].array for node in products]
            choice = choose(x, kernels, statistic, self.gain)
            if choice is None:
                continue
            source = elementwise_functions(graph, set())[0].get(x)
            moments = known_moments(x, context)
            inliers, outliers = _Splitter(x, products, statistic, choice, source).run()
            split.append(
                (moments, {inliers: np.arange(len(statistic.peaks)), outliers: choice.channels})
            )
            parts |= {inliers, outliers}
            if self.report:
                context.diagnostics.append(
                    f"split-outliers: %{x.name}: {len(choice.channels)} channels, "
                    f"{choice.gain:.1f} dB"
                )
        names.settle()
        for moments, channels in split:
            pass_on_moments(moments, channels, context)


def _can_split(node: Node, x: Value) -> bool:
    if not isinstance(node.op, Dot) or node.op.batch or node.inputs[0] is not x:
        return False
    channels = x.type.shape[-1]
    return (
        x.type.is_float
        and isinstance(channels, int)
        and channels >= LEAST_CHANNELS
        and all(value.is_constant and value.type.is_float for value in node.inputs[1:])
        and node.output.range is not None
    )


def _has_codes_to_choose(x: Value) -> bool:
    """Whether what computes a value can round it to two codes; a fixed or a kept one is all."""
    source = x
    while (op := source.op) is not None and (
        op.moves in (Moves.ORDER, Moves.PARTS) or op.clip_bounds()
    ):
        # It also works on sums, or on numbers not rounded yet.
        source = source.inputs[0]
    if source.op is None:
        # What a region takes comes in the one code that it has outside.
        return bool(source.owner.name)
    return not isinstance(source.op.quant, FixedCode | SameCode)


@dataclass(frozen=True, eq=False)
class OutlierChannels:
    """The channels to split off.

    Attributes:
        channels: The channels, increasing.
        inside: What the others range over.
        outside: What those channels range over.
        gain: Decibels by which the predicted error of the products falls.
    """

    channels: Array
    inside: Interval
    outside: Interval
    gain: float


def choose(
    x: Value, kernels: Sequence[Array], statistic: ChannelStatistic, least: float
) -> OutlierChannels | None:
    """Chooses the channels of a value to split off; None where none are.

    The largest channels go first. Of products that read the same value each counts by the share of
    its error that is left.

    Args:
        x: The value.
        kernels: The weights of each product [channels, columns].
        statistic: The channels of the value.
        least: Decibels by which the predicted error must fall.
    """
    assert x.range is not None
    seen = x.range
    order = np.argsort(-statistic.peaks, kind="stable")
    mean_squares = statistic.mean_square.astype(np.float64)
    whole = step(*seen.bounds)
    before: list[float] = []
    best: OutlierChannels | None = None
    for count in COUNTS_BEHIND_GATES if isinstance(x.op, Gelu | Silu) else COUNTS:
        if 4 * count > len(order):
            break
        channels, others = np.sort(order[:count]), np.sort(order[count:])
        inside, outside = (
            Interval.of(statistic.minimum[part].min(), statistic.maximum[part].max()).intersect(
                seen
            )
            for part in (others, channels)
        )
        if step(*inside.bounds) > whole * 10 ** (-least / 20):
            continue  # The activations' part of the error would fall by less.
        if not before:
            before = [predicted_error(whole, mean_squares, kernel) for kernel in kernels]
        left = [
            sum(
                predicted_error(step(*range.bounds), mean_squares[part], kernel[part])
                for part, range in ((others, inside), (channels, outside))
            )
            for kernel in kernels
        ]
        pairs = [(most, rest) for most, rest in zip(before, left, strict=True) if most > 0]
        if not pairs:
            return None
        gain = decibels(len(pairs), sum(rest / most for most, rest in pairs))
        if best is None or gain >= best.gain + WORTH_MORE:
            best = OutlierChannels(channels, inside, outside, gain)
    return best if best is not None and best.gain >= least else None


@dataclass(frozen=True, eq=False)
class _Splitter:
    """Splits the products that read one value.

    Attributes:
        x: The value.
        products: The products.
        statistic: Its channels.
        choice: The channels that are split off.
        source: What the value is a function of, element by element, or None.
    """

    x: Value
    products: Sequence[Node]
    statistic: ChannelStatistic
    choice: OutlierChannels
    source: Value | None

    def run(self) -> tuple[Value, Value]:
        """Splits the products; returns the clipped value and that of the channels."""
        graph = self.x.owner
        builder = Builder(graph, self.products[0], self.x.loc)
        inliers, outliers = self._inliers(builder), self._outliers(builder)
        for name, value in (("inliers", inliers), ("outliers", outliers)):
            graph.name_after(value, f"{self.x.name}.{name}")
        kernels: dict[Value, tuple[PartialSum, PartialSum]] = {}
        for node in self.products:
            builder = graph.before(node)
            kernel = node.inputs[1]
            if kernel not in kernels:
                kernels[kernel] = self._parts(kernel, inliers, outliers, builder)
            root = node.output
            root.replace_with(emit_sum(root, kernels[kernel], builder))
            graph.erase(node)
        for kernel in kernels:
            if kernel.node is not None and not kernel.uses:
                graph.erase(kernel.node)
        return inliers, outliers

    def _inliers(self, builder: Builder) -> Value:
        # A clip of a clip is the tighter one, which can be rounded to its code at once.
        below = self.x.inputs[0] if self.x.op and self.x.op.clip_bounds() else self.x
        clipped = builder.emit(Clip(*self.choice.inside.bounds), below)
        clipped.observed = self.choice.inside
        return clipped

    def _outliers(self, builder: Builder) -> Value:
        places = builder.const(FrozenArray(self.choice.channels.astype(np.int32)))
        builder.graph.name_after(places, f"{self.x.name}.channels")
        source = self.x if self.source is None else self.source
        gathered = builder.emit(Gather(source.type.rank - 1), source, places)
        gathered.take_ranges(source)
        copies = {source: gathered}

        def copy(value: Value) -> Value:
            if value.is_constant:
                return value
            if value not in copies:
                assert value.op is not None
                copies[value] = builder.emit(value.op, *map(copy, value.inputs))
                copies[value].take_ranges(value)
            return copies[value]

        result = copy(self.x)
        result.observed = self.choice.outside
        return result

    def _parts(
        self, kernel: Value, inliers: Value, outliers: Value, builder: Builder
    ) -> tuple[PartialSum, PartialSum]:
        channels = self.choice.channels
        weights = kernel.array
        without = weights.copy()
        without[channels] = 0
        builder.loc = kernel.loc
        low, high = (
            bounds.astype(np.float64) for bounds in (self.statistic.minimum, self.statistic.maximum)
        )
        few = derived(builder, weights[channels], kernel)
        builder.graph.name_after(few, f"{kernel.name}.outliers")
        return (
            PartialSum(inliers, derived(builder, without, kernel), bound(low, high, without)),
            PartialSum(outliers, few, bound(low[channels], high[channels], weights[channels])),
        )
