"""Elementwise arithmetic and clipping."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from qir.errors import QirError
from qir.ops import Add, Clip, Mul, Relu, Sub
from qir.ops.elementwise import Sum
from qir.types import Affine, DType, TensorType
from tests.strategies.base import (
    BYTES,
    FLOATS,
    NARROW,
    SUMMED,
    Case,
    Draw,
    cases_of,
    coded_operand,
    codes,
    computed_roundings,
    float_operand,
    in_float,
    program,
    rounded,
    shapes,
)


@st.composite
def broadcasting(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draws two shapes that broadcast."""
    shape = draw(shapes())
    other = tuple(draw(st.sampled_from([1, size])) for size in shape)[
        draw(st.integers(0, len(shape))) :
    ]
    return (shape, other) if draw(st.booleans()) else (other, shape)


@cases_of(Add, Sub, Mul)
def sums(draw: Draw, cls: type[Add] | type[Sub] | type[Mul]) -> Case:
    x_shape, y_shape = draw(broadcasting())
    if in_float(draw):
        dtype = draw(st.sampled_from(FLOATS))
        return program(
            cls(),
            float_operand(draw, x_shape, dtype),
            float_operand(draw, y_shape, dtype, constant=draw(st.booleans())),
        )
    named, constant = len(x_shape) > len(y_shape), draw(st.booleans())
    if not issubclass(cls, Mul) and draw(st.integers(0, 3)) == 0:
        operands = [wide_code(draw, 2**20), wide_code(draw, 2**20)]
        return program(
            cls(wide_code(draw, 2**21)),
            coded_operand(draw, operands[0], x_shape, named=named),
            coded_operand(draw, operands[1], y_shape, constant=constant),
        )
    far = not issubclass(cls, Mul)
    x = coded_operand(draw, draw(codes(SUMMED, far=far)), x_shape, named=named)
    y = coded_operand(draw, draw(codes(SUMMED, far=far)), y_shape, constant=constant)
    if issubclass(cls, Mul):
        if draw(st.integers(0, 3)) == 0:
            fine = Affine.of(DType.I16, 0.001, draw(st.integers(-100, 100)), bounds=(-2048, 2047))
            x = coded_operand(draw, fine, x_shape, named=named)
        return rounded(draw, program(cls(), x, y))
    try:
        return program(_rounded(draw, cls(draw(codes(SUMMED, far=True))), x.type, y.type), x, y)
    except QirError:
        # An operand so large beside the result that one shift can't serve both.
        assume(False)
        raise


def wide_code(draw: Draw, most: int) -> Affine:
    """Draws a code of i32 with bounds of at most some magnitude; all have one scale."""
    low, high = -draw(st.integers(1, most)), draw(st.integers(1, most))
    return Affine.of(DType.I32, 0.001, bounds=(low, high))


def _rounded(draw: Draw, op: Sum, x: TensorType, y: TensorType) -> Sum:
    """Lets a sum have a rounding, multipliers and a shift of its own at times."""
    assert op.to is not None
    if draw(st.booleans()) and not op.is_long(x, y):
        op = replace(op, rounding=draw(computed_roundings(op.to)))
    if draw(st.booleans()):
        (mx, my), shift = op.factors(x, y)
        off = draw(st.integers(-100, 0))
        multipliers = max(mx + off, 0), max(abs(my) + off, 0)
        op = replace(op, multipliers=multipliers, shift=draw(st.sampled_from([shift, 5])))
    return op


@cases_of(Relu)
def relus(draw: Draw, cls: type[Relu]) -> Case:
    shape = draw(shapes())
    if in_float(draw):
        return program(cls(), float_operand(draw, shape, draw(st.sampled_from(FLOATS))))
    code = draw(codes((*NARROW, DType.I16, DType.I32), shape=shape, axis=len(shape) - 1))
    return program(cls(), coded_operand(draw, code, shape, named=len(shape) > 1))


@cases_of(Clip)
def clips(draw: Draw, cls: type[Clip]) -> Case:
    shape = draw(shapes())
    bounds = st.one_of(st.floats(-8, 8), st.sampled_from([0.0, 6.0, -1.0, np.inf, -np.inf]))
    low, high = sorted(draw(st.tuples(bounds, bounds)))
    if in_float(draw):
        return program(cls(low, high), float_operand(draw, shape, draw(st.sampled_from(FLOATS))))
    return program(cls(low, high), coded_operand(draw, draw(codes((*BYTES, DType.I16))), shape))
