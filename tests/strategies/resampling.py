"""Resizes, transposed convolutions and casts between plain types."""

from __future__ import annotations

from typing import get_args

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from qir.errors import QirError
from qir.ops import Cast, ConvTranspose, ResizeLinear, ResizeNearest
from qir.ops.resize import Coordinates, Nearest
from qir.ops.type_rules import accumulator
from qir.types import Code, DType
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
    float_operand,
    generator,
    program,
    rounded,
)
from tests.strategies.choices import numbers
from tests.strategies.linear import activations, bias, plain_operands, weights
from tests.strategies.moves import STORAGES

PLAIN = [DType(name) for name in ("bool", "i4", "u4", "i8", "u8", "i16", "u16", "i32", "u32")]


@st.composite
def resized(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draws the shape of an operand, and spatial sizes of the result: often whole multiples."""
    spatial = tuple(draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 3))))
    sizes = tuple(
        draw(st.one_of(st.integers(1, 9), st.sampled_from([size, 2 * size, 3 * size])))
        for size in spatial
    )
    return (draw(st.integers(1, 2)), *spatial, draw(st.integers(1, 3))), sizes


@cases_of(ResizeNearest)
def nearest(draw: Draw, cls: type[ResizeNearest]) -> Case:
    shape, sizes = draw(resized())
    coordinates = draw(st.sampled_from(get_args(Coordinates)))
    op = cls(sizes, coordinates, draw(st.sampled_from(get_args(Nearest))))
    named = draw(st.booleans())
    if draw(st.booleans()):
        return program(op, float_operand(draw, shape, draw(st.sampled_from(FLOATS)), named=named))
    code = draw(codes(STORAGES, shape=shape, axis=len(shape) - 1))
    return program(op, coded_operand(draw, code, shape, named=named))


@cases_of(ResizeLinear)
def linear(draw: Draw, cls: type[ResizeLinear]) -> Case:
    shape, sizes = draw(resized())
    coordinates = draw(st.sampled_from(get_args(Coordinates)))
    named = draw(st.booleans())
    if draw(st.booleans()):
        x = float_operand(draw, shape, draw(st.sampled_from(FLOATS)), named=named)
        return program(cls(sizes, coordinates), x)
    x = coded_operand(draw, draw(codes(SUMMED)), shape, named=named)
    return program(cls(sizes, coordinates), x)


@cases_of(ConvTranspose)
def transposed_convs(draw: Draw, cls: type[ConvTranspose]) -> Case:
    count = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 3)) for _ in range(count))
    strides = tuple(draw(st.sampled_from([2, 3, 1])) for _ in range(count))
    dilation = draw(st.sampled_from([(), tuple(draw(st.integers(1, 2)) for _ in range(count))]))
    pairs = tuple((draw(st.integers(-1, 3)), draw(st.integers(-1, 3))) for _ in range(count))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = draw(st.sampled_from([1, 2, 3]))
    op = cls(
        draw(st.sampled_from([strides, strides, ()])),
        draw(st.sampled_from([(), pairs])),
        dilation,
        groups,
    )
    spatial = tuple(draw(st.integers(1, 4)) for _ in range(count))
    x_shape = (draw(st.integers(1, 2)), *spatial, channels * groups)
    shape = (*window, channels, groups * draw(st.integers(1, 3)))
    named = draw(st.booleans())
    if draw(st.booleans()):
        x = coded_operand(draw, activations(draw, NARROW, far=False), x_shape, named=named)
        kernel = weights(draw, shape)
        code = accumulator(op, x.type, kernel.type, count + 2, shape[-1])
        assert isinstance(code, Code)
        biases = [bias(draw, code, shape[-1])] if draw(st.booleans()) else []
        operands = [x, kernel, *biases]
    else:
        operands = plain_operands(draw, x_shape, shape, named=named)
    try:
        return rounded(draw, program(op, *operands))
    except QirError:
        # Cropped until no window fits.
        assume(False)
        raise


@cases_of(Cast)
def casts(draw: Draw, cls: type[Cast]) -> Case:
    of, to = draw(st.sampled_from([*PLAIN, *FLOATS])), draw(st.sampled_from([*PLAIN, *FLOATS]))
    shape = (draw(st.integers(1, 9)),)
    x = numbers(draw, shape, of)
    if of.is_float:
        rng = generator(draw)
        wide = np.ldexp(rng.normal(0, 1, shape), rng.integers(0, 40, shape))
        special = rng.choice([np.nan, np.inf, -np.inf, 2.0**31, -(2.0**31), 2.0**32], shape)
        with np.errstate(over="ignore"):
            chosen = np.choose(rng.integers(0, 3, shape), [x.astype(np.float64), wide, special])
            x = chosen.astype(of.numpy)
    return program(cls(to), Operand(x, of))
