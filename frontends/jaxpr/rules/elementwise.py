"""Elementwise primitives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from qir.errors import UnsupportedError
from qir.frontends.jaxpr.primitives import PrimitiveRule, primitive
from qir.frontends.shared.emitter import Emitter, Operand
from qir.frontends.shared.known import Known
from qir.ir import Value
from qir.ops import (
    Abs,
    Add,
    And,
    Ceil,
    Cos,
    Div,
    Equal,
    Erf,
    Exp,
    Expm1,
    Floor,
    Greater,
    GreaterEqual,
    IsFinite,
    Less,
    LessEqual,
    Log,
    Log1p,
    Logistic,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Not,
    NotEqual,
    Or,
    Pow,
    Round,
    Rsqrt,
    Select,
    Sign,
    Sin,
    Sqrt,
    Square,
    Sub,
    Tanh,
)
from qir.ops.op import Op
from qir.types import DType

DIRECT: dict[str, Op] = {
    "abs": Abs(),
    "add": Add(),
    "add_any": Add(),
    "and": And(),
    "ceil": Ceil(),
    "cos": Cos(),
    "div": Div(),
    "eq": Equal(),
    "erf": Erf(),
    "exp": Exp(),
    "expm1": Expm1(),
    "floor": Floor(),
    "ge": GreaterEqual(),
    "gt": Greater(),
    "is_finite": IsFinite(),
    "le": LessEqual(),
    "log": Log(),
    "log1p": Log1p(),
    "logistic": Logistic(),
    "lt": Less(),
    "max": Maximum(),
    "min": Minimum(),
    "mul": Mul(),
    "ne": NotEqual(),
    "neg": Neg(),
    "not": Not(),
    "or": Or(),
    "rsqrt": Rsqrt(),
    "sign": Sign(),
    "sin": Sin(),
    "sqrt": Sqrt(),
    "square": Square(),
    "sub": Sub(),
    "tanh": Tanh(),
    "xor": NotEqual(),
}
"""Primitives that mean what one op means."""


def _direct(name: str, op: Op) -> PrimitiveRule:
    def rule(b: Emitter, *operands: Operand, **_: Any) -> Value:
        if name == "xor" and operands[0].type.element is not DType.BOOL:
            raise UnsupportedError(f"xor: expected bool, got {operands[0].type}")
        return b.elementwise(op, *operands)

    return rule


for _name, _op in DIRECT.items():
    primitive(_name)(_direct(_name, _op))


@primitive("convert_element_type")
def convert_element_type(b: Emitter, x: Operand, *, new_dtype: Any, **_: Any) -> Operand:
    """Casts between plain types."""
    return b.cast(x, DType.of(new_dtype))


@primitive("erfc")
def erfc(b: Emitter, x: Operand, **_: Any) -> Value:
    """1 - erf(x)."""
    return b.elementwise(Sub(), b.scalar(1, x.type), b.elementwise(Erf(), x))


@primitive("exp2")
def exp2(b: Emitter, x: Operand, **_: Any) -> Value:
    """exp(x * log 2)."""
    return b.elementwise(Exp(), b.elementwise(Mul(), x, b.scalar(math.log(2), x.type)))


@primitive("integer_pow")
def integer_pow(b: Emitter, x: Operand, *, y: int, **_: Any) -> Operand:
    """A power by squaring and multiplying, from the exponent's highest bit down."""
    if y < 0:
        return b.elementwise(Div(), b.scalar(1, x.type), integer_pow(b, x, y=-y))
    if y == 0:
        return Known.of(np.ones((), x.type.dtype.numpy), x.type.shape)
    result = x
    for bit in bin(y)[3:]:
        result = (
            b.elementwise(Square(), result)
            if x.type.is_float
            else b.elementwise(Mul(), result, result)
        )
        if bit == "1":
            result = b.elementwise(Mul(), result, x)
    return result


@primitive("pow")
def power(b: Emitter, x: Operand, y: Operand, **_: Any) -> Value:
    """A power; an integer exponent is cast to the base's type."""
    return b.elementwise(Pow(), x, b.cast(y, x.type.dtype))


@primitive("round")
def nearest(b: Emitter, x: Operand, *, rounding_method: Any, **_: Any) -> Value:
    """Rounding to the nearest integer."""
    return b.elementwise(Round("even" if int(rounding_method) == 1 else "away"), x)


@primitive("clamp")
def clamp(b: Emitter, low: Operand, x: Operand, high: Operand, **_: Any) -> Value:
    """min(max(x, low), high)."""
    return b.elementwise(Minimum(), b.elementwise(Maximum(), x, low), high)


@primitive("select_n")
def select_n(b: Emitter, which: Operand, *cases: Operand, **_: Any) -> Operand:
    """The choice among tensors by a mask or numbers; where these are one number, it is known."""
    if isinstance(which, Known) and which.array.size == 1:
        return cases[int(which.array.reshape(()))]
    if which.type.element is DType.BOOL:
        return b.elementwise(Select(), which, cases[1], cases[0])
    chosen, *others = cases
    for number, case in enumerate(others, 1):
        mask = b.elementwise(Equal(), which, b.scalar(number, which.type))
        chosen = b.elementwise(Select(), mask, case, chosen)
    return chosen
