"""equalize: the weights of consecutive layers get the same range in each channel between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from qir.analysis.properties import FLOAT
from qir.errors import PassError, QirError
from qir.ir import Graph, Node
from qir.ir.names import Inheritance
from qir.ops.products import Products
from qir.passes.shared.constants import derived, rounded
from qir.passes.shared.layer_paths import LayerPath, find_path, is_layer
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Skip
from qir.types import Array

SETTLED = 1e-6
"""A round that changes no scale by more than this share is the last one."""

LEAST_PEAK = 2.0**-16
"""Channels whose weights are smaller than this share of the layer's largest are left alone: they
compute nothing, and scaling them up would blow up what their biases add."""


@register
class Equalize(Pass):
    """Equalizes the ranges of weights across layers (arXiv:1906.04721, section 4.1).

    A relu commutes with a positive factor, so in `W2 relu(W1 x + b1)` each channel between the
    layers can be scaled by any s: `W1 / s, b1 / s, W2 * s`. With s = sqrt(r1 * r2) / r2, where r1
    and r2 are the largest weights of the channel in either layer, both become sqrt(r1 * r2), and
    one scale for all weights of a layer loses less. The same holds through leaky_relu, pooling,
    mean, padding with 0 and what moves numbers, and for depthwise convolutions as either layer, but
    not through an op that is not homogeneous (relu6, silu, gelu), nor where another op reads a
    value between. Chains of layers take several rounds to settle.

    Exact in real numbers; the weights are rounded once. The values between are scaled: they lose
    their ranges and stand for no imported value any more.

    Attributes:
        iterations: The most rounds over all pairs of layers.
    """

    iterations: int = 20

    name = "equalize"
    requires = (FLOAT,)

    def check(self) -> None:
        if self.iterations < 1:
            raise QirError(f"iterations: expected at least 1, got {self.iterations}")

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        layers: dict[Node, _Layer] = {}
        pairs: list[_Pair] = []
        skips = Counter[str]()
        for node in graph.nodes:
            found = find_pair(node)
            if isinstance(found, Skip):
                skips[found.reason] += 1
            elif found is not None:
                for each in (found.layer, node):
                    layers.setdefault(each, _Layer(each))
                pairs.append(_Pair(found, layers[found.layer], layers[node]))
        rounds = 0
        while pairs and rounds < self.iterations:
            rounds += 1
            if max([pair.equalize() for pair in pairs]) <= SETTLED:
                break
        for layer in layers.values():
            layer.rewrite(graph)
        for pair in pairs:
            if np.any(pair.first.divisors != 1):
                for value in pair.path.values:
                    value.observed, value.origin = None, ()
        names.settle()
        context.diagnostics += [
            f"equalize: pairs of layers: {len(pairs)}, rounds: {rounds}",
            *(f"equalize: layers not paired: {count}, {why}" for why, count in skips.items()),
        ]


def find_pair(node: Node) -> LayerPath | Skip | None:
    """Finds the layer before a layer, as far as a factor for each channel can travel.

    Returns:
        The path; what stands in its way; None where the node is no layer or the first one.
    """
    if not is_layer(node):
        return None
    found = find_path(node.inputs[0])
    if isinstance(found, LayerPath) and len(node.inputs[0].uses) != 1:
        return Skip("what lies between is read elsewhere too", node.inputs[0])
    return found


class _Layer:
    """A layer's weights, of which the largest of each input and output are kept up to date.

    Attributes:
        peaks: The largest magnitudes [inputs of a group, groups, outputs of a group].
        factors: What each input's weights are to be multiplied by [inputs of a group, groups, 1].
        divisors: What each output's are to be divided by [1, groups, outputs of a group].
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        kernel = node.inputs[1].array
        rows, outputs = kernel.shape[-2:]
        assert isinstance(node.op, Products)
        groups = node.op.channel_groups
        magnitudes = np.abs(kernel.reshape(-1, rows, outputs)).max(axis=0, initial=0)
        self.peaks = magnitudes.astype(np.float64).reshape(rows, groups, outputs // groups)
        self.factors = np.ones((rows, groups, 1))
        self.divisors = np.ones((1, groups, outputs // groups))

    def output_peaks(self) -> Array:
        """Returns the largest weight of each output [outputs]."""
        return np.asarray(self.peaks.max(axis=0, initial=0)).reshape(-1)

    def input_peaks(self) -> Array:
        """Returns the largest weight of each input [inputs]."""
        return np.asarray(self.peaks.max(axis=2, initial=0)).T.reshape(-1)

    def divide_outputs(self, scale: Array) -> None:
        divisors = scale.reshape(self.divisors.shape)
        self.divisors *= divisors
        self.peaks /= divisors

    def multiply_inputs(self, scale: Array) -> None:
        rows, groups, _ = self.factors.shape
        factors = scale.reshape(groups, rows).T[:, :, None]
        self.factors *= factors
        self.peaks *= factors

    def rewrite(self, graph: Graph) -> None:
        """Gives the node the scaled weights and bias, each computed in float64 and rounded once."""
        kernel, *biases = self.node.inputs[1:]
        by_group = kernel.array.astype(np.float64).reshape(-1, *self.peaks.shape)
        scaled = (by_group * self.factors / self.divisors).reshape(kernel.array.shape)
        self.replace(graph, 1, scaled)
        for bias in biases:
            self.replace(graph, 2, bias.array.astype(np.float64) / self.divisors.reshape(-1))

    def replace(self, graph: Graph, index: int, real: Array) -> None:
        old = self.node.inputs[index]
        array = rounded(real, old.type.dtype)
        if array is None:
            raise PassError(
                f"equalize: weights leave {old.type.dtype.value}; put widen-floats before it",
                [self.node.place()],
            )
        if np.array_equal(array, old.array):
            return
        self.node.set_input(index, derived(graph.before(self.node), array, old))
        if old.node is not None and not old.uses:
            graph.erase(old.node)


@dataclass(frozen=True, eq=False)
class _Pair:
    path: LayerPath
    first: _Layer
    second: _Layer

    def equalize(self) -> float:
        """Scales the channels between the layers; returns the largest share of a change."""
        channels = self.path.channels
        written, peaks = self.first.output_peaks(), self.second.input_peaks()
        read = np.zeros_like(written)
        np.maximum.at(read, channels, peaks)
        alive = (written > LEAST_PEAK * written.max(initial=0)) & (
            read > LEAST_PEAK * read.max(initial=0)
        )
        scale = np.ones_like(written)
        scale[alive] = np.sqrt(written[alive] * read[alive]) / read[alive]
        self.first.divide_outputs(scale)
        self.second.multiply_inputs(scale[channels])
        return float(np.max(np.abs(np.log(scale)), initial=0.0))
