"""smooth-channels: channels that weights multiply get one size, and the weights make up for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.analysis.properties import FLOAT_OPS, RANGED
from qir.errors import PassError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.numbers.interval import Interval
from qir.observe.channels import ChannelMoments, ChannelStatistic
from qir.ops import Dot, Embedding, LayerNorm, Mul, RmsNorm
from qir.passes.shared.constants import derived
from qir.passes.shared.observed_parts import channel_statistic, keep_parts, known_moments
from qir.passes.shared.partial_sums import decibels, predicted_error, step
from qir.pipeline import Context, Pass, register
from qir.types import Array

STRENGTHS = (0.5, 1.0)
"""Powers of a channel's size by which it is divided."""

PEAK = 0.5
"""The share of its largest magnitude, in powers, in the size of a channel; the rest is its root
mean square."""
PEAK_BEHIND_GATES = 0.2
"""That share behind gates, whose largest magnitudes are those of single rows: larger shares fit the
data that is calibrated on and leave other data no room (1 dB less at 0.5)."""

LEAST_FACTOR = 2.0**-8
"""A channel that is smaller than this is divided by this: no weight need vanish for it."""


@register
class SmoothChannels(Pass):
    """Divides channels that weights multiply by factors that go into the weights.

    Where channels differ in size, one code of them all leaves the small ones few steps. With f one
    factor for each channel (SmoothQuant, arXiv:2211.10438),

        dot(x, W) = dot(x / f, f * W)

    which is the same in real numbers. It is done where it costs nothing when the program runs:

    - behind gates, silu(g) * u: the product is an exact sum on codes, and the rounding that it
      takes anyway has a scale for each channel;
    - behind a norm that only products read: its gamma and beta are divided.

    f is a power of the channel's size; which one, the error says that the codes of activations and
    weights are predicted to make. Products that read one value share the factors. A table that
    embeds as well stays as it is.

    It needs what calibrate observed of channels and leaves products alone of which it did not.

    Attributes:
        gain: Decibels by which the predicted error must fall.
        report: Whether the diagnostics say what was smoothed.
    """

    gain: float = 0.25
    report: bool = False

    name = "smooth-channels"
    requires = (FLOAT_OPS, RANGED)
    keeps = "approximate"

    def check(self) -> None:
        if not 0 <= self.gain < np.inf:
            raise PassError(f"smooth-channels: expected a gain of at least 0 dB, got {self.gain}")

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        observed: dict[Value, ChannelStatistic] = {}
        moments: dict[Value, ChannelMoments] = {}
        tables = [
            node.inputs[0].array
            for node in graph.nodes
            if isinstance(node.op, Embedding) and node.inputs[0].is_constant
        ]
        for x in list(graph.values()):
            products = [node for node in x.users if _is_product_of_weights(node, x)]
            if not _is_smoothed_for_free(x, len(products)) or _are_tied(products, tables):
                continue
            statistic = channel_statistic(x, context.statistics) if products else None
            if statistic is None:
                continue
            share = PEAK_BEHIND_GATES if isinstance(x.op, Mul) else PEAK
            kernels = [node.inputs[1].array for node in products]
            factors, gain = choose_factors(kernels, statistic, share)
            if gain < self.gain:
                continue
            smooth = _smooth(x, products, factors, statistic)
            observed[smooth] = statistic.divided(factors)
            if (known := known_moments(x, context)) is not None:
                moments[smooth] = known.divided(factors)
            if self.report:
                context.diagnostics.append(f"smooth-channels: %{x.name}: {gain:.1f} dB")
        for x in list(graph.values()):
            if x.node is not None and isinstance(x.op, LayerNorm | RmsNorm) and not x.uses:
                graph.erase(x.node)
        names.settle()
        for value, statistic in observed.items():
            keep_parts(value, context.statistics, {"channels": statistic})
        for value, mean in moments.items():
            keep_parts(value, context.statistics, {"moments": mean})


def _is_product_of_weights(node: Node, x: Value) -> bool:
    return (
        isinstance(node.op, Dot)
        and not node.op.batch
        and node.inputs[0] is x
        and all(value.is_constant and value.type.is_float for value in node.inputs[1:])
        and node.inputs[1].type.rank == 2
    )


