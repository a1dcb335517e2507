"""Softmax in rarer spellings: logarithms of its shares, and a share that goes to nothing."""

from __future__ import annotations

import numpy as np

from qir.frontends.raising.matching import commuted, is_scalar, scalar
from qir.frontends.raising.reductions import computed_alike
from qir.ir import Builder, Value
from qir.ops import (
    Add,
    Clip,
    Div,
    Exp,
    Log,
    Maximum,
    Mul,
    Neg,
    Pad,
    ReduceMax,
    ReduceSum,
    Relu,
    Select,
    Slice,
    Softmax,
    Sub,
)
from qir.pipeline.rewrite import rule

_MOST_BETWEEN = 4
"""Ops of constants that may stand between softmax and its logarithm."""


@rule(Log)
def log_of_softmax(y: Value, b: Builder) -> Value | None:
    """Makes log(softmax(x)) of differences, x - max x - log(sum of exp(x - max x)).

    The code of shares has no steps for small ones, whose logarithm is large. What stands between,
    such as an added constant or a bound, is computed of the exponential of those differences, an
    elementwise function of them. They are finite where the softmax is 0.
    """
    between: list[Value] = []
    value = y.inputs[0]
    while not isinstance(value.op, Softmax):
        varying = [operand for operand in value.inputs if not operand.is_constant]
        scalars = all(
            scalar(operand) is not None for operand in value.inputs if operand.is_constant
        )
        known = isinstance(value.op, Add | Clip | Maximum | Mul | Relu) and scalars
        if not known or len(varying) != 1 or len(between) == _MOST_BETWEEN:
            return None
        if varying[0].type != value.type:
            return None
        between.append(value)
        value = varying[0]
    x, *masks = value.inputs
    if masks:
        return None
    axes = value.op.axes
    below = b.emit(Sub(), x, b.emit(ReduceMax(axes, True), x))
    total = b.emit(ReduceSum(axes, True), b.emit(Exp(), below))
    logarithm = b.emit(Sub(), below, b.emit(Log(), total))
    if not between:
        return logarithm
    shares = b.emit(Exp(), logarithm)
    for step in reversed(between):
        assert step.op is not None
        shares = b.emit(
            step.op, *(operand if operand.is_constant else shares for operand in step.inputs)
        )
    return b.emit(Log(), shares)


@rule(Div)
def softmax_beside_one(y: Value, b: Builder) -> Value | None:
    """Recognises exp(x) / (1 + sum of exp(x)): softmax with a 0 beside x, which is dropped.

    Or the same of x - m and exp(-m) for 1, where m is the greatest number, or 0 where that is less.
    """
    powers, total = y.inputs
    if not isinstance(powers.op, Exp) or not isinstance(total.op, Add):
        return None
    for summed, one in commuted(total.inputs):
        match summed:
            case Value(ReduceSum(axes=(axis,), keep_axes=True), (again,)):
                pass
            case _:
                continue
        if not computed_alike(again, powers):
            continue
        (x,) = powers.inputs
        if not is_scalar(one, 1):
            match x, one:
                case (
                    Value(Sub(), (unshifted, shift)),
                    Value(Exp(), (exponent,)),
                ) if _is_negative(exponent, shift) and _is_greatest(shift, unshifted, axis):
                    x = unshifted
                case _:
                    continue
        return _beside_zero(x, axis, b)
    return None


def _is_negative(value: Value, of: Value) -> bool:
    match value:
        case Value(Neg(), (x,)):
            return computed_alike(x, of)
        case Value(Sub(), (zero, x)):
            return is_scalar(zero, 0) and computed_alike(x, of)
        case _:
            return False


def _is_greatest(value: Value, x: Value, axis: int) -> bool:
    """Whether a value is the greatest number of x, or 0 where that is less."""
    match value:
        case Value(Relu() | Clip(low=0.0, high=np.inf), (Value(ReduceMax(axes=axes), (of,)),)):
            return axes == (axis,) and computed_alike(of, x)
        case _:
            return False


def _beside_zero(x: Value, axis: int, b: Builder) -> Value | None:
    size = x.type.shape[axis]
    if not isinstance(size, int):
        return None

    def longer(value: Value, number: float) -> Value:
        """Adds a number at the end of the axis."""
        none = (0,) * value.type.rank
        op = Pad(none, (*none[:axis], 1, *none[axis + 1 :]), number)
        if value.is_constant:
            return b.const(op.evaluate(value.array), value.name, value.type.element)
        return b.emit(op, value)

    match x:
        # What a mask drops stays known as that.
        case Value(Select(), (mask, scores, fill)) if (
            mask.type.rank == x.type.rank
            and mask.type.shape[axis] == size
            and scores.type == x.type
            and scalar(fill) is not None
        ):
            scores = b.emit(Select(), longer(mask, 1), longer(scores, 0), fill)
        case _:
            scores = longer(x, 0)
    shares = b.emit(Softmax((axis,)), scores)
    return b.emit(Slice((axis,), (0,), (size,)), shares)


SHARES = [softmax_beside_one]
LOGARITHMS = [log_of_softmax]
