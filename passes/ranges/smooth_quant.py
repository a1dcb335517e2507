"""smooth-quant: channels that weights multiply get one size, and the weights make up for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from qir.analysis.properties import FLOAT_OPS, RANGED
from qir.errors import PassError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.numbers.interval import Interval
from qir.observe.channels import ChannelMoments, ChannelStatistic, observe_channels
from qir.ops import Dot, Embedding, LayerNorm, Mul, Relu, RmsNorm
from qir.ops.products import Products
from qir.ops.traits import Moves
from qir.passes.shared.calibration_data import read_batches
from qir.passes.shared.constants import derived
from qir.passes.shared.layer_chains import LayerPath, find_pair, is_layer
from qir.passes.shared.observed_parts import channel_statistic, keep_parts, known_moments
from qir.passes.shared.smoothing import ChannelWeights, choose_factors
from qir.pipeline import Context, Pass, register
from qir.types import Array

TensorGroup: TypeAlias = Literal["norms", "gates", "linears"]
"""Kinds of tensors, which have a strength each."""

PEAKS: Mapping[TensorGroup, float] = {"norms": 0.5, "gates": 0.2, "linears": 0.5}
"""The share of its largest magnitude, in powers, in the size of a channel; the rest is its root
mean square. The largest magnitudes behind gates are those of single rows: larger shares fit the
data that is calibrated on and leave other data no room (1 dB less at 0.5)."""

SURER = 4
"""How many times the gain is asked for where values have tails: of networks of random weights and
128 rows, those that lost on other data were predicted to gain up to 1 dB."""


@register
class SmoothQuant(Pass):
    """Divides channels that weights multiply by factors that go into the weights.

    Where channels differ in size, one code of them all leaves the small ones few steps. With f one
    factor for each channel (SmoothQuant, arXiv:2211.10438),

        dot(x, W) = dot(x / f, f * W)

    which is the same in real numbers, and of convolutions likewise. It is done where it costs
    nothing when the program runs:

    - `norms`, which only products read: gamma and beta are divided;
    - `gates`, silu(g) * u: the product is an exact sum on codes, and the rounding that it takes
      anyway has a scale for each channel;
    - `linears`, what a dot or convolution computes, behind relu and moves or as it is: the columns
      of its weights and its bias are divided. Not by default: networks of convolutions gain nothing
      by it at 8 bits, whose error is that of the weights.

    Where each channel fills the code, other data is clipped in each. But for norms, which bound
    what they give, the error of that counts too: it falls with the rows that were seen, and 128 are
    too few for channels that differ by chance.

    The strength of each group is the exponent alpha of the paper, f = max|x|^alpha /
    max|W|^(1 - alpha) in each channel, or `auto`: f is the channel's size or its root, whichever
    codes of activations and weights are predicted to lose less with. (Of the paper's factors the
    predicted error chooses worse ones: a llama of random weights has 27.0 dB then and 28.4 dB by
    the sizes.) Products that read one value share the factors. A table that embeds as well stays as
    it is.

    It needs what calibrate observed of channels, and data to observe those of what convolutions
    read; it leaves alone what is not known.

    Attributes:
        norms: The strength behind norms, in [0, 1]; 0 leaves them as they are.
        gates: That behind gates.
        linears: That behind dots and convolutions.
        multiply: Whether norms that other ops read too are smoothed, by a multiplication when the
            program runs. Where split-outliers comes next, which does more for them, they had better
            not be.
        gain: Decibels by which the predicted error must fall, where the strength is `auto`; but
            for norms four times as many, as few rows tell of tails.
        report: Whether the diagnostics say what was smoothed.
    """

    norms: float | None = None
    gates: float | None = None
    linears: float | None = 0.0
    multiply: bool = False
    gain: float = 0.25
    report: bool = False

    name = "smooth-quant"
    requires = (FLOAT_OPS, RANGED)
    keeps = "approximate"

    @classmethod
    def options_of(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads `auto`."""
        groups: tuple[TensorGroup, ...] = tuple(PEAKS)
        return {
            name: None if name in groups and value == "auto" else value
            for name, value in given.items()
        }

    def check(self) -> None:
        for group in PEAKS:
            alpha = self.alpha(group)
            if alpha is not None and not 0 <= alpha <= 1:
                raise PassError(f"smooth-quant: expected {group} in [0, 1] or auto, got {alpha}")
        if not 0 <= self.gain < np.inf:
            raise PassError(f"smooth-quant: expected a gain of at least 0 dB, got {self.gain}")

    def alpha(self, group: TensorGroup) -> float | None:
        """Returns the strength of a group of tensors; None where it is looked for."""
        return {"norms": self.norms, "gates": self.gates, "linears": self.linears}[group]

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        observed: dict[Value, ChannelStatistic] = {}
        moments: dict[Value, ChannelMoments] = {}
        tables = [
            node.inputs[0].array
            for node in graph.nodes
            if isinstance(node.op, Embedding) and node.inputs[0].is_constant
        ]
        places = [
            place
            for x in graph.values()
            if (place := _place_of(x, multiply=self.multiply)) is not None
            and self.alpha(place.group) != 0
            and not _are_tied(place.products, tables)
        ]
        seen = _statistics(graph, [place.x for place in places], context)
        for place in places:
            x, alpha = place.x, self.alpha(place.group)
            statistic = seen.get(x)
            if statistic is None:
                continue
            factors, gain = choose_factors(
                [ChannelWeights.of(node) for node in place.products],
                statistic,
                PEAKS[place.group],
                alpha,
                place.tied,
                has_tails=place.group != "norms",
            )
            least = self.gain * (1 if place.group == "norms" else SURER)
            if alpha is None and gain < least:
                continue
            known = known_moments(x, context)
            smooth = place.smooth(factors, statistic)
            observed[smooth] = statistic.divided(factors)
            if known is not None:
                moments[smooth] = known.divided(factors)
            if self.report:
                context.diagnostics.append(f"smooth-quant: %{x.name}: {gain:.1f} dB")
        for x in list(graph.values()):
            if x.node is not None and isinstance(x.op, LayerNorm | RmsNorm) and not x.uses:
                graph.erase(x.node)
        names.settle()
        for value, statistic in observed.items():
            keep_parts(value, context.statistics, {"channels": statistic})
        for value, mean in moments.items():
            keep_parts(value, context.statistics, {"moments": mean})


