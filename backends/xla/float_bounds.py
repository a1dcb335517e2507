"""How far floats computed in float32 may lie from their value: bounds that follow from the op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from qir.ops import (
    Add,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dot,
    ExpBelowMax,
    ExpBelowMaxHigh,
    ExpBelowMaxLow,
    GroupNorm,
    L2Norm,
    LayerNorm,
    Mean,
    Mul,
    QuantizeDynamic,
    ReduceProd,
    ReduceSum,
    RmsNorm,
    Softmax,
    Sub,
)
from qir.ops.normalization import Normalization
from qir.ops.op import Op
from qir.types import Array, DType, TensorType, known

EPSILON = 2.0**-23
ErrorBound = Callable[[Op, Sequence[Array], Array], Array]


def sum_of_products(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """Terms * eps * sum |x||w|, in whatever order they are added (Higham 2002, section 3.1)."""
    magnitude = np.asarray(op.evaluate(*map(np.abs, operands)))
    return np.asarray((_terms(op, operands, result) + 2) * EPSILON * np.abs(magnitude))


def _terms(op: Op, operands: Sequence[Array], result: Array) -> int:
    """Returns the most numbers that one number of the result is the sum of, a bias left out."""
    if isinstance(op, AvgPool):
        return prod(op.window)
    if isinstance(op, ConvTranspose):
        return operands[1].size
    types = [TensorType(array.shape, DType.F64) for array in (*operands, result)]
    products = known(op.multiply_adds(types[:-1], types[-1]), "terms")
    return max(products, operands[0].size, result.size) // max(result.size, 1)


def scale(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """One rounding, of the quotient; a number and its neighbour may lie on either side of it."""
    return np.asarray(2 * EPSILON * np.abs(result))


def product(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """A rounding for each factor."""
    factors = operands[0].size // max(result.size, 1)
    return np.asarray(factors * EPSILON * np.abs(result))


def softmax(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """The argument's rounding is the power's relative error; the sum adds one for each term."""
    assert isinstance(op, Softmax | ExpBelowMax)
    x = operands[0]
    spread = float(np.ptp(x)) if x.size else 0.0
    terms = prod(x.shape[axis] for axis in op.axes) if isinstance(op, Softmax) else 0
    return np.asarray((2 * spread + terms + 8) * EPSILON * result)


def part_of_exponential(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """What the exponential is off; a step of the high part more where that may round otherwise."""
    assert isinstance(op, ExpBelowMax)
    powers = op.powers(*operands)
    error = softmax(op, operands, powers) + 2 * EPSILON * powers
    from_tie = np.abs(255 * powers - np.floor(255 * powers) - 0.5) / 255
    return np.asarray(np.where(from_tie <= error, error + 1 / 255, error))


def batch_norm(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """Eight roundings, none of a number greater than these."""
    assert isinstance(op, BatchNorm)
    x, gamma, beta, mean, variance = operands
    factor, _ = op.affine(gamma, beta, mean, variance)
    return np.asarray(8 * EPSILON * (np.abs(factor) * (np.abs(x) + np.abs(mean)) + np.abs(beta)))


def normalization(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """Each sum adds a rounding for each term; the root divides what the mean lost of x."""
    assert isinstance(op, Normalization)
    x, *parameters = operands
    axes, root = op.view_axes(x.ndim), op.root(x)
    unit = op.viewed(op.evaluate(x))
    # What a mean of numbers of this size loses, as a part of the root that it is divided by.
    largest = op.viewed(np.abs(x)).max(axis=axes, keepdims=True, initial=0)
    lost = largest / root if op.centred else np.ones_like(root)
    terms = op.count(TensorType(x.shape, DType.F64)) + 16
    bound = (terms * (1 + np.abs(unit)) * (1 + lost)).reshape(x.shape)
    for gamma in parameters[:1]:
        bound = bound * np.abs(gamma)
    for beta in parameters[1:]:
        bound = bound + np.abs(beta)
    return np.asarray(EPSILON * (bound + np.abs(result)))


def few_roundings(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """Sixteen roundings of numbers no greater than the result, the operands or 1."""
    largest = np.abs(result) + 1
    for operand in operands:
        same = operand.shape == result.shape
        largest = largest + (np.abs(operand) if same else np.max(np.abs(operand), initial=0))
    return np.asarray(16 * EPSILON * largest)


BOUNDS: dict[type[Op], ErrorBound] = {
    **dict.fromkeys(
        [Add, AvgPool, Conv, ConvTranspose, Dot, Mean, Mul, ReduceSum], sum_of_products
    ),
    Sub: lambda op, operands, result: sum_of_products(Add(), operands, result),
    ExpBelowMax: softmax,
    **dict.fromkeys([ExpBelowMaxHigh, ExpBelowMaxLow], part_of_exponential),
    Softmax: softmax,
    QuantizeDynamic: scale,
    ReduceProd: product,
    BatchNorm: batch_norm,
    **dict.fromkeys([GroupNorm, L2Norm, LayerNorm, RmsNorm], normalization),
}
"""The ops that more than a few roundings go into."""


ROUNDING = {
    DType.F32: (0.0, 2.0**-125),
    DType.F16: (2.0**-10, 2.0**-23),
    DType.BF16: (2.0**-7, 2.0**-125),
}
"""Relative and absolute error of the rounding to each type, twice where the bound may move it over
a tie; below the normal numbers it may flush to 0."""


def bound_of(op: Op, dtype: DType, operands: Sequence[Array], value: Array) -> Array:
    """Bounds how far a float may lie from its value by the roundings of the op that computes it.

    Args:
        op: The op that computes it in float32.
        dtype: Type that the result is rounded to.
        operands: What the op is applied to, in float64.
        value: What the op computes in float64.

    Returns:
        The greatest distances, in the value's shape.
    """
    relative, absolute = ROUNDING[dtype]
    with np.errstate(all="ignore"):
        own = BOUNDS.get(type(op), few_roundings)(op, operands, value)
        return np.asarray(own + relative * np.abs(value) + absolute)


def near(op: Op, dtype: DType, operands: Sequence[Array], found: Array, value: Array) -> Array:
    """Tells where floats are a value but for the roundings on the way.

    Args:
        op: The op that computes them in float32.
        dtype: Type that the result is rounded to.
        operands: What the op is applied to, in float64.
        found: The floats.
        value: What the op computes in float64.
    """
    wide = found.astype(np.float64)
    with np.errstate(all="ignore"):
        close = np.abs(wide - value) <= bound_of(op, dtype, operands, value)
        rounded = value.astype(dtype.numpy).astype(np.float64)
    good: Array = close | (wide == rounded) | (np.isnan(wide) & np.isnan(rounded))
    return good
