"""raise-activations: clips, sigmoids, gated and piecewise functions, by their structure."""

from __future__ import annotations

import math

from qir.ir import Builder, Value
from qir.ops import (
    Add,
    Clip,
    Div,
    Elu,
    Erf,
    Exp,
    Expm1,
    Gelu,
    Greater,
    GreaterEqual,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Log1p,
    Logistic,
    Maximum,
    Mish,
    Mul,
    Neg,
    Relu,
    Rsqrt,
    Select,
    Silu,
    Softplus,
    Sqrt,
    Square,
    Sub,
    Tanh,
)
from qir.passes.shared.identities import (
    compose_clips,
    constant_second,
    extremum_to_clip,
    simplify_clip,
)
from qir.passes.shared.matching import (
    commuted,
    factors,
    gated,
    is_scalar,
    multiple_of,
    near,
    plus,
)
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


@rule(Clip)
def shortest_bounds(y: Value, b: Builder) -> Value | None:
    """Writes the bounds of a clip with the fewest digits that round to the same numbers."""
    if not isinstance(y.op, Clip) or not y.type.is_float or y.type.quant is not None:
        return None
    low, high = map(y.type.dtype.shortest, (y.op.low, y.op.high))
    return b.emit(Clip(low, high), *y.inputs) if (low, high) != (y.op.low, y.op.high) else None


@rule(Maximum)
def leaky_relu_by_max(y: Value, b: Builder) -> Value | None:
    """Recognises max(x, slope * x)."""
    if y.type.is_float:
        for x, scaled in commuted(y.inputs):
            slope = multiple_of(scaled, x)
            if slope is not None and 0 < slope < 1:
                return b.emit(LeakyRelu(x.type.dtype.shortest(slope)), x)
    return None


@rule(Mul)
def square(y: Value, b: Builder) -> Value | None:
    """Recognises x * x."""
    x, again = y.inputs
    return b.emit(Square(), x) if x is again and x.type.is_float else None


@rule(Div)
def reciprocal(y: Value, b: Builder) -> Value | None:
    """Makes logistic of 1 / (1 + exp(-x)) and rsqrt of 1 / sqrt(x)."""
    one, below = y.inputs
    if not is_scalar(one, 1) or below.type != y.type:
        return None
    match plus(below, 1) or below:
        case Value(Exp(), (Value(Neg(), (x,)),)) as power if power is not below:
            return b.emit(Logistic(), x)
        case Value(Sqrt(), (x,)) as root if root is below:
            return b.emit(Rsqrt(), x)
        case _:
            return None


@rule(Mul, Div)
def gate(y: Value, b: Builder) -> Value | None:
    """Recognises x * g(x): silu, mish, hard_swish, and gelu in both forms."""
    for number, x, other in gated(y):
        if x.type != y.type:
            continue
        match other:
            case Value(Logistic(), (inner,)) if inner is x and near(number, 1, y):
                return b.emit(Silu(), x)
            case Value(Tanh(), (Value(Softplus(), (inner,)),)) if inner is x and near(number, 1, y):
                return b.emit(Mish(), x)
            case Value(HardSigmoid(), (inner,)) if inner is x and near(number, 1, y):
                return b.emit(HardSwish(), x)
            case Value(Clip(low=0.0, high=6.0), (inner,)) if plus(inner, 3) is x:
                if near(number, 1 / 6, y):
                    return b.emit(HardSwish(), x)
            case _ if near(number, 0.5, y):
                approximate = _is_gelu_gate(other, x)
                if approximate is not None:
                    return b.emit(Gelu(approximate), x)
            case _:
                continue
    return None


def _is_gelu_gate(value: Value, x: Value) -> bool | None:
    """Tells whether 1 + erf(x / sqrt 2) is approximated by tanh, or None where it is not meant."""
    root = math.sqrt(0.5)
    match value:
        case Value(Sub(), (one, Value(Erf(), (inner,)))) if is_scalar(one, 1):
            return False if near(multiple_of(inner, x), -root, x) else None
        case _:
            pass
    match plus(value, 1):
        case Value(Erf(), (inner,)) if near(multiple_of(inner, x), root, x):
            return False
        case Value(Tanh(), (inner,)) if _is_gelu_argument(inner, x):
            return True
        case _:
            return None


