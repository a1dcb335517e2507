"""What the bias of a sum of products takes in of the error that rounding its weights makes."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from qir.ops import Conv, ConvTranspose, Dot
from qir.ops.op import Op
from qir.types import Array


def lost_by_rounding(op: Op, weights: Array, rounded: Array, means: Array) -> Array | None:
    """Returns what the outputs of a sum of products lose on average as its weights are rounded.

    Empirical bias correction, arXiv:1906.04721, section 4.2: the error (W - Wq) x has the mean
    (W - Wq) E[x], which is the same for all data but for that of x and so belongs in the bias. The
    padding of a convolution counts as x does; the zeros that conv_transpose inserts count as 0.

    Args:
        op: The product.
        weights: The kernel [taps…, channels / groups, outputs].
        rounded: The real numbers that its codes mean, likewise.
        means: The mean of each channel of x [channels], or of all [].

    Returns:
        Real numbers, float64 [outputs]; None where the product has no one bias for them.
    """
    if not isinstance(op, Conv | ConvTranspose | Dot) or (isinstance(op, Dot) and op.batch):
        return None
    groups = 1 if isinstance(op, Dot) else op.groups
    channels, outputs = weights.shape[-2:]
    taps = range(weights.ndim - 2)
    lost = (weights.astype(np.float64) - rounded.astype(np.float64)).sum(axis=tuple(taps))
    grouped = np.broadcast_to(means, (groups * channels,)).astype(np.float64)
    met = np.repeat(grouped.reshape(groups, channels), outputs // groups, axis=0)
    if isinstance(op, ConvTranspose):
        met = met / prod(op.strides)
    return np.asarray(np.einsum("co,oc->o", lost, met))


def within(correction: Array, bias: Array | None, limit: NDArray[np.float64]) -> Array:
    """Returns a bias with a correction, of magnitudes up to a limit, or its own where greater.

    Args:
        correction: What to add [outputs].
        bias: The bias [outputs], or None.
        limit: What the accumulator has room for [outputs], above 0.
    """
    own = np.zeros_like(correction) if bias is None else bias.astype(np.float64)
    most = np.maximum(limit, np.abs(own))
    return np.clip(own + correction, -most, most)
