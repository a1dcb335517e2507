"""Scales that are found at run time, from the numbers that they are for.

A scale is a quotient rounded once to float32, and numbers are multiplied by its reciprocal rounded
once to float32, both to nearest even. Machines divide otherwise: XLA multiplies by a reciprocal,
CUDA is off by two units in the last place. Both quotients are therefore formed there of integers,
`backends/xla/dynamic_scale.py`, whose bits are these.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qir.types import SMALLEST_SCALE, Array

LARGEST_FLOAT = np.finfo(np.float32).max
"""What stands for an infinity: the greatest finite float32."""

ONNX_STEPS = 255
"""The steps of DynamicQuantizeLinear, which has stored numbers of u8."""

ONNX_SMALLEST_SCALE = np.finfo(np.float32).tiny
"""The least normal float32: XLA on CPU flushes what is below it."""


def symmetric_scale(x: Array, axes: tuple[int, ...], largest: int) -> NDArray[np.float32]:
    """Returns the scales with which the number of the greatest magnitude is the largest step.

    `max|x| / largest`, no less than 2^-125 and no more than 2^125, as the scales of codes
    (constraint C7): numbers of 0, and such as are denormal, have the scale 2^-125 and no step. NaN
    counts as 0, an infinity as the greatest finite number.

    Args:
        x: Numbers, float32.
        axes: The axes that share a scale.
        largest: The largest step, in [1, 2^15).

    Returns:
        The scales, in x's rank: 1 along the axes.
    """
    peaks = np.abs(_finite(x)).max(axis=axes, keepdims=True, initial=0)
    bounds = np.float32(SMALLEST_SCALE), np.float32(1 / SMALLEST_SCALE)
    return np.asarray(np.clip(peaks / np.float32(largest), *bounds), np.float32)


def symmetric_steps(x: Array, scale: Array, largest: int) -> Array:
    """Returns `clamp(rne(x * float32(1 / scale)), -largest, largest)`, whole float32 numbers.

    So does `Affine.encode` of a code with this scale; NaN is 0.

    Args:
        x: Numbers, float32.
        scale: Scales as of `symmetric_scale`, which broadcast.
        largest: The largest step.
    """
    inverse = (1.0 / scale.astype(np.float64)).astype(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        steps = np.rint(x * inverse)
    steps = np.where(np.isnan(steps), np.float32(0), steps)
    return np.clip(steps, np.float32(-largest), np.float32(largest))


def onnx_quantization(x: Array) -> tuple[Array, Array, Array]:
    """Returns stored numbers, scale and zero point of ONNX's DynamicQuantizeLinear.

    With low = min(0, min x) and high = max(0, max x), in float32:

        scale = (high - low) / 255, or 1 where that is 0
        zero point = rne(clamp(0 - low / scale, 0, 255))
        stored = clamp(rne(x / scale) + zero point, 0, 255)

    ONNX is silent of some numbers: NaN counts as 0, an infinity as the greatest finite number,
    denormal ends of the range as 0; the range is at most the greatest finite number, and the scale
    no less than 2^-126.

    Args:
        x: Numbers, float32.

    Returns:
        u8 of x's shape, float32 scalar, u8 scalar.
    """
    finite, steps = _finite(x), np.float32(ONNX_STEPS)
    low, high = (
        np.where(np.abs(end) < ONNX_SMALLEST_SCALE, np.float32(0), end)
        for end in (finite.min(initial=0), finite.max(initial=0))
    )
    with np.errstate(over="ignore"):
        span = np.minimum(high - low, LARGEST_FLOAT)
    scale = np.maximum(span / steps, ONNX_SMALLEST_SCALE) if span else np.float32(1)
    point = np.rint(np.clip(0 - low / scale, 0, steps))
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.rint(x / scale)
    stored = np.clip(np.where(np.isnan(whole), 0, whole) + point, 0, steps)
    return stored.astype(np.uint8), np.asarray(scale, np.float32), point.astype(np.uint8)


def _finite(x: Array) -> NDArray[np.float32]:
    """Returns numbers with 0 for NaN and the greatest finite number for infinities."""
    greatest = float(LARGEST_FLOAT)
    found = np.nan_to_num(np.asarray(x, np.float32), nan=0.0, posinf=greatest, neginf=-greatest)
    return np.asarray(found, np.float32)
