"""Extrema, comparisons, masks and choices; division and powers."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from qir.ops import And, IsFinite, Maximum, Minimum, Not, Or, Pow, Select
from qir.ops.logic import Comparison
from qir.ops.op import Op
from qir.types import Array, DType, Element
from tests.strategies.base import (
    FLOATS,
    NARROW,
    Case,
    Draw,
    Operand,
    cases_of,
    codes,
    floats,
    generator,
    in_float,
    program,
    shapes,
    stored,
)
from tests.strategies.casts import tabulated
from tests.strategies.elementwise import broadcasting

PLAIN = (*FLOATS, DType.I32, DType.I8, DType.U16, DType.BOOL)


def numbers(draw: Draw, shape: tuple[int, ...], element: Element) -> Array:
    """Draws numbers of any element, with many equal ones among the plain."""
    if not isinstance(element, DType):
        return stored(draw, element, shape)
    if element.is_float:
        values = floats(draw, shape, element)
        return np.where(generator(draw).random(shape) < 0.3, np.rint(values), values)
    low, high = (0, 1) if element is DType.BOOL else element.bounds
    rng = generator(draw)
    wide = rng.integers(low, high, shape, endpoint=True)
    small = rng.integers(0, 2, shape)
    return np.where(rng.random(shape) < 0.5, wide, small).astype(element.numpy)


def operands(draw: Draw, *shapes: tuple[int, ...], plain: Any = PLAIN) -> list[Operand]:
    """Draws operands of one element, plain or a code; a lone batch dimension may be named."""
    whole = np.broadcast_shapes(*shapes)
    element: Element = draw(st.sampled_from(plain))
    if draw(st.booleans()):
        storages = (*NARROW, DType.I16, DType.I32)
        # A code per channel needs the channels in every operand.
        per_channel = all(len(shape) == len(whole) and shape[-1] == whole[-1] for shape in shapes)
        axis = len(whole) - 1 if per_channel else None
        element = draw(codes(storages, shape=whole, axis=axis))
    return [Operand(numbers(draw, shape, element), element) for shape in shapes]


def mask(draw: Draw, shape: tuple[int, ...]) -> Operand:
    """Draws a mask."""
    return Operand(generator(draw).random(shape) < 0.5, DType.BOOL)


@cases_of(Maximum, Minimum, *Comparison.__subclasses__())
def comparisons(draw: Draw, cls: type[Op]) -> Case:
    return program(cls(), *operands(draw, *draw(broadcasting())))


@cases_of(Select)
def selects(draw: Draw, cls: type[Select]) -> Case:
    shape, other = draw(broadcasting())
    return program(cls(), mask(draw, shape), *operands(draw, other, shape))


@cases_of(And, Or)
def masks(draw: Draw, cls: type[Op]) -> Case:
    shape, other = draw(broadcasting())
    return program(cls(), mask(draw, shape), mask(draw, other))


@cases_of(Not)
def negations(draw: Draw, cls: type[Not]) -> Case:
    return program(cls(), mask(draw, draw(shapes())))


@cases_of(IsFinite)
def finiteness(draw: Draw, cls: type[IsFinite]) -> Case:
    shape, dtype = draw(shapes()), draw(st.sampled_from(FLOATS))
    special = generator(draw).choice([np.nan, np.inf, -np.inf, 0.0, 1.0], shape)
    return program(cls(), Operand(special.astype(dtype.numpy), dtype))


@cases_of(Pow)
def powers(draw: Draw, cls: type[Op]) -> Case:
    if not in_float(draw):
        constant = draw(st.floats(0.25, 4, width=32))
        return tabulated(draw, lambda x: np.asarray(cls().evaluate(x, np.asarray(constant))))
    x_shape, y_shape = draw(broadcasting())
    dtype = draw(st.sampled_from(FLOATS))
    x, y = floats(draw, x_shape, dtype), floats(draw, y_shape, dtype)
    x, y = np.abs(x) + dtype.numpy.type(0.25), np.clip(y, -4, 4).astype(dtype.numpy)
    return program(cls(), Operand(x, dtype), Operand(y, dtype, constant=draw(st.booleans())))
