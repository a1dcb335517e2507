"""Comparisons, masks and the choice between two tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qir.numbers.interval import Interval
from qir.ops.op import Op, op
from qir.ops.rules import KeepFloat, SameCode, SharedCode
from qir.ops.traits import Moves
from qir.ops.type_rules import broadcast, same_element
from qir.types import Array, DType, TensorType


class Predicate(Op):
    """Base of the ops whose results are true or false, one for each place."""

    elementwise = True

    def interval(self, *operands: Interval) -> Interval:
        return Interval.of(0, 1)


@dataclass(frozen=True)
class Comparison(Predicate):
    """Base of the comparisons: a mask, with broadcasting.

    Operands of one code are compared by their stored numbers, whose order is that of the real ones.
    """

    quant = SameCode()
    compares = True
    compare: ClassVar[Callable[..., Any]]

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        same_element(self, x, y)
        return TensorType(broadcast(self, x, y), DType.BOOL)

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.asarray(type(self).compare(x, y))


@op("equal")
class Equal(Comparison):
    """Whether x == y."""

    compare = np.equal


@op("not_equal")
class NotEqual(Comparison):
    """Whether x != y; of masks, exclusive or."""

    compare = np.not_equal


@op("less")
class Less(Comparison):
    """Whether x < y."""

    compare = np.less


@op("less_equal")
class LessEqual(Comparison):
    """Whether x <= y."""

    compare = np.less_equal


@op("greater")
class Greater(Comparison):
    """Whether x > y."""

    compare = np.greater


@op("greater_equal")
class GreaterEqual(Comparison):
    """Whether x >= y."""

    compare = np.greater_equal


def check_masks(operation: Op, *types: TensorType) -> None:
    """Raises QirError unless all operands are bool."""
    for operand in types:
        if operand.element is not DType.BOOL:
            raise operation.error(f"expected bool, got {operand}")


class Connective(Predicate):
    """Base of the ops that connect two masks."""

    quant = KeepFloat("masks have no code")
    connect: ClassVar[Callable[..., Any]]

    def result(self, x: TensorType, y: TensorType) -> TensorType:
        check_masks(self, x, y)
        return TensorType(broadcast(self, x, y), DType.BOOL)

    def evaluate(self, x: Array, y: Array) -> Array:
        return np.asarray(type(self).connect(x, y))


@op("and")
class And(Connective):
    """Whether both masks hold, with broadcasting."""

    connect = np.logical_and


@op("or")
class Or(Connective):
    """Whether one of two masks holds, with broadcasting."""

    connect = np.logical_or


@op("not")
class Not(Predicate):
    """Whether a mask does not hold."""

    quant = KeepFloat("masks have no code")

    def result(self, x: TensorType) -> TensorType:
        check_masks(self, x)
        return x

    def evaluate(self, x: Array) -> Array:
        return np.asarray(~x)


@op("is_finite")
class IsFinite(Predicate):
    """Whether a floating-point number is neither infinite nor NaN."""

    quant = KeepFloat("codes are always finite")

    def result(self, x: TensorType) -> TensorType:
        if not x.is_float:
            raise self.error(f"expected floating-point numbers, got {x}")
        return x.with_element(DType.BOOL)

    def evaluate(self, x: Array) -> Array:
        return np.isfinite(x)


@op("select")
class Select(Op):
    """on_true where the condition holds, on_false elsewhere; broadcasts. Codes must be equal."""

    quant = SharedCode()
    elementwise = True
    moves = Moves.PICKS

    def result(
        self, condition: TensorType, on_true: TensorType, on_false: TensorType
    ) -> TensorType:
        check_masks(self, condition)
        return TensorType(
            broadcast(self, condition, on_true, on_false), same_element(self, on_true, on_false)
        )

    def interval(self, condition: Interval, on_true: Interval, on_false: Interval) -> Interval:
        return on_true.union(on_false)

    def evaluate(self, condition: Array, on_true: Array, on_false: Array) -> Array:
        return np.where(condition, on_true, on_false)