def _is_gelu_argument(value: Value, x: Value) -> bool:
    """Whether a value is sqrt(2 / pi) * (x + 0.044715 * x^3), in either way of factoring it."""
    number, rest = factors(value, x)
    if not near(number, math.sqrt(2 / math.pi), x):
        return False
    match rest:
        case [Value(Add(), (left, right))]:
            cubic = next((b for a, b in commuted((left, right)) if a is x), None)
            return cubic is not None and _is_power(cubic, x, 3)
        case [left, right] if x in rest:
            quadratic = plus(right if left is x else left, 1)
            return quadratic is not None and _is_power(quadratic, x, 2)
        case _:
            return False


def _is_power(value: Value, x: Value, exponent: int) -> bool:
    """Whether a value is 0.044715 * x^exponent."""
    number, rest = factors(value, x)
    return near(number, 0.044715, x) and rest == [x] * exponent


@rule(Mul, Div)
def hard_sigmoid(y: Value, b: Builder) -> Value | None:
    """Recognises clip(x + 3, 0, 6) / 6."""
    match factors(y):
        case number, [Value(Clip(low=0.0, high=6.0), (inner,))] if near(number, 1 / 6, y):
            x = plus(inner, 3)
            return b.emit(HardSigmoid(), x) if x is not None and x.type == y.type else None
        case _:
            return None


@rule(Clip)
def hard_sigmoid_by_clip(y: Value, b: Builder) -> Value | None:
    """Recognises clip(x / 6 + 1/2, 0, 1)."""
    if y.op != Clip(0, 1):
        return None
    scaled = plus(y.inputs[0], 0.5)
    match factors(scaled) if scaled is not None else None:
        case number, [x] if near(number, 1 / 6, y) and x.type == y.type:
            return b.emit(HardSigmoid(), x)
        case _:
            return None


@rule(Select)
def piecewise(y: Value, b: Builder) -> Value | None:
    """Recognises functions with a piece for each sign: relu, leaky_relu, elu."""
    match y:
        case Value(Select(), (Value(Greater() | GreaterEqual(), (tested, zero)), x, other)):
            if tested is not x or not is_scalar(zero, 0) or x.type != y.type:
                return None
        case _:
            return None
    if is_scalar(other, 0):
        return b.emit(Relu(), x)
    slope = multiple_of(other, x)
    if slope is not None:
        return b.emit(LeakyRelu(x.type.dtype.shortest(slope)), x)
    match factors(other):
        case alpha, [curve] if _is_exponential_branch(curve, x):
            return b.emit(Elu(x.type.dtype.shortest(alpha)), x)
        case _:
            return None


def _is_exponential_branch(value: Value, x: Value) -> bool:
    """Whether a value is exp(x) - 1 wherever x is negative."""
    match value:
        case Value(Expm1(), (inner,)):
            return _is_negative_part(inner, x)
        case _:
            power = plus(value, -1)
    match power:
        case Value(Exp(), (inner,)):
            return _is_negative_part(inner, x)
        case _:
            return False


def _is_negative_part(value: Value, x: Value) -> bool:
    match value:
        case Value(Clip(low=low, high=0.0), (inner,)):
            return low == -math.inf and inner is x
        case Value(Select(), (Value(Greater() | GreaterEqual(), (tested, zero)), _, inner)):
            return tested is x and inner is x and is_scalar(zero, 0)
        case _:
            return value is x


@rule(Log, Log1p)
def softplus(y: Value, b: Builder) -> Value | None:
    """Recognises log(1 + exp(x))."""
    (inner,) = y.inputs
    match inner if isinstance(y.op, Log1p) else plus(inner, 1):
        case Value(Exp(), (x,)) if x.type == y.type:
            return b.emit(Softplus(), x)
        case _:
            return None


@register
class RaiseActivations(Raising):
    """Finds clips and activations by their structure: sigmoids, gated and piecewise functions."""

    name = "raise-activations"
    rules = (
        constant_second,
        extremum_to_clip,
        leaky_relu_by_max,
        compose_clips,
        simplify_clip,
        shortest_bounds,
        square,
        reciprocal,
        gate,
        hard_sigmoid,
        hard_sigmoid_by_clip,
        piecewise,
        softplus,
    )
