"""Sums, products and extrema over axes, and the place of the greatest number."""

from __future__ import annotations

from hypothesis import strategies as st

from qir.ops import ArgMax, ReduceMax, ReduceMin, ReduceProd, ReduceSum
from qir.types import DType
from tests.strategies.base import (
    FLOATS,
    NARROW,
    SUMMED,
    Case,
    Draw,
    Operand,
    cases_of,
    coded_operand,
    codes,
    program,
    shapes,
)
from tests.strategies.choices import PLAIN, numbers


@cases_of(ReduceSum, ReduceProd)
def sums_and_products(draw: Draw, cls: type[ReduceSum] | type[ReduceProd]) -> Case:
    shape = draw(shapes())
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    keep = draw(st.booleans())
    if issubclass(cls, ReduceSum) and draw(st.booleans()):
        x = coded_operand(draw, draw(codes(SUMMED)), shape, named=0 not in axes)
        return program(cls(axes, keep), x)
    element = draw(st.sampled_from([*FLOATS, DType.I32, DType.U8, DType.U32]))
    return program(cls(axes, keep), Operand(numbers(draw, shape, element), element, named=True))


def extremum_operand(draw: Draw, shape: tuple[int, ...], axes: tuple[int, ...]) -> Operand:
    """Draws an operand whose code, if any, may vary along an axis that is not among `axes`."""
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    if draw(st.booleans()):
        element = draw(st.sampled_from(PLAIN))
        return Operand(numbers(draw, shape, element), element, named=draw(st.booleans()))
    axis = draw(st.sampled_from(rest)) if rest else None
    code = draw(codes((*NARROW, DType.I16, DType.I32), shape=shape, axis=axis))
    return coded_operand(draw, code, shape, named=code.per_tensor and draw(st.booleans()))


@cases_of(ReduceMax, ReduceMin)
def extrema(draw: Draw, cls: type[ReduceMax] | type[ReduceMin]) -> Case:
    shape = draw(shapes())
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    return program(cls(axes, draw(st.booleans())), extremum_operand(draw, shape, axes))


@cases_of(ArgMax)
def places(draw: Draw, cls: type[ArgMax]) -> Case:
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    return program(cls(axis, draw(st.booleans())), extremum_operand(draw, shape, (axis,)))
