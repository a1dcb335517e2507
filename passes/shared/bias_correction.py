"""What the bias of a sum of products takes in of the error that rounding its weights makes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from qir.ir import Node, Value
from qir.observe.channels import ChannelMoments
from qir.ops import Conv, ConvTranspose, Dot
from qir.ops.op import Op
from qir.ops.rules import Accumulate
from qir.passes.shared.codes import bias_room, reach, sums_long
from qir.passes.shared.observed_parts import known_moments
from qir.pipeline import Context
from qir.types import Affine, Array, Code, expand, known

LEAST_SHARE = 0.1
"""The least ratio of the mean of the error, squared, to its variance that is worth a bias. A mean
over n samples of numbers around 0 has about 1/n, which is chance."""

_OUTPUTS = 64
"""Outputs of a product whose errors are summed at a time."""


def corrected_bias(
    node: Node, rule: Accumulate, activations: Value, right: Value, context: Context
) -> Array | None:
    """Returns the bias of a sum of products with what rounding its weights costs on average.

    Without observed moments, numbers far from zero beside their width are known well enough.

    Args:
        node: The sum in the float program.
        rule: Its quantization rule.
        activations: The coded activations.
        right: The coded weights.
        context: What calibrate observed.

    Returns:
        Real numbers [outputs], for which the accumulator has room; None where no weights are
        rounded, where nothing is known of x, or where a bias would not help.
    """
    x, kernel = node.inputs[rule.left], node.inputs[rule.right]
    code, weights = activations.type.quant, right.type.quant
    if not kernel.is_constant or code is None or weights is None:
        return None
    moments = known_moments(x, context)
    if moments is None and x.range is not None and not code.holds_zero:
        moments = ChannelMoments.even(*x.range.bounds, known(x.type.shape[-1], "quantize"))
    if moments is None:
        return None
    means = moments.means if x.range is None else moments.means.clip(*x.range.bounds)
    lost = lost_by_rounding(
        node.op, kernel.array, _rounded(right.array, weights), means, moments.variances
    )
    if lost is None:
        return None
    long = sums_long(code, weights, kernel.array)
    largest = weights.step_bounds[1] if weights.step_bounds else weights.storage.bounds[1]
    room = bias_room(kernel.array, largest, max(reach(code), 255), long)
    scales = weights.scale.array.reshape(-1).astype(np.float64) * float(code.scale.array)
    bias = node.inputs[rule.bias].array if len(node.inputs) > rule.bias else None
    return added_within(lost, bias, room * scales)


def lost_by_rounding(
    op: Op,
    weights: Array,
    rounded: Array | Callable[[slice], Array],
    means: Array,
    variances: Array,
) -> Array | None:
    """Returns what the outputs of a sum of products lose on average as its weights are rounded.

    Empirical bias correction, arXiv:1906.04721, section 4.2: the error (W - Wq) x has the mean
    (W - Wq) E[x], which is the same for all data but for that of x and so belongs in the bias. The
    padding of a convolution counts as x does; the zeros that conv_transpose inserts count as 0.

    Args:
        op: The product.
        weights: The kernel [taps…, channels / groups, outputs].
        rounded: The real numbers that its codes mean, or what returns those of some outputs: of
            all of them they take as much memory as the weights.
        means: The mean of each channel of x [channels].
        variances: The variance, likewise.

    Returns:
        Real numbers, float64 [outputs]; None where the product has no one bias for them, or where
        they are small beside what remains.
    """
    if not isinstance(op, Conv | ConvTranspose | Dot) or (isinstance(op, Dot) and op.batch):
        return None
    if not weights.size:
        return None
    groups = 1 if isinstance(op, Dot) else op.groups
    taps, outputs = prod(weights.shape[:-2]), weights.shape[-1]

    def met(channels: Array) -> Array:
        """Returns numbers of the channels that each term has [groups, 1, terms]."""
        each = channels.astype(np.float32).reshape(groups, 1, -1)
        return np.tile(each, taps)

    centres, spreads = met(means), met(variances)
    losses: list[Array] = []
    left: list[Array] = []
    # A product of more numbers wakes threads, which takes ten times as long as the sum.
    step = _OUTPUTS if groups == 1 else outputs
    for part in (slice(first, first + step) for first in range(0, outputs, step)):
        # [groups, terms, outputs / groups], in float32: the differences lose nothing to it.
        known = rounded(part) if callable(rounded) else rounded[..., part]
        errors = np.subtract(weights[..., part], known, dtype=np.float32)
        errors = np.moveaxis(errors.reshape(taps * weights.shape[-2], groups, -1), 1, 0)
        losses.append(np.matmul(centres, errors).reshape(-1))
        squares = np.square(errors, out=errors)
        left.append(np.einsum("git,gto->go", spreads, squares).reshape(-1))
    lost = np.concatenate(losses).astype(np.float64)
    remaining = float(np.concatenate(left).sum(dtype=np.float64))
    if isinstance(op, ConvTranspose):
        there = 1 / prod(op.strides)
        lost, remaining = lost * there, remaining * there
    return np.asarray(lost) if np.square(lost).sum() > LEAST_SHARE * remaining else None


def _rounded(stored: Array, code: Code) -> Callable[[slice], Array]:
    """Returns what gives the numbers of some outputs that weights mean, as `Code.decode`."""
    if not isinstance(code, Affine) or code.multipliers is not None or np.any(code.zero_points):
        real = code.decode(stored)
        return lambda part: real[..., part]
    scales = np.broadcast_to(expand(code.scale.array, stored.shape), stored.shape)
    return lambda part: np.multiply(stored[..., part], scales[..., part], dtype=np.float32)


def added_within(correction: Array, bias: Array | None, limit: Array) -> Array:
    """Adds a correction to a bias, which grows no larger than a limit, or than it was.

    Args:
        correction: What to add [outputs].
        bias: The bias [outputs], or None.
        limit: The magnitude for which the accumulator has room [outputs], or of all [1].
    """
    own = np.zeros_like(correction) if bias is None else bias.astype(np.float64)
    most = np.maximum(limit, np.abs(own))
    return np.asarray(np.clip(own + correction, -most, most))
