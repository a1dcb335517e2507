"""raise-affines: per-channel affines become one mul and one add by constants, or part of a norm."""

from __future__ import annotations

import numpy as np

from qir.ir import Builder, Value
from qir.ir.weight_names import derived_name
from qir.ops import Add, Div, Mul, Reshape, Sub
from qir.ops.normalization import Normalization
from qir.passes.shared.identities import constant_second, drop_neutral
from qir.passes.shared.matching import in_float64, single_use, without_leading
from qir.passes.shared.norm_numbers import sizes_of
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import Outcome, rule
from qir.types import Array, Dim


@rule(Sub)
def subtract_constant(y: Value, b: Builder) -> Value | None:
    """Makes x + (-c) of x - c."""
    x, c = y.inputs
    if x.is_constant or not _is_float_constant(c):
        return None
    return b.emit(Add(), x, b.const(-c.array, _name(Add(), c)))


@rule(Div)
def divide_by_constant(y: Value, b: Builder) -> Value | None:
    """Makes x * (1 / c) of x / c, the same in real arithmetic."""
    x, c = y.inputs
    if x.is_constant or not _is_float_constant(c):
        return None
    with np.errstate(all="ignore"):
        inverse = (1 / in_float64(c)).astype(c.array.dtype)
        is_rounded_once = (
            np.abs(inverse.astype(np.float64) * in_float64(c) - 1) <= c.type.dtype.epsilon
        )
    if not np.all(is_rounded_once):
        return None
    return b.emit(Mul(), x, b.const(inverse, _name(Mul(), c)))


@rule(Add, Mul)
def affine(y: Value, b: Builder) -> Value | None:
    """Makes x * factor + offset of sums and products by constants in a row."""
    before, c = y.inputs
    if not (_is_float_constant(c) and single_use(before) and isinstance(before.op, Add | Mul)):
        return None
    x, inner = before.inputs
    if x.is_constant or not _is_float_constant(inner) or x.type.shape != y.type.shape:
        return None
    last, first = in_float64(c), in_float64(inner)
    if np.broadcast(last, first).size > max(last.size, first.size):
        return None
    match before.op, y.op:
        case Add(), Add():
            return _apply(b, Add(), x, last + first, c, inner)
        case Mul(), Mul():
            return _apply(b, Mul(), x, last * first, c, inner)
        case Add(), Mul():
            return _apply(b, Add(), b.emit(Mul(), x, c), last * first, c, inner)
        case _:
            return None


def _apply(b: Builder, op: Add | Mul, x: Value, numbers: Array, *sources: Value) -> Value:
    array = numbers.astype(sources[0].array.dtype)
    return b.emit(op, x, b.const(array, _name(op, *sources)))


def _name(op: Add | Mul, *sources: Value) -> str | None:
    role = "offset" if isinstance(op, Add) else "factor"
    return derived_name((source.name if source.named else None for source in sources), role)


@rule(Add, Mul)
def norm_affine(y: Value, b: Builder) -> Value | None:
    """Makes gamma and beta of a norm of constants that its result is multiplied by or added to."""
    before, c = y.inputs
    norm = before.inputs[0] if isinstance(before.op, Reshape) else before
    if not (isinstance(norm.op, Normalization) and c.is_constant and before.type == y.type):
        return None
    x, *parameters = norm.inputs
    if not all(map(single_use, {norm, before})) or not all(
        value.is_constant for value in parameters
    ):
        return None
    moved = _moved_constant(in_float64(c), before, norm)
    if moved is None:
        return None
    dtype = x.type.dtype.numpy
    gamma = in_float64(parameters[0]) if parameters else np.ones(())
    beta = in_float64(parameters[1]) if parameters[1:] else np.zeros(())
    if isinstance(y.op, Mul):
        gamma, beta = gamma * moved, beta * moved
    else:
        beta = beta + moved
    operands = [b.const(gamma.astype(dtype))]
    if np.any(beta):
        operands.append(b.const(beta.astype(dtype)))
    result = b.emit(norm.op, x, *operands)
    return result if before is norm else b.emit(Reshape(y.type.shape), result)


def _moved_constant(numbers: Array, before: Value, norm: Value) -> Array | None:
    """Returns a constant that broadcasts against a reshaped norm as one against the norm itself."""
    if before is norm:
        return numbers
    if any(isinstance(size, Dim) for size in (*before.type.shape[1:], *norm.type.shape[1:])):
        return None
    if numbers.ndim == before.type.rank and numbers.shape[0] != 1:
        return None
    # A first axis that stays: else the constant might vary along what becomes part of it.
    if before.type.shape[:1] != norm.type.shape[:1]:
        return numbers if numbers.size == 1 else None
    spread = np.broadcast_to(numbers, sizes_of(before.type.shape)).reshape(
        sizes_of(norm.type.shape)
    )
    for axis in range(spread.ndim):
        if np.all(spread == spread.take([0], axis)):
            spread = spread.take([0], axis)
    return without_leading(spread)


@rule(*drop_neutral.ops)
def drop_neutral_number(y: Value, b: Builder) -> Outcome:
    """Drops a sum with 0 and a product with 1; weights that are such stay."""
    constant = y.inputs[1]
    is_number = constant.is_constant and constant.array.size == 1
    return drop_neutral.apply(y, b) if is_number else None


def _is_float_constant(value: Value) -> bool:
    return value.is_constant and value.type.is_float


@register
class RaiseAffines(Raising):
    """Makes one mul and one add by constants of a per-channel affine, or takes it into a norm.

    So batch normalization at inference is written.
    """

    name = "raise-affines"
    rules = (
        norm_affine,
        constant_second,
        subtract_constant,
        divide_by_constant,
        drop_neutral_number,
        affine,
    )
