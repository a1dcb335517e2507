"""raise-kept-powers: exponentials that a mask sets to 0, divided by their sum, become softmax."""

from __future__ import annotations

import numpy as np

from qir.ir import Builder, Value
from qir.ops import Add, Clip, Div, Exp, Maximum, ReduceMax, ReduceSum, Select, Softmax, Sub
from qir.passes.shared.masking import keeps_some_of_every_row, masking_fill
from qir.passes.shared.matching import commuted, is_scalar, scalar
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


@rule(Select)
def softmax_where(y: Value, b: Builder) -> Value | None:
    """Recognises softmax over the numbers that a condition keeps, 0 elsewhere."""
    match y.inputs:
        case [mask, Value(Div(), (powers, total)), zero] if is_scalar(zero, 0):
            pass
        case _:
            return None
    match total:
        case Value(ReduceSum(keep_axes=True) as op, (Value(Select(), (again, summed, nothing)),)):
            if not (_same(again, mask) and _same(summed, powers) and is_scalar(nothing, 0)):
                return None
        case _:
            return None
    match powers:
        case Value(Exp(), (Value(Sub(), (shown, shift)),)):
            pass
        case _:
            return None
    x = _chosen(shown, mask)
    match shift:
        case Value(ReduceMax(keep_axes=True) as greatest, (chosen,)) if greatest.axes == op.axes:
            if _same(_chosen(chosen, mask), x) and x.type == y.type:
                return _zero_where_dropped(x, mask, op.axes, zero, b)
            return None
        case _:
            return None


@rule(Div)
def softmax_of_kept_powers(y: Value, b: Builder) -> Value | None:
    """Recognises e / max(sum of e, tiny) where e is exp(x - max x) that a mask sets to 0.

    The greatest number that is kept has an exponential of 1, so a bound of the sum of at most 1, or
    an addend that it swallows, tells only of rows without any: those are 0.
    """
    powers, bounded = y.inputs
    match powers:
        case Value(Select(), (mask, Value(Exp(), (Value(Sub(), (shown, shift)),)), zero)) if (
            is_scalar(zero, 0)
        ):
            pass
        case _:
            return None
    match _unbounded(bounded), shift:
        case (
            Value(ReduceSum(keep_axes=True) as op, (summed,)),
            Value(ReduceMax(keep_axes=True) as greatest, (chosen,)),
        ) if _same(summed, powers) and _same(chosen, shown) and greatest.axes == op.axes:
            pass
        case _:
            return None
    match shown:
        case Value(Select(), (again, x, fill)) if (
            _same(again, mask) and masking_fill(fill) is not None
        ):
            if x.type == y.type:
                return _zero_where_dropped(x, mask, op.axes, zero, b)
            return None
        case _:
            return None


def _unbounded(value: Value) -> Value:
    """Returns what a value of at least 1 is before a bound from below that changes only less."""
    match value:
        case Value(Maximum(), (_, _)):
            for inner, bound in commuted(value.inputs):
                number = scalar(bound)
                if number is not None and number <= 1:
                    return inner
        case Value(Clip() as clip, (inner,)) if clip.low <= 1 and np.isposinf(clip.high):
            return inner
        case Value(Add(), (_, _)):
            for inner, addend in commuted(value.inputs):
                number = scalar(addend)
                if number is not None and 0 < number <= value.type.dtype.epsilon / 2:
                    return inner
        case _:
            pass
    return value


def _zero_where_dropped(
    x: Value, mask: Value, axes: tuple[int, ...], zero: Value, b: Builder
) -> Value:
    """Emits softmax over what a mask keeps, and 0 in rows that it drops whole."""
    y = b.emit(Softmax(axes), x, mask)
    if keeps_some_of_every_row(mask, x, axes):
        return y
    return b.emit(Select(), mask, y, zero)


def _chosen(value: Value, mask: Value) -> Value:
    match value:
        case Value(Select(), (condition, kept, _)) if _same(condition, mask):
            return kept
        case _:
            return value


def _same(x: Value, y: Value) -> bool:
    """Whether two values are one, or equal constants."""
    if x is y:
        return True
    both = x.is_constant and y.is_constant and x.type == y.type
    return both and np.array_equal(x.array, y.array)


@register
class RaiseKeptPowers(Raising):
    """Finds softmax whose exponentials a mask sets to 0."""

    name = "raise-kept-powers"
    rules = (softmax_where, softmax_of_kept_powers)