def _is_smoothed_for_free(x: Value, products: int) -> bool:
    """Whether what computes a value can divide its channels.

    Args:
        x: The value.
        products: How many products of weights read it.
    """
    if isinstance(x.op, Mul):
        return products > 0 and not any(operand.is_constant for operand in x.inputs)
    if not isinstance(x.op, LayerNorm | RmsNorm) or not 0 < products == len(list(x.users)):
        return False
    parameters = x.inputs[1:]
    return all(value.is_constant and value.array.ndim == 1 for value in parameters)


def _are_tied(products: list[Node], tables: list[Array]) -> bool:
    """Whether a kernel is the transposed table of an embedding, which is stored once for both."""
    return any(
        table.shape == kernel.shape[::-1] and np.array_equal(table, kernel.T)
        for table in tables
        for kernel in (node.inputs[1].array for node in products)
    )


def choose_factors(
    kernels: Sequence[Array], statistic: ChannelStatistic, share: float
) -> tuple[Array, float]:
    """Returns a factor for each channel, and by how many decibels the predicted error falls.

    Of products that read the same value each counts by the share of its error that is left.

    Args:
        kernels: The weights of each product [channels, columns].
        statistic: The channels of the value, the last axis.
        share: The share of its largest magnitude in the size of a channel.
    """
    low, high = (bounds.astype(np.float64) for bounds in (statistic.minimum, statistic.maximum))
    mean_squares = statistic.mean_square.astype(np.float64)
    sizes = statistic.peaks.astype(np.float64) ** share * mean_squares ** ((1 - share) / 2)
    best, gain = np.ones(sizes.shape), 0.0
    if not sizes.max(initial=0.0) > 0:
        return best, gain
    whole = step(low.min(), high.max())
    before = [predicted_error(whole, mean_squares, kernel) for kernel in kernels]
    for strength in STRENGTHS:
        factors = np.maximum(sizes / sizes.max(), LEAST_FACTOR) ** strength
        narrowed = step((low / factors).min(), (high / factors).max())
        left = [
            predicted_error(narrowed, mean_squares / factors**2, kernel * factors[:, None])
            for kernel in kernels
        ]
        pairs = [(most, rest) for most, rest in zip(before, left, strict=True) if most > 0]
        found = decibels(len(pairs), sum(rest / most for most, rest in pairs)) if pairs else 0.0
        if found > gain:
            best, gain = factors, found
    return best, gain


def _smooth(x: Value, products: list[Node], factors: Array, statistic: ChannelStatistic) -> Value:
    graph = x.owner
    builder = Builder(graph, products[0], x.loc)
    if isinstance(x.op, Mul):
        inverse = builder.const((1 / factors).astype(x.type.dtype.numpy))
        graph.name_after(inverse, f"{x.name}.factors")
        smooth = builder.emit(Mul(), x, inverse)
    else:
        smooth = _divided_norm(x, factors, builder)
    graph.name_after(smooth, f"{x.name}.smooth")
    smooth.observed = Interval.of(
        (statistic.minimum / factors).min(), (statistic.maximum / factors).max()
    )
    kernels: dict[Value, Value] = {}
    for node in products:
        kernel = node.inputs[1]
        if kernel not in kernels:
            before = graph.before(node)
            before.loc = kernel.loc
            scaled = (kernel.array * factors[:, None]).astype(kernel.array.dtype)
            kernels[kernel] = derived(before, scaled, kernel)
        node.set_input(0, smooth)
        node.set_input(1, kernels[kernel])
    for kernel in kernels:
        if kernel.node is not None and not kernel.uses:
            graph.erase(kernel.node)
    return smooth


def _divided_norm(x: Value, factors: Array, builder: Builder) -> Value:
    """Returns a norm whose gamma and beta are divided by factors."""
    assert x.op is not None
    source, *parameters = x.inputs
    divided = [
        derived(builder, (value.array / factors).astype(value.array.dtype), value)
        for value in parameters
    ]
    if not divided:
        divided = [builder.const((1 / factors).astype(x.type.dtype.numpy))]
        builder.graph.name_after(divided[0], f"{x.name}.factors")
    return builder.emit(x.op, source, *divided)
