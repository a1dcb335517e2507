"""How far floats computed in float32 may lie from their value: bounds that follow from the op."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qir.op import Op
from qir.ops import (
    Add,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dot,
    Mean,
    Mul,
    ReduceProd,
    ReduceSum,
    Softmax,
    Sub,
)
from qir.types import Array, DType

EPSILON = 2.0**-23
Bound = Callable[[Op, Sequence[Array], Array], Array]


def sum_of_products(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """n * eps * sum |x||w|, in whatever order the n terms are added (Higham 2002, section 3.1)."""
    terms = max(operand.size for operand in operands) + 2
    magnitude = np.asarray(op.evaluate(*map(np.abs, operands)))
    return np.asarray(terms * EPSILON * np.abs(magnitude))


def product(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """A rounding for each factor."""
    return np.asarray(operands[0].size * EPSILON * np.abs(result))


def softmax(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """The argument's rounding is the power's relative error; the sum adds one for each term."""
    (x,) = operands
    spread = float(np.ptp(x)) if x.size else 0.0
    return np.asarray((2 * spread + x.size + 8) * EPSILON * result)


def batch_norm(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """Eight roundings, none of a number greater than these."""
    assert isinstance(op, BatchNorm)
    x, gamma, beta, mean, variance = operands
    factor, _ = op.affine(gamma, beta, mean, variance)
    return np.asarray(8 * EPSILON * (np.abs(factor) * (np.abs(x) + np.abs(mean)) + np.abs(beta)))


def few_roundings(op: Op, operands: Sequence[Array], result: Array) -> Array:
    """Sixteen roundings of numbers no greater than the result, the operands or 1."""
    largest = np.abs(result) + 1
    for operand in operands:
        same = operand.shape == result.shape
        largest = largest + (np.abs(operand) if same else np.max(np.abs(operand), initial=0))
    return np.asarray(16 * EPSILON * largest)


BOUNDS: dict[type[Op], Bound] = {
    **dict.fromkeys(
        [Add, AvgPool, Conv, ConvTranspose, Dot, Mean, Mul, ReduceSum], sum_of_products
    ),
    Sub: lambda op, operands, result: sum_of_products(Add(), operands, result),
    Softmax: softmax,
    ReduceProd: product,
    BatchNorm: batch_norm,
}
"""The ops that more than a few roundings go into."""


ROUNDING = {
    DType.F32: (0.0, 2.0**-125),
    DType.F16: (2.0**-10, 2.0**-23),
    DType.BF16: (2.0**-7, 2.0**-125),
}
"""Relative and absolute error of the rounding to each type, twice where the bound may move it over
a tie; below the normal numbers it may flush to 0."""


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
        bound = BOUNDS.get(type(op), few_roundings)(op, operands, value)
        relative, absolute = ROUNDING[dtype]
        bound = bound + relative * np.abs(value) + absolute
        close = np.abs(wide - value) <= bound
        rounded = value.astype(dtype.numpy).astype(np.float64)
    good: Array = close | (wide == rounded) | (np.isnan(wide) & np.isnan(rounded))
    return good
