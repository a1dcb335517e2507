"""Identities of real arithmetic and of moves, for canonicalize and for raising: one set."""

from __future__ import annotations

import numpy as np

from qir.ir import Builder, Value
from qir.ops import (
    Add,
    Clip,
    Div,
    Dot,
    Maximum,
    Minimum,
    Mul,
    Relu,
    Reshape,
    Sub,
    Transpose,
)
from qir.ops.op import Op
from qir.pipeline.rewrite import rule
from qir.types import Dim, TensorType


@rule()
def constant_second(y: Value, b: Builder) -> Value | None:
    """C + x -> x + c; so for the other commutative ops."""
    match y:
        case Value(Op() as op, [left, right]) if left.is_constant and not right.is_constant:
            swapped = op.swapped()
            return None if swapped is None else b.emit(swapped, right, left)
        case _:
            return None


@rule(Dot)
def kernel_second(y: Value, b: Builder) -> Value | None:
    """W @ x -> (x^T @ W^T)^T, as only what stands second is packed and coded as weights."""
    match y:
        case Value(Dot(batch=batch) as op, [weights, x]) if weights.is_constant:
            if x.is_constant or not (weights.type.is_float and x.type.is_float):
                return None
            lead = tuple(range(batch))
            turn = Transpose((*lead, batch + 1, batch))
            array = weights.array.reshape(*weights.array.shape[:batch], -1, weights.array.shape[-1])
            kernel = b.const(turn.evaluate(array), weights.name, weights.type.element)
            if weights.type.rank == kernel.type.rank:
                kernel.stand_for(weights, turn.permutation)
            turned = b.emit(op, b.emit(turn, x), kernel)
            return b.emit(Reshape(y.type.shape), b.emit(turn, turned))
        case _:
            return None


@rule(Add, Sub, Mul, Div)
def drop_neutral(y: Value, b: Builder) -> Value | None:
    """X + 0, x - 0, x * 1, x / 1 -> x; of -0 + 0 the sign is not kept."""
    match y:
        case Value(op, [x, constant]) if constant.is_constant and x.type == y.type:
            neutral = 0 if isinstance(op, Add | Sub) else 1
            if x.type.quant is None and np.all(constant.array == neutral):
                return x
        case _:
            pass
    return None


@rule(Maximum, Minimum)
def extremum_to_clip(y: Value, b: Builder) -> Value | None:
    """max(x, c) -> clip(x, c, inf) where c is one number; so for min."""
    match y:
        case Value(op, [x, c]) if c.is_constant and x.type == y.type and x.type.is_float:
            # NaN, which no clip has for a bound, does not equal itself.
            if not c.array.size or not np.all(c.array == c.array.flat[0]):
                return None
            bound = float(c.array.flat[0])
            return b.emit(
                Clip(bound, np.inf) if isinstance(op, Maximum) else Clip(-np.inf, bound), x
            )
        case _:
            return None


@rule(Relu, Clip)
def compose_clips(y: Value, b: Builder) -> Value | None:
    """clip(clip(x)) -> clip(x) with the bounds of both; relu is the clip at 0."""
    match y:
        case Value(Relu() | Clip() as outer, [Value(Relu() | Clip() as first, [x]) as inner]):
            bounds = [float(np.clip(bound, *_bounds(outer))) for bound in _bounds(first)]
            if tuple(bounds) == _bounds(first):
                return inner
            return b.emit(Clip(*bounds), x)
        case _:
            return None


def _bounds(op: Relu | Clip) -> tuple[float, float]:
    return (op.low, op.high) if isinstance(op, Clip) else (0.0, np.inf)


@rule(Clip)
def simplify_clip(y: Value, b: Builder) -> Value | None:
    """clip(x, -inf, inf) -> x; clip(x, 0, inf) -> relu(x)."""
    match y:
        case Value(Clip(low=low, high=high), [x]) if high == np.inf:
            if low == -np.inf:
                return x
            return b.emit(Relu(), x) if low == 0 else None
        case _:
            return None


@rule(Transpose)
def compose_transposes(y: Value, b: Builder) -> Value | None:
    """transpose(transpose(x)) -> one transpose of x; one that moves nothing -> x."""
    match y:
        case Value(Transpose(permutation=order), [x]) if order == tuple(range(len(order))):
            return x
        case Value(Transpose(permutation=last), [Value(Transpose(permutation=first), [x])]):
            return b.emit(Transpose(tuple(first[axis] for axis in last)), x)
        case _:
            return None


@rule(Reshape)
def compose_reshapes(y: Value, b: Builder) -> Value | None:
    """reshape(reshape(x)) -> reshape(x); one to the same shape -> x."""
    match y:
        case Value(Reshape(), [x]) if x.type == y.type:
            return x
        case Value(Reshape() as op, [Value(Reshape(), [x])]):
            return b.emit(op, x)
        case _:
            return None


@rule(Transpose)
def transpose_to_reshape(y: Value, b: Builder) -> Value | None:
    """transpose(x) -> reshape(x) where only axes of size 1 change places."""
    match y:
        case Value(Transpose(permutation=order), [x]) if x.type.quant is None:
            moved = [axis for axis in order if x.type.shape[axis] != 1]
            if can_reshape_to(y.type) and moved == sorted(moved):
                return b.emit(Reshape(y.type.shape), x)
        case _:
            pass
    return None


def can_reshape_to(type: TensorType) -> bool:
    """Whether the sizes of a reshape to a type can be told from an array alone."""
    return sum(isinstance(size, Dim) for size in type.shape) <= 1