@dataclass(frozen=True, eq=False)
class _Place:
    """A value whose channels can be divided, and the products that make up for it.

    Attributes:
        x: The value.
        products: The products.
        group: Its kind.
        path: The way back to the layer that computes it, where its weights are divided.
    """

    x: Value
    products: Sequence[Node]
    group: TensorGroup
    path: LayerPath | None = None

    def tied(self, factors: Array) -> Array:
        """Makes the factors of channels equal that are one output of a layer."""
        if self.path is None:
            return factors
        outputs = np.zeros(int(self.path.channels.max()) + 1)
        np.maximum.at(outputs, self.path.channels, factors)
        return np.asarray(outputs[self.path.channels])

    def smooth(self, factors: Array, statistic: ChannelStatistic) -> Value:
        """Divides the channels and multiplies the weights; returns what the products read."""
        seen = Interval.of((statistic.minimum / factors).min(), (statistic.maximum / factors).max())
        smooth = self.x
        if self.path is not None:
            _divide_layer(self.path, factors, seen)
        else:
            smooth = self._divided(factors)
            self.x.owner.name_after(smooth, f"{self.x.name}.smooth")
        smooth.observed = seen
        for node in self.products:
            node.set_input(0, smooth)
            product = ChannelWeights.of(node).times(factors)
            _replace(node, 1, product.weights.reshape(node.inputs[1].array.shape))
        return smooth

    def _divided(self, factors: Array) -> Value:
        builder = Builder(self.x.owner, self.products[0], self.x.loc)
        is_shared = len(list(self.x.users)) > len(self.products)
        if self.group == "norms" and not is_shared:
            return _divided_norm(self.x, factors, builder)
        inverse = builder.const((1 / factors).astype(self.x.type.dtype.numpy))
        builder.graph.name_after(inverse, f"{self.x.name}.factors")
        return builder.emit(Mul(), self.x, inverse)


