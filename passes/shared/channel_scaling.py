"""Factors for the channels between layers: the weights of both, rescaled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qir.errors import PassError
from qir.ir import Graph, Node
from qir.ops.products import Products
from qir.passes.shared.constants import derived, rounded
from qir.passes.shared.layer_chains import LayerPath, chains, find_pair
from qir.types import Array, DType

SETTLED = 1e-6
"""A round that changes no scale by more than this share is the last one."""

MOST_WEIGHTS = 2**22
"""The most weights of a chain of layers that is tried: 32 MB in float64."""

BLOCK = 2**18
"""Weights whose magnitudes are looked at together: 2 MB of them."""

LEAST_PEAK = 2.0**-16
"""Channels whose weights are smaller than this share of the layer's largest are left alone: they
compute nothing, and scaling them up would blow up what their biases add."""

LEAST_SPREAD = 0.25
"""The least standard deviation of the logarithms of a pair's factors, in octaves. Where it is less,
as between layers of random weights, the channels are even."""


class ScaledLayer:
    """A layer's weights and what they are scaled by.

    Their magnitudes are looked at a few rows at a time: of all layers they would take twice the
    memory of the weights.

    Args:
        node: The layer.

    Attributes:
        factors: What each input's weights are to be multiplied by [inputs of a group, groups, 1].
        divisors: What each output's are to be divided by [1, groups, outputs of a group].
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        kernel = node.inputs[1].array
        rows, outputs = kernel.shape[-2:]
        assert isinstance(node.op, Products)
        groups = node.op.channel_groups
        self._taps = kernel.reshape(-1, rows, outputs)
        self.factors = np.ones((rows, groups, 1))
        self.divisors = np.ones((1, groups, outputs // groups))

    def output_peaks(self) -> Array:
        """Returns the largest weight of each output [outputs]."""
        found = np.zeros(self.divisors.shape[1:])
        for block in self._magnitudes():
            np.maximum(found, block.max(axis=0, initial=0), out=found)
        return found.reshape(-1)

    def input_peaks(self) -> Array:
        """Returns the largest weight of each input [inputs]."""
        found = [block.max(axis=2, initial=0) for block in self._magnitudes()]
        return np.concatenate(found).T.reshape(-1)

    def _magnitudes(self) -> Iterator[Array]:
        """Yields the scaled magnitudes of some rows, float64 [rows, groups, outputs of a group]."""
        _, rows, outputs = self._taps.shape
        _, groups, each = self.divisors.shape
        step = max(1, BLOCK // max(1, outputs))
        for first in range(0, max(rows, 1), step):
            taps = self._taps[:, first : first + step]
            largest = np.maximum(taps.max(axis=0, initial=0), -taps.min(axis=0, initial=0))
            magnitudes = largest.astype(np.float64).reshape(-1, groups, each)
            yield magnitudes * self.factors[first : first + step] / self.divisors

    def divide_outputs(self, scale: Array) -> None:
        """Divides the weights of each output by a number [outputs]."""
        self.divisors *= scale.reshape(self.divisors.shape)

    def multiply_inputs(self, scale: Array) -> None:
        """Multiplies the weights of each input by a number [inputs]."""
        rows, groups, _ = self.factors.shape
        self.factors *= scale.reshape(groups, rows).T[:, :, None]

    def scaled(self) -> list[Array]:
        """Returns the scaled kernel, and the bias where there is one, in float64."""
        kernel, *biases = (value.array.astype(np.float64) for value in self.node.inputs[1:])
        shape = len(self.factors), *self.divisors.shape[1:]
        by_group = kernel.reshape(-1, *shape) * self.factors / self.divisors
        return [by_group.reshape(kernel.shape), *(each / self.divisors.ravel() for each in biases)]

    def rewrite(self, graph: Graph) -> None:
        """Gives the node the scaled weights and bias, each rounded once.

        Raises:
            PassError: They leave their type.
        """
        for index, real in enumerate(self.scaled(), 1):
            self._replace(graph, index, real)

    def _replace(self, graph: Graph, index: int, real: Array) -> None:
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
class Pair:
    """Two layers, and what lies between them.

    Args:
        path: The values between.
        first: The layer that computes the channels.
        second: The layer that reads them.
    """

    path: LayerPath
    first: ScaledLayer
    second: ScaledLayer

    @property
    def is_scaled(self) -> bool:
        """Whether the channels between are to be scaled."""
        return bool(np.any(self.first.divisors != 1))

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


@dataclass(frozen=True, eq=False)
class Scaling:
    """The layers of some paths, and the pairs that they are.

    Args:
        layers: The layers.
        pairs: The pairs.
    """

    layers: Sequence[ScaledLayer]
    pairs: Sequence[Pair]

    @classmethod
    def of(cls, paths: Iterable[LayerPath]) -> Scaling:
        """Returns that of paths, with factors of 1."""
        layers: dict[Node, ScaledLayer] = {}
        pairs: list[Pair] = []
        for path in paths:
            for node in (path.first, path.second):
                if node not in layers:
                    layers[node] = ScaledLayer(node)
            pairs.append(Pair(path, layers[path.first], layers[path.second]))
        return cls(list(layers.values()), pairs)

    @property
    def spread(self) -> float:
        """The greatest standard deviation of the logarithms of a pair's factors, in octaves."""
        divisors = [pair.first.divisors for pair in self.pairs]
        return max((float(np.std(np.log2(each))) for each in divisors if each.size), default=0.0)

    def settle(self, most: int) -> int:
        """Equalizes pairs until nothing changes; returns how many rounds over all it took.

        Args:
            most: The most rounds.
        """
        rounds = 0
        while self.pairs and rounds < most:
            rounds += 1
            if max([pair.equalize() for pair in self.pairs]) <= SETTLED:
                break
        return rounds


def uneven_chains(graph: Graph) -> list[tuple[LayerPath, ...]]:
    """Returns the chains of layers for which it may matter whether they are equalized.

    They are those that can be computed on a few rows of what they read, and whose weights are few
    enough for copies of them, as they are and scaled, to take little memory.

    Args:
        graph: The program, whose regions are left alone.
    """
    found = [find_pair(node) for node in graph.nodes]
    paths = [path for path in found if isinstance(path, LayerPath) and path.is_by_rows]
    uneven = []
    for chain in chains(paths):
        scaling = Scaling.of(chain)
        if sum(layer.node.inputs[1].array.size for layer in scaling.layers) > MOST_WEIGHTS:
            continue
        scaling.settle(1)
        if chain[-1].second.output.type.dtype is DType.F32 and scaling.spread >= LEAST_SPREAD:
            uneven.append(chain)
    return uneven
