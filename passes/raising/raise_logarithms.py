"""raise-logarithms: a logarithm of softmax becomes differences, as small shares have no code."""

from __future__ import annotations

from qir.ir import Builder, Value
from qir.ops import Add, Clip, Exp, Log, Maximum, Mul, ReduceMax, ReduceSum, Relu, Softmax, Sub
from qir.passes.shared.matching import scalar
from qir.passes.shared.raising import Raising
from qir.pipeline import register
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


@register
class RaiseLogarithms(Raising):
    """Makes log(softmax(x)) of differences; behind `raise-masks`, which drops scores."""

    name = "raise-logarithms"
    rules = (log_of_softmax,)