def _place_of(x: Value, *, multiply: bool) -> _Place | None:
    """Returns where the channels of a value can be divided at no cost; None where they can't."""
    products = [node for node in x.users if is_layer(node) and node.inputs[0] is x]
    if not products or not all(node.inputs[1].type.is_float for node in products):
        return None
    if (path := _plain_path(x, products)) is not None:
        return _Place(x, products, "linears", path)
    dots = [node for node in products if isinstance(node.op, Dot) and node.inputs[1].type.rank == 2]
    if isinstance(x.op, Mul) and dots:
        return None if any(each.is_constant for each in x.inputs) else _Place(x, dots, "gates")
    if not isinstance(x.op, LayerNorm | RmsNorm) or not dots:
        return None
    if len(dots) < len(list(x.users)):
        return _Place(x, dots, "norms") if multiply else None
    are_vectors = all(each.is_constant and each.array.ndim == 1 for each in x.inputs[1:])
    return _Place(x, dots, "norms") if are_vectors else None


def _plain_path(x: Value, products: Sequence[Node]) -> LayerPath | None:
    """Returns the way back to the layer that computes a value, if but moves and relu lie between.

    The numbers between are then those of the value itself, or below 0 what relu makes 0 of: their
    ranges follow from its own.
    """
    path = find_pair(products[0]) if len(x.uses) == 1 else None
    if not isinstance(path, LayerPath):
        return None
    between = (each.op for each in path.values[:-1])
    is_plain = all(
        op is not None and (isinstance(op, Relu) or op.moves is Moves.ORDER) for op in between
    )
    return path if is_plain else None


def _statistics(
    graph: Graph, values: Sequence[Value], context: Context
) -> dict[Value, ChannelStatistic]:
    """Returns the statistics of the channels of values, as far as they are or can be known."""
    known = {value: channel_statistic(value, context.statistics) for value in values}
    found = {value: seen for value, seen in known.items() if seen is not None}
    missing = [
        value for value in values if value not in found and isinstance(value.type.shape[-1], int)
    ]
    data, executor = context.observations, context.executor
    # What a region computes can't be asked for from outside.
    if not missing or data is None or executor is None or not data.repeatable or not graph.name:
        return found
    probe = executor.probe(graph, missing)
    for arrays, _ in read_batches(graph, data):
        for value, array in zip(missing, probe(*arrays), strict=True):
            seen = observe_channels(np.asarray(array), [value.type.rank - 1])
            found[value] = found[value].merge(seen) if value in found else seen
    return {value: seen for value, seen in found.items() if seen.count}


def _are_tied(products: Sequence[Node], tables: Sequence[Array]) -> bool:
    """Whether a kernel is the transposed table of an embedding, which is stored once for both."""
    return any(
        table.shape == kernel.shape[::-1] and np.array_equal(table, kernel.T)
        for table in tables
        for kernel in (node.inputs[1].array for node in products)
    )


def _divide_layer(path: LayerPath, factors: Array, seen: Interval) -> None:
    """Divides the outputs of a layer by the factors of what becomes of them.

    Args:
        path: The layer and what lies behind it.
        factors: The factor of each channel of the last value.
        seen: What that ranges over then.
    """
    kernel = path.first.inputs[1].array
    divisors = np.ones(kernel.shape[-1])
    divisors[path.channels] = factors
    for index in range(1, len(path.first.inputs)):
        _replace(path.first, index, path.first.inputs[index].array / divisors)
    for value in path.values:
        low = seen.bounds[0]
        if value.observed is not None:
            # Whatever lies below what relu returns becomes 0.
            low = min(low, value.observed.bounds[0]) if _is_rectified(value) else low
        value.observed, value.origin = Interval.of(low, seen.bounds[1]), ()


def _is_rectified(value: Value) -> bool:
    """Whether relu is all that reads a value, behind moves."""
    while len(value.uses) == 1:
        (user,) = value.users
        if isinstance(user.op, Relu):
            return True
        if isinstance(user.op, Products):
            return False
        value = user.output
    return False


def _replace(node: Node, index: int, real: Array) -> None:
    """Gives a node a constant in place of the one that it has."""
    old, graph = node.inputs[index], node.graph
    builder = graph.before(node)
    builder.loc = old.loc
    node.set_input(index, derived(builder, real.astype(old.array.dtype), old))
    if old.node is not None and not old.uses:
        graph.erase(old.node)


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
