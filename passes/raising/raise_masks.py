"""raise-masks: what is set or pushed far below zero before softmax becomes its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from qir.ir import Builder, Value
from qir.ops import (
    Add,
    And,
    Broadcast,
    Cast,
    Clip,
    Div,
    Greater,
    Maximum,
    Mul,
    Neg,
    Not,
    NotEqual,
    Reshape,
    Select,
    Softmax,
    Sub,
    Transpose,
)
from qir.ops.softmax import MaskedRows
from qir.passes.shared.masking import MASKED, keeps_some_of_every_row, masking_fill
from qir.passes.shared.matching import commuted, in_float64, is_scalar, scalar
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule
from qir.types import DType

SWALLOWS = -1e8
"""What is at most this swallows the float32 scores that it is added to: a row of it is uniform."""


class Masked(NamedTuple):
    """Scores without their mask.

    Attributes:
        scores: The scores where the mask keeps them, of the shape that they had with it.
        mask: Bools that broadcast against them.
        rows: What a row is that the mask drops whole.
    """

    scores: Value
    mask: Value
    rows: MaskedRows


@rule(Softmax)
def mask_operand(y: Value, b: Builder) -> Value | None:
    """softmax(select(mask, x, -1e9)) and softmax(x + (1 - mask) * -1e9) -> softmax(x, mask)."""
    assert isinstance(y.op, Softmax)
    x, *masks = y.inputs
    found = _unmasked(x, b)
    if found is None:
        return None
    mask, rows = found.mask, found.rows
    if rows == "nan" and keeps_some_of_every_row(mask, x, y.op.axes):
        rows = "uniform"
    if masks:
        mask = b.emit(And(), masks[0], mask)
        # Which of two masks dropped a row whole is not told apart: no row is NaN that was not.
        rows = rows if rows == y.op.masked_rows else "uniform"
    return b.emit(replace(y.op, masked_rows=rows), found.scores, mask)


def _unmasked(x: Value, b: Builder) -> Masked | None:
    match x:
        case Value(Select(), (condition, kept, fill)) if (number := masking_fill(fill)) is not None:
            return _selected(x, condition, kept, number, b)
        case Value(Select(), (condition, fill, kept)) if (number := masking_fill(fill)) is not None:
            return _selected(x, b.emit(Not(), condition), kept, number, b)
        case Value(Add(), (_, _)):
            for scores, addend in commuted(x.inputs):
                if (found := _added(x, scores, addend, 1, b)) is not None:
                    return found
            return None
        case Value(Sub(), (scores, addend)):
            return _added(x, scores, addend, -1, b)
        case Value(Mul(), (before, _)) if (factor := scalar(x.inputs[1])) and factor > 0:
            found = _unmasked(before, b) if before.type == x.type else None
            return found and found._replace(scores=b.emit(Mul(), found.scores, x.inputs[1]))
        case Value(Div(), (before, _)) if (factor := scalar(x.inputs[1])) and factor > 0:
            found = _unmasked(before, b) if before.type == x.type else None
            return found and found._replace(scores=b.emit(Div(), found.scores, x.inputs[1]))
        case Value(Cast() as cast, (before,)) if x.type.is_float and before.type.is_float:
            found = _unmasked(before, b)
            return found and found._replace(scores=b.emit(cast, found.scores))
        case _:
            return None


def _selected(x: Value, condition: Value, kept: Value, fill: float, b: Builder) -> Masked:
    rows: MaskedRows = "nan" if np.isneginf(fill) else "uniform"
    return Masked(_stretched(kept, x, b), condition, rows)


def _stretched(kept: Value, x: Value, b: Builder) -> Value:
    return kept if kept.type.shape == x.type.shape else b.emit(Broadcast(x.type.shape), kept)


def _masked_rows(fill: float) -> MaskedRows:
    """Returns what a row is to every number of which a number is added."""
    if np.isneginf(fill):
        return "nan"
    return "uniform" if fill <= SWALLOWS else "unmasked"


def _added(x: Value, scores: Value, addend: Value, sign: int, b: Builder) -> Masked | None:
    """Takes a mask out of scores + sign * addend."""
    if scores.is_constant or not x.type.is_float:
        return None
    if addend.is_constant:
        return _constant_added(x, scores, addend, sign, b)
    kept = _keeps(addend, sign, b)
    if kept is not None:
        mask, fill = kept
        return Masked(_stretched(scores, x, b), mask, _masked_rows(fill))
    terms = _terms(addend, sign)
    masking = [term for term in terms if _masks(*term)]
    if not masking:
        return None
    for value, direction in terms:
        if (value, direction) not in masking:
            scores = b.emit(Add() if direction > 0 else Sub(), scores, value)
    added = _sum(masking, b)
    zero = b.const(np.zeros((), x.type.dtype.numpy))
    bound = b.const(np.asarray(MASKED, x.type.dtype.numpy))
    mask = b.emit(Greater(), added, bound)
    rest = b.emit(Add(), scores, b.emit(Select(), mask, added, zero))
    least = min(number for term in masking if (number := _least(*term)) is not None)
    return Masked(rest, mask, _masked_rows(least))


def _terms(value: Value, sign: int) -> list[tuple[Value, int]]:
    """Returns what a value is the sum of, each with its sign.

    The bias that a mask is added to is no part of the mask: it keeps a range of its own.
    """
    match value:
        case Value(Add() | Sub() as op, (x, y)):
            return _terms(x, sign) + _terms(y, sign if isinstance(op, Add) else -sign)
        case _:
            return [(value, sign)]


def _masks(term: Value, sign: int) -> bool:
    """Whether a term of what is added to scores drops some of them."""
    return not _is_cut(term) and _least(term, sign) is not None


def _sum(terms: Sequence[tuple[Value, int]], b: Builder) -> Value:
    total: Value | None = None
    for value, sign in terms:
        if total is None:
            total = value if sign > 0 else b.emit(Neg(), value)
        else:
            total = b.emit(Add() if sign > 0 else Sub(), total, value)
    assert total is not None
    return total


def _is_cut(value: Value) -> bool:
    """Whether a value is what this module leaves of an addend."""
    match value:
        case Value(Select(), (Value(Greater(), (tested, bound)), kept, _)):
            return tested is kept and is_scalar(bound, MASKED)
        case _:
            return False


def _constant_added(x: Value, scores: Value, addend: Value, sign: int, b: Builder) -> Masked | None:
    numbers = sign * in_float64(addend)
    dropped = numbers <= MASKED
    if not np.any(dropped) or np.any(np.isnan(numbers)) or np.any(np.isposinf(numbers)):
        return None
    mask = b.const(~dropped, f"{addend.name}.mask" if addend.named else None)
    rest = np.where(dropped, 0, numbers).astype(addend.array.dtype)
    if np.any(rest):
        name = f"{addend.name}.rest" if addend.named else None
        scores = b.emit(Add(), scores, b.const(rest, name))
    return Masked(_stretched(scores, x, b), mask, _masked_rows(numbers[dropped].max()))


def _keeps(value: Value, sign: int, b: Builder) -> tuple[Value, float] | None:
    """Returns the mask that an addend stands for, and what it is where that drops a score.

    Only where the addend is 0 or that number by its structure, so that nothing of it is left.
    """
    if value.is_constant:
        return _keeps_constant(value, sign, b)
    match value:
        case Value(Reshape() | Transpose() | Broadcast() as move, (inner,)):
            found = _keeps(inner, sign, b)
            return found and (b.emit(move, found[0]), found[1])
        case Value(Add(), (x, y)):
            # The sum of two of the least numbers is -inf, which drops a score as well.
            found, more = _keeps(x, sign, b), _keeps(y, sign, b)
            if found is None or more is None:
                return None
            return b.emit(And(), found[0], more[0]), max(found[1], more[1])
        case Value(Maximum(), (_, _)) if sign > 0:
            for inner, bound in commuted(value.inputs):
                number = scalar(bound)
                if number is not None and number <= MASKED:
                    found = _keeps(inner, sign, b)
                    return found and (found[0], max(found[1], number))
            return None
        case Value(Clip() as clip, (inner,)) if sign > 0 and clip.low <= MASKED and clip.high >= 0:
            found = _keeps(inner, sign, b)
            return found and (found[0], max(found[1], clip.low))
        case Value(Neg(), (inner,)):
            return _keeps(inner, -sign, b)
        case Value(Cast(), (inner,)) if value.type.is_float and inner.type.is_float:
            return _keeps(inner, sign, b)
        case Value(Mul(), (_, _)):
            for inner, constant in commuted(value.inputs):
                number = scalar(constant)
                if number is not None and sign * number <= MASKED:
                    holds = _holds(inner, b)
                    return None if holds is None else (b.emit(Not(), holds), sign * number)
            return None
        case Value(Select(), (condition, kept, fill)) if is_scalar(kept, 0):
            number = scalar(fill)
            return (condition, sign * number) if number and sign * number <= MASKED else None
        case Value(Select(), (condition, fill, kept)) if is_scalar(kept, 0):
            number = scalar(fill)
            if number and sign * number <= MASKED:
                return b.emit(Not(), condition), sign * number
            return None
        case _:
            return None


def _keeps_constant(value: Value, sign: int, b: Builder) -> tuple[Value, float] | None:
    """Returns what `_keeps` does of a constant that is part of an addend."""
    if not (value.type.is_float and value.array.size):
        return None
    numbers = sign * in_float64(value)
    dropped = numbers <= MASKED
    if not np.all(dropped | (numbers == 0)) or not np.any(dropped):
        return None
    return b.const(~dropped, f"{value.name}.mask" if value.named else None), numbers[dropped].max()


def _holds(value: Value, b: Builder) -> Value | None:
    """Returns bools of a float value that is 1 where they hold and 0 elsewhere, or None.

    Integers that a mask is made of are taken to be 0 or 1.
    """
    match value:
        case Value(Reshape() | Transpose() | Broadcast() as move, (inner,)):
            found = _holds(inner, b)
            return found and b.emit(move, found)
        case Value(Sub(), (one, inner)) if is_scalar(one, 1):
            found = _holds(inner, b)
            return found and b.emit(Not(), found)
        case Value(Add(), (_, _)):
            for one, negated in commuted(value.inputs):
                if is_scalar(one, 1) and isinstance(negated.op, Neg):
                    found = _holds(negated.inputs[0], b)
                    return found and b.emit(Not(), found)
            return None
        case Value(Cast(), (inner,)) if inner.type.element is DType.BOOL:
            return inner
        case Value(Cast(), (inner,)) if inner.type.dtype.is_integer:
            return _holds_integer(inner, b)
        case Value(Cast(), (inner,)) if inner.type.is_float:
            return _holds(inner, b)
        case _:
            return None


def _holds_integer(value: Value, b: Builder) -> Value:
    match value:
        case Value(Cast(), (inner,)) if inner.type.element is DType.BOOL:
            return inner
        case Value(Sub(), (one, inner)) if one.is_constant and np.all(one.array == 1):
            return b.emit(Not(), _holds_integer(inner, b))
        case Value(Reshape() | Transpose() | Broadcast() as move, (inner,)):
            return b.emit(move, _holds_integer(inner, b))
        case _:
            zero = b.const(np.zeros((), value.type.dtype.numpy))
            return b.emit(NotEqual(), value, zero)


def _least(value: Value, sign: int, depth: int = 6) -> float | None:
    """Returns the masking number that is a factor or a choice in a computed addend, or None.

    An input of the program is taken for one that may hold such numbers.
    """
    if not depth:
        return None
    if value.node is None and value.type.is_float:
        # Only data tells whether an input masks, and what is done is exact either way.
        return SWALLOWS
    if value.is_constant and value.type.is_float and value.array.size:
        number = float((sign * in_float64(value)).min())
        return number if number <= MASKED else None
    match value:
        case Value(Reshape() | Transpose() | Broadcast() | Cast(), (inner,)):
            return _least(inner, sign, depth - 1)
        case Value(Neg(), (inner,)):
            return _least(inner, -sign, depth - 1)
        case Value(Mul(), (_, _)):
            numbers = [scalar(operand) for operand in value.inputs]
            found = [sign * number for number in numbers if number is not None]
            return min(found) if found and min(found) <= MASKED else None
        case Value(Select(), (_, *choices)):
            numbers = [scalar(choice) for choice in choices]
            found = [sign * number for number in numbers if number is not None]
            if found and min(found) <= MASKED:
                return min(found)
            inner_found = [_least(choice, sign, depth - 1) for choice in choices]
            return min((number for number in inner_found if number is not None), default=None)
        case Value(Add(), (_, _)):
            parts = [_least(operand, sign, depth - 1) for operand in value.inputs]
            return min((number for number in parts if number is not None), default=None)
        case _:
            return None


@register
class RaiseMasks(Raising):
    """Makes the mask of a softmax of what sets or pushes scores far below zero before it."""

    name = "raise-masks"
    rules = (mask_operand,)
