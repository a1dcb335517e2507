"""How codes are chosen: for activations from a range, for weights and biases from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qir.errors import QirError
from qir.ir import Value
from qir.numbers.int32 import INT32_MAX
from qir.numbers.interval import Interval
from qir.numbers.long_sums import LONG_MAX
from qir.ops.type_rules import MOST_PRODUCTS
from qir.types import SMALLEST_SCALE, Affine, Array, Code, DType, FrozenArray

LEAST_RATIO = 2.0**-30
"""Least ratio of an accumulator's scale to the output's: a product of two bytes that is scaled by
less is far below half a step."""

LEAST_LONG_RATIO = 2.0**-44
"""The same for products of more bits, summed in i64."""

ZERO_SCALE = 2.0**-16
"""The scale of a range of nothing but 0: so small that a bias in units of it is fine, so large that
what is rounded to it stays in the reach of fixed31."""

ZERO_CHANNEL_RATIO = 2.0**-16
"""The ratio for a channel whose weights are all zero: fine enough for its bias."""

SCORE_MARGIN = 1 / 8
"""Share of their observed range that scores may lie beyond it; it takes a third of a bit."""

FINE_BITS = 12
"""Bits of a fine code: those of the longest table of exponentials and of functions."""

FURTHEST_STEP = 2**14
"""The most steps from 0 that a code for numbers far from 0 reaches."""


def activation_code(
    observed: Interval,
    storage: DType,
    *,
    symmetric: bool = False,
    expressed: DType = DType.F32,
    needs_zero: bool = True,
) -> Affine:
    """Returns the code per tensor that covers a range and represents 0 exactly.

    The range is widened to hold 0, unless nothing needs 0 and that would cost a bit or more.
    Asymmetric: scale = (hi - lo) / (codes - 1), the zero point rounded to the nearest code.
    Symmetric: scale = max(|lo|, |hi|) / half of the codes.

    Args:
        observed: The range in real units, finite.
        storage: An integer type of 8 or 16 bits.
        symmetric: Whether 0 is the middle code.
        expressed: The floating-point type of the values.
        needs_zero: Whether some stored number must mean 0.
    """
    low, high = storage.bounds
    bottom, top = observed.bounds
    if not (needs_zero or symmetric) and max(-bottom, top) >= 2 * (top - bottom) > 0:
        # 2^14 leaves sums of products of such steps room in int32.
        least = max(-bottom, top) / FURTHEST_STEP
        scale = _storable(max((top - bottom) / (high - low), least))
        return Affine.of(storage, scale, int(np.rint(low - bottom / scale)), expressed=expressed)
    lo, hi = min(observed.bounds[0], 0.0), max(observed.bounds[1], 0.0)
    if symmetric:
        middle = (low + high + 1) // 2
        scale = _storable(max(-lo, hi) / (high - middle))
        return Affine.of(storage, scale, middle, expressed=expressed)
    scale = _storable((hi - lo) / (high - low))
    return Affine.of(
        storage, scale, int(np.clip(np.rint(low - lo / scale), low, high)), expressed=expressed
    )


def fine_code(observed: Interval, *, bits: int = FINE_BITS, expressed: DType = DType.F32) -> Affine:
    """Returns a code of a few bits more than 8, stored in i16, that covers a range and holds 0.

    Args:
        observed: The range in real units, finite.
        bits: Bits of the code.
        expressed: The floating-point type of the values.
    """
    lo, hi = min(observed.bounds[0], 0.0), max(observed.bounds[1], 0.0)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = _storable((hi - lo) / (high - low))
    point = int(np.clip(np.rint(low - lo / scale), low, high))
    return Affine.of(DType.I16, scale, point, bounds=(low, high), expressed=expressed)


def score_code(
    observed: Interval, storage: DType | None = None, *, expressed: DType = DType.F32
) -> Affine:
    """Returns the code of scores of softmax, of 12 bits or more, an eighth wider on either side.

    The greatest score of a row decides what all others count. One that lies beyond those of the
    calibration data must not be cut off.

    Args:
        observed: The range in real units, finite.
        storage: The integer type; None for 12 bits.
        expressed: The floating-point type of the values.
    """
    low, high = observed.bounds
    margin = SCORE_MARGIN * (high - low)
    wider = Interval.of(low - margin, high + margin)
    if storage is not None:
        return activation_code(wider, storage, expressed=expressed)
    return fine_code(wider, expressed=expressed)


def _storable(scale: float) -> float:
    """Rounds a scale to float32, never below the least scale."""
    return float(np.float32(max(scale, SMALLEST_SCALE))) if scale > 0 else ZERO_SCALE


def weight_scales(
    weights: Array,
    largest: int,
    *,
    per_channel: bool,
    input_scale: float,
    output_scale: float,
    bias: Array | None,
    reach: int = 255,
    long: bool = False,
) -> Array:
    """Returns the scales of a kernel, raised where the accumulator needs it.

    The scale of a channel is max|w| / (largest step). It is raised where

    - the weights are so small (or all zero) that no product could move the output, and
    - the bias, expressed in accumulator units, would leave too little of int32 for the products.

    Args:
        weights: The kernel; channels along the last axis.
        largest: The greatest step that a stored number means.
        per_channel: Whether each channel gets a scale of its own.
        input_scale: Scale of the activations.
        output_scale: Scale of the result.
        bias: The bias [channels], or None.
        reach: Most steps of an activation from 0.
        long: Whether the accumulator is in i64.

    Returns:
        float64 numbers of the kernel's rank, 1 in all dimensions but the last one, or a scalar.
    """
    columns = weights.reshape(prod(weights.shape[:-1]), weights.shape[-1])
    zero = weights.dtype.type(0)
    tops, bottoms = columns.max(axis=0, initial=zero), columns.min(axis=0, initial=zero)
    peaks = np.maximum(tops.astype(np.float64), -bottoms.astype(np.float64))
    scale = peaks / largest
    least = LEAST_LONG_RATIO if long else LEAST_RATIO
    floor = np.where(peaks > 0, least, ZERO_CHANNEL_RATIO) * output_scale / input_scale
    # Where all channels have one scale, those that are all zero must not coarsen the others.
    scale = np.maximum(scale, floor if per_channel else floor.min(initial=np.inf))
    if bias is not None:
        room = bias_room(weights, largest, reach, long)
        # 2^-20 keeps the bias inside the room after the scale is rounded to float32.
        scale = np.maximum(
            scale, np.abs(bias).astype(np.float64) / (input_scale * room) * (1 + 2.0**-20)
        )
    scale = np.clip(scale, SMALLEST_SCALE, 1 / SMALLEST_SCALE)
    if not per_channel or not scale.size:
        return np.asarray(scale.max(initial=SMALLEST_SCALE))
    return np.asarray(scale.reshape((1,) * (weights.ndim - 1) + (-1,)))


def bias_room(weights: Array, largest: int, reach: int, long: bool = False) -> int:
    """Returns the magnitude, in units of the accumulator, that the products leave to a bias.

    Args:
        weights: The kernel; channels along the last axis.
        largest: The greatest step of its code.
        reach: Most steps of an activation from 0.
        long: Whether the accumulator is in i64.
    """
    products = prod(weights.shape[:-1]) * largest * reach
    if long:
        return LONG_MAX - min(products, LONG_MAX // 2)
    return 2**31 - 1 - min(products, 2**30)


def reach(code: Code) -> int:
    """Returns the most steps from 0 that a code has; raises QirError where it has none."""
    if code.step_bounds is None:
        raise QirError(f"code: {code.without_steps}")
    return max(map(abs, code.step_bounds))


def holds_bias(code: Affine, bias: Array, terms: int, operands: Sequence[Value]) -> bool:
    """Whether a sum has room for a bias beside whatever a dot of two coded operands sums.

    Args:
        code: The code of the bias, i32 or i64.
        bias: Its numbers.
        terms: How many products are summed.
        operands: Both operands.
    """
    products = terms * prod(reach(operand.type.code) for operand in operands)
    largest = np.abs(bias.astype(np.float64) / code.scale.array).max(initial=0)
    return bool(largest + products <= (LONG_MAX if code.storage is DType.I64 else INT32_MAX))


def bias_code(accumulator: Code, channels: int) -> Affine:
    """Returns the code of a bias [channels]: the accumulator's own.

    Raises:
        QirError: Its scale varies by row, so that none holds a bias for all of them.
    """
    if any(count != 1 for count in accumulator.scale.shape[:-1]):
        raise QirError("bias: expected a sum with one scale for all rows; add the bias behind it")
    scale = accumulator.scale.array
    return Affine(
        accumulator.storage,
        FrozenArray(np.broadcast_to(scale.reshape(-1), (channels,)) if scale.ndim else scale),
        expressed=accumulator.expressed,
    )


def sums_long(activations: Code, code: Code, weights: Array) -> bool:
    """Whether products with weights are summed in i64, as the type rule will say.

    Args:
        activations: The code of the activations.
        code: The code of the weights, or one of the same steps.
        weights: The kernel; channels along the last axis.
    """
    if max(activations.storage.bits, code.storage.bits) <= 8:
        return False
    return prod(weights.shape[:-1]) * reach(code) * reach(activations) > MOST_PRODUCTS
