"""Which factors of channels make the codes of activations and weights lose the least together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qir.ir import Node
from qir.observe.channels import ChannelStatistic
from qir.ops.products import Products
from qir.passes.shared.partial_sums import decibels, step
from qir.types import Array

STRENGTHS = (0.5, 1.0)
"""Powers of a channel's size by which it is divided."""

LEAST_FACTOR = 2.0**-8
"""A channel that is smaller than this is divided by this: no weight need vanish for it."""

_LARGEST_WEIGHT = 127


@dataclass(frozen=True, eq=False)
class ChannelWeights:
    """The weights of a sum of products, by the channels that they meet.

    Attributes:
        weights: The numbers, float32 or wider [taps, rows, groups, outputs of a group].
    """

    weights: Array

    @classmethod
    def of(cls, node: Node) -> ChannelWeights:
        """Returns that of a node whose second operand is a constant."""
        assert isinstance(node.op, Products)
        kernel, groups = node.inputs[1].array, node.op.channel_groups
        rows, outputs = kernel.shape[-2:]
        return cls(kernel.reshape(-1, rows, groups, outputs // groups))

    @property
    def peaks(self) -> Array:
        """The largest magnitude that meets each channel [channels]."""
        return np.asarray(np.abs(self.weights).max(axis=(0, 3), initial=0).T.reshape(-1))

    def spread(self, channels: Array) -> Array:
        """Returns numbers of channels beside the weights that they meet [rows, groups, 1]."""
        rows, groups = self.weights.shape[1:3]
        return channels.reshape(groups, rows).T[:, :, None]

    def times(self, factors: Array) -> ChannelWeights:
        """Returns the product whose weights are multiplied by a factor for each channel."""
        return ChannelWeights(self.weights * self.spread(factors))

    def predicted_error(self, step: float, mean_squares: Array, clipped: Array) -> float:
        """Predicts the squared error on codes, summed over the outputs.

        As `qir.passes.shared.partial_sums.predicted_error`, and what clipping adds.

        Args:
            step: Step of the activations' code.
            mean_squares: Mean square of each channel [channels].
            clipped: Mean square of what of each channel lies beyond the code, likewise.
        """
        squares = np.square(self.weights, dtype=np.float64)
        of_clipping = float((squares * self.spread(clipped)).sum())
        of_activations = step**2 * float(squares.sum())
        peaks = np.abs(self.weights).max(axis=(0, 1), initial=0).astype(np.float64)
        met = self.spread(mean_squares).sum(axis=0) * len(self.weights)
        of_weights = float((np.square(peaks / _LARGEST_WEIGHT) * met).sum())
        return (of_activations + of_weights) / 12 + of_clipping


def choose_factors(
    products: Sequence[ChannelWeights],
    statistic: ChannelStatistic,
    share: float,
    alpha: float | None,
    tied: Callable[[Array], Array] = lambda factors: factors,
    *,
    has_tails: bool = False,
) -> tuple[Array, float]:
    """Returns a factor for each channel, and by how many decibels the predicted error falls.

    Of products that read the same value each counts by the share of its error that is left.

    Args:
        products: The products.
        statistic: The channels of the value, the last axis.
        share: The share of its largest magnitude, in powers, in the size of a channel.
        alpha: Exponent of max|x|; that of the weights is the rest of 1. None takes the power of the
            channel's size that is predicted to lose the least.
        tied: Makes those factors equal that have to be.
        has_tails: Whether other data is to be expected beyond the extremes, as `beyond` has it.
    """
    low, high = (bounds.astype(np.float64) for bounds in (statistic.minimum, statistic.maximum))
    peaks, mean_squares = (
        each.astype(np.float64) for each in (statistic.peaks, statistic.mean_square)
    )
    best, gain = np.ones(peaks.shape), 0.0
    if not peaks.max(initial=0.0) > 0:
        return best, gain

    def of_paper(alpha: float) -> Array:
        weights = np.max([product.peaks for product in products], axis=0).astype(np.float64)
        weights[weights == 0] = weights.max()
        return np.asarray(peaks**alpha / np.maximum(weights, 1e-30) ** (1 - alpha))

    if alpha is None:
        sizes = peaks**share * mean_squares ** ((1 - share) / 2)
        tried = [sizes**strength for strength in STRENGTHS]
    else:
        tried, gain = [of_paper(alpha)], -np.inf

    def clipped(factors: Array) -> Array:
        if not has_tails:
            return np.zeros(peaks.shape)
        ends = (-low, -(low / factors).min()), (high, (high / factors).max())
        lost = [beyond(end, most * factors, statistic.count) for end, most in ends]
        return np.asarray(lost[0] + lost[1])

    whole = step(low.min(), high.max())
    now = clipped(best)
    before = [product.predicted_error(whole, mean_squares, now) for product in products]
    for sizes in tried:
        if not sizes.max() > 0:
            continue
        factors = tied(np.maximum(sizes / sizes.max(), LEAST_FACTOR))
        narrowed = step((low / factors).min(), (high / factors).max())
        squares = factors**2
        then = clipped(factors) / squares
        left = [
            product.times(factors).predicted_error(narrowed, mean_squares / squares, then)
            for product in products
        ]
        pairs = [(most, rest) for most, rest in zip(before, left, strict=True) if most > 0]
        found = decibels(len(pairs), sum(rest / most for most, rest in pairs)) if pairs else 0.0
        if found > gain:
            best, gain = factors, found
    return best, gain


def beyond(extremes: Array, ends: Array, count: int) -> Array:
    """Returns the mean square of what other data of channels has beyond the ends of a code.

    Of tails that fall as exp(-x / b), the greatest of n numbers is near b ln n, and a further one
    exceeds it once in n + 1 times, by sqrt(2) b in the root mean square.

    Args:
        extremes: How far each channel was seen to reach in one direction [channels].
        ends: How far the code lets it, at least as far [channels].
        count: How many numbers of each channel were seen.
    """
    reach = np.maximum(extremes, 0.0)
    scale = reach / np.log(count + 1)
    room = np.divide(ends - reach, scale, out=np.zeros(reach.shape), where=scale > 0)
    return np.asarray(2 * np.square(scale) / (count + 1) * np.exp(-np.maximum(room, 0.0)))
