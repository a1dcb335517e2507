"""Real numbers to stored ones: the modes of op quantize, whose sources differ on ties.

A mode computes in float32 as its source does, saturates at the bounds of the code, takes NaN to the
zero point, saturated too, and gives stored numbers back that were decoded. It is monotone, so that
the float32 numbers at which the stored number grows by one say all about it. A backend that
compares with these `thresholds` is exact, whatever it makes of divisions and of multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError, did_you_mean
from qir.types import Affine, Array, expand

QuantizeMode: TypeAlias = Callable[[Array, Affine], Array]
"""From an array of real numbers and an affine code of at most 16 bits to the stored numbers."""

QUANTIZE_MODES: dict[str, QuantizeMode] = {}
"""Every mode by the name that programs carry."""


def register_quantize_mode(name: str) -> Callable[[QuantizeMode], QuantizeMode]:
    """Declares a mode of op quantize.

    Args:
        name: The name in the text, snake_case.

    Raises:
        QirError: The name is taken, or none that a text can hold.
    """

    def declare(mode: QuantizeMode) -> QuantizeMode:
        if not (name.isidentifier() and name.isascii()):
            raise QirError(f"quantize: expected a name of letters, digits and '_', got '{name}'")
        if name in QUANTIZE_MODES:
            raise QirError(f"quantize: rounding '{name}' is already declared")
        QUANTIZE_MODES[name] = mode
        return mode

    return declare


def quantize_mode(name: str) -> QuantizeMode:
    """Looks up a mode of op quantize.

    Raises:
        QirError: There is no such mode; the message gives the nearest name.
    """
    mode = QUANTIZE_MODES.get(name)
    if mode is None:
        known, nearest = " or ".join(QUANTIZE_MODES), did_you_mean(name, QUANTIZE_MODES)
        raise QirError(f"quantize: expected rounding {known}, got '{name}'{nearest}")
    return mode


@register_quantize_mode("reciprocal")
def reciprocal(real: Array, code: Affine) -> Array:
    """Returns `clamp(rne(x * float32(1 / scale)) + zp)`: QIR's own, and PyTorch's fake-quantize.

    PT2E graphs hold it too, as `quantized_decomposed.quantize_per_tensor`.
    """
    return code.encode(real)


@register_quantize_mode("divide")
def divide(real: Array, code: Affine) -> Array:
    """Returns `clamp(rne(x / scale) + zp)`, a float32 division: QuantizeLinear of ONNX."""
    return _stored(np.rint(_quotient(real, code)), code)


@register_quantize_mode("half_away")
def half_away(real: Array, code: Affine) -> Array:
    """Returns `clamp(round(x / scale) + zp)` with C's round, ties away from zero.

    The reference kernel of TFLite's QUANTIZE, `reference_ops::AffineQuantize`.
    """
    quotient = _quotient(real, code)
    whole = np.trunc(quotient)
    with np.errstate(invalid="ignore"):
        away = np.abs(quotient - whole) >= 0.5
    return _stored(whole + np.where(away, np.copysign(np.float32(1), quotient), 0), code)


@register_quantize_mode("zero_point_first")
def zero_point_first(real: Array, code: Affine) -> Array:
    """Returns `clamp(rne(fma(x, float32(1 / scale), zp)))`: `torch.quantize_per_tensor`.

    The multiply-add rounds to float32 once, before rne. An odd zero point turns ties round.
    StableHLO's uniform_quantize adds the zero point first as well, but to a quotient.
    """
    x = np.asarray(real, np.float32)
    points = expand(code.zero_points, x.shape)
    sums = fused_multiply_add(x, expand(code.inverse_scale, x.shape), points)
    return _stored(np.rint(sums).astype(np.float64) - points, code)


def fused_multiply_add(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> NDArray[np.float32]:
    """Returns float32 `a * b + c`, rounded once, to nearest even.

    The product of two float32 numbers is exact in float64. The sum is rounded to odd there, which
    keeps it off the ties of float32 that it is not at.

    Args:
        a: Numbers that float32 holds.
        b: Likewise; the arrays broadcast.
        c: Likewise.
    """
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)
        even = (np.asarray(total).view(np.int64) & 1) == 0
        inexact = np.isfinite(total) & (error != 0)
        odd = np.where(inexact & even, np.nextafter(total, np.copysign(np.inf, error)), total)
        return odd.astype(np.float32)


def ordered(x: NDArray[np.float32]) -> NDArray[np.int32]:
    """Returns int32 numbers in the order of float32 ones, -0.0 before 0.0 and denormals apart."""
    bits = np.ascontiguousarray(x).view(np.int32)
    return np.where(bits < 0, bits ^ np.int32(2**31 - 1), bits)


def in_order(places: NDArray[np.int32]) -> NDArray[np.float32]:
    """Returns the float32 numbers of places in their order; the inverse of `ordered`."""
    return np.where(places < 0, places ^ np.int32(2**31 - 1), places).view(np.float32)


def thresholds(rounding: str, code: Affine) -> NDArray[np.int32]:
    """Returns the least float32 number that a mode takes to each stored number but the least.

    They are found by bisection over the mode itself.

    Args:
        rounding: The name of the mode.
        code: An affine code of at most 16 bits.

    Returns:
        Places in the order of float32 numbers, as `ordered` gives them, of shape [scales, stored
        numbers - 1]. The scales are in row-major order.
    """
    mode, (low, high) = quantize_mode(rounding), code.range
    scales = code.scale.array.reshape(-1, 1)
    points = np.broadcast_to(code.zero_points.reshape(-1, 1), scales.shape)
    rows = Affine.of(code.storage, scales, points if scales.size > 1 else int(points[0, 0]))
    rows = Affine(rows.storage, rows.scale, rows.zero_point, code.bounds)
    wanted = np.broadcast_to(np.arange(low + 1, high + 1), (scales.size, high - low))
    ends = ordered(np.array([-np.inf, np.inf], np.float32)).astype(np.int64)
    below, reached = (np.full(wanted.shape, end) for end in ends)
    while np.any(reached - below > 1):
        middle = (below + reached) >> 1
        enough = mode(in_order(middle.astype(np.int32)), rows) >= wanted
        below, reached = np.where(enough, below, middle), np.where(enough, middle, reached)
    return reached.astype(np.int32)


def _quotient(real: Array, code: Affine) -> Array:
    x = np.asarray(real, np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(x / expand(code.scale.array, x.shape))


def _stored(steps: Array, code: Affine) -> Array:
    """Adds zero points to whole numbers and saturates; NaN becomes the zero point, saturated."""
    points = expand(code.zero_points, steps.shape).astype(np.float64)
    low, high = code.range
    wide = np.where(np.isnan(steps), 0, steps.astype(np.float64))
    return np.clip(wide + points, low, high).astype(code.storage.numpy)
