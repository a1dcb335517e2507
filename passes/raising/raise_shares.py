"""raise-shares: exponentials divided by one more than their sum become softmax beside a zero."""

from __future__ import annotations

import numpy as np

from qir.ir import Builder, Value
from qir.ops import (
    Add,
    Clip,
    Div,
    Exp,
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
from qir.passes.shared.matching import commuted, computed_alike, is_scalar, scalar
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


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


@register
class RaiseShares(Raising):
    """Finds softmax with a share that goes to nothing, as of attention that may attend to none."""

    name = "raise-shares"
    rules = (softmax_beside_one,)
