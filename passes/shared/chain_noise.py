"""What rounding costs a chain of layers, measured on a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qir.ir import Value
from qir.numbers.interval import Interval
from qir.ops import Reshape
from qir.ops.op import Op
from qir.passes.shared.bias_correction import lost_by_rounding
from qir.passes.shared.channel_scaling import Scaling
from qir.passes.shared.codes import activation_code
from qir.passes.shared.layer_chains import LayerPath
from qir.passes.shared.weight_codes import WeightCoding
from qir.types import Array, DType, known

HELD_OUT = 4
"""Of so many rows, one is held out to measure on."""

LEAST_ROWS = 16
"""The least rows of which some are held out. The ranges of fewer ones cut off so much of others
that rounding no longer shows."""

_CODING = WeightCoding("i8")


class ChannelsSeen(NamedTuple):
    """What is known of the channels that a layer reads, each array [channels].

    Attributes:
        low: The least number of each.
        high: The greatest.
        means: The mean.
        variances: The variance.
    """

    low: Array
    high: Array
    means: Array
    variances: Array

    @classmethod
    def of(cls, numbers: Array) -> ChannelsSeen:
        """Returns that of numbers [places…, channels]."""
        flat = numbers.reshape(-1, numbers.shape[-1])
        return cls(flat.min(axis=0), flat.max(axis=0), flat.mean(axis=0), flat.var(axis=0))

    def divided(self, factors: Array) -> ChannelsSeen:
        """Returns that of the channels divided by positive factors [channels]."""
        low, high, means = (each / factors for each in self[:3])
        return ChannelsSeen(low, high, means, self.variances / factors**2)


@dataclass(frozen=True, eq=False)
class ChainRows:
    """A chain of layers computed in floating point on a few rows.

    Where there are enough rows, those that are measured on are held out: ranges and means are those
    of the others.

    Args:
        chain: The paths of the chain.
        rows: The rows of what the first layer reads that are measured on.
        seen: For each layer what is known of what it reads.
        output: What the last layer computes of the rows.
        held_out: Whether no range or mean is of these rows.
    """

    chain: tuple[LayerPath, ...]
    rows: Array
    seen: Sequence[ChannelsSeen]
    output: Array
    held_out: bool

    @classmethod
    def computed(
        cls, chain: tuple[LayerPath, ...], rows: Array, extremes: Sequence[tuple[Array, Array]]
    ) -> ChainRows:
        """Computes a chain.

        Args:
            chain: Its paths.
            rows: What its first layer reads, of one row or more.
            extremes: For each layer the least and the greatest numbers of the channels that it
                reads, of all data; they serve where there are too few rows to hold some out.
        """
        inputs = [rows]
        for path in chain:
            weights = [value.array for value in path.first.inputs[1:]]
            inputs.append(_between(path, _computed(path.first.op, inputs[-1], *weights)))
        last = chain[-1].second
        output = _computed(last.op, inputs[-1], *(value.array for value in last.inputs[1:]))
        measured = np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
        if len(rows) >= LEAST_ROWS:
            seen = [ChannelsSeen.of(numbers[~measured]) for numbers in inputs]
            return cls(chain, rows[measured], seen, output[measured], held_out=True)
        seen = [
            ChannelsSeen(low, high, *ChannelsSeen.of(numbers)[2:])
            for numbers, (low, high) in zip(inputs, extremes, strict=True)
        ]
        return cls(chain, rows, seen, output, held_out=False)

    def decibels(self, scaling: Scaling) -> Array:
        """Returns the signal to noise of what the chain computes of each row in codes of 8 bits.

        Weights are rounded by the codes that pass quantize would give them, what layers read by a
        code per tensor, and biases take in what rounding the weights costs on average.

        Args:
            scaling: The chain's layers, whose channels it may scale.
        """
        layers = {layer.node: layer for layer in scaling.layers}
        found, start = self.rows, self.chain[0].first
        for index, seen in enumerate(self.seen):
            node = start
            if index:
                path = self.chain[index - 1]
                node = path.second
                seen = seen.divided(layers[path.first].divisors.ravel()[path.channels])
                found = _between(path, found)
            kernel, *biases = (array.astype(np.float32) for array in layers[node].scaled())
            code = _CODING.for_floats(kernel)
            rounded = np.asarray(code.decode(code.encode(kernel)), np.float32)
            lost = lost_by_rounding(node.op, kernel, rounded, seen.means, seen.variances)
            if lost is not None:
                biases = [np.asarray(sum(biases) + lost, np.float32)]
            activations = activation_code(Interval.of(seen.low.min(), seen.high.max()), DType.I8)
            x = np.asarray(activations.decode(activations.encode(found)), np.float32)
            found = _computed(node.op, x, rounded, *biases)
        wanted = self.output.astype(np.float64)
        axes = tuple(range(1, wanted.ndim))
        noise, power = (np.square(each).sum(axis=axes) for each in (wanted - found, wanted))
        tiny = np.finfo(np.float64).tiny
        return np.asarray(10 * np.log10(np.maximum(power, tiny) / np.maximum(noise, tiny)))


def _computed(op: Op, *arrays: Array) -> Array:
    return np.asarray(op.evaluate(*arrays))


def _between(path: LayerPath, numbers: Array) -> Array:
    """Computes what lies between two layers on some rows."""
    for value in reversed(path.values[:-1]):
        numbers = _moved(value, numbers)
    return numbers


def _moved(value: Value, numbers: Array) -> Array:
    assert value.op is not None
    if isinstance(value.op, Reshape):  # which names as many rows as a batch has
        sizes = (known(size, "equalize") for size in value.type.shape[1:])
        return numbers.reshape(len(numbers), *sizes)
    return _computed(value.op, numbers)
