"""Biases joined to their layer, and per-channel affines as one mul and one add by constants."""

from __future__ import annotations

import numpy as np

from qir.frontends.raising.masks import MASKED
from qir.frontends.raising.matching import epsilon, in_float64, scalar, single_use
from qir.frontends.shared.weight_names import derived_name
from qir.ir import Builder, Value
from qir.ops import Add, Conv, ConvTranspose, Div, Dot, Mul, Reshape, Sub
from qir.pipeline.rewrite import rule
from qir.types import Array


@rule(Add)
def bias(y: Value, b: Builder) -> Value | None:
    """Makes a layer with a bias of conv(x, k) + c; the same of conv_transpose and dot."""
    for layer, constant in ((y.inputs[0], y.inputs[1]), (y.inputs[1], y.inputs[0])):
        if not (isinstance(layer.op, Conv | ConvTranspose | Dot) and constant.is_constant):
            continue
        columns = layer.type.shape[-1]
        array = constant.array
        if array.size and array.min() <= MASKED:
            continue  # A mask, which softmax may take as its own.
        is_per_column = array.size == 1 or (array.shape[-1] == array.size == columns)
        if not (is_per_column and single_use(layer) and y.type == layer.type) or not isinstance(
            columns, int
        ):
            continue
        x, kernel, *present = layer.inputs
        if present and not present[0].is_constant:
            continue
        if not present and array.shape == (columns,):
            return b.emit(layer.op, x, kernel, constant)
        total = np.broadcast_to(in_float64(constant).reshape(-1), (columns,))
        if present:
            total = total + in_float64(present[0])
        return b.emit(layer.op, x, kernel, b.const(total.astype(array.dtype)))
    return None


@rule(Add)
def bias_behind_reshape(y: Value, b: Builder) -> Value | None:
    """Puts a bias before the split of the last axis, as into attention heads, that it follows."""
    match y:
        case Value(Add(), (Value(Reshape(), (layer,)) as split, constant)):
            columns, shape = layer.type.shape[-1], constant.type.shape
            if (
                isinstance(layer.op, Conv | ConvTranspose | Dot)
                and constant.is_constant
                and single_use(split)
                and constant.array.size == columns
                and split.type.shape == (*layer.type.shape[:-1], *shape)
            ):
                name = constant.name if constant.named else None
                flat = b.const(constant.array.reshape(-1), name)
                return b.emit(Reshape(y.type.shape), b.emit(Add(), layer, flat))
        case _:
            return None
    return None


@rule(Add, Mul)
def constant_last(y: Value, b: Builder) -> Value | None:
    """Puts the constant of a sum or product last."""
    x, c = y.inputs
    return b.emit(y.op, c, x) if _is_float_constant(x) and not c.is_constant and y.op else None


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
        is_rounded_once = np.abs(inverse.astype(np.float64) * in_float64(c) - 1) <= epsilon(c)
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
def neutral(y: Value, b: Builder) -> Value | None:
    """Drops a sum with 0 and a product with 1."""
    x, c = y.inputs
    wanted = 0.0 if isinstance(y.op, Add) else 1.0
    return x if scalar(c) == wanted and x.type == y.type else None


def _is_float_constant(value: Value) -> bool:
    return value.is_constant and value.type.is_float


BIAS = [bias, bias_behind_reshape]
AFFINE = [constant_last, subtract_constant, divide_by_constant, neutral, affine]
