"""Pools, means and normalizations."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from qir.ops import AvgPool, BatchNorm, MaxPool, Mean
from qir.ops.windows import Padding
from qir.types import DType
from tests.strategies.base import (
    FLOATS,
    SUMMED,
    Case,
    Draw,
    Operand,
    cases_of,
    coded_operand,
    codes,
    computed_roundings,
    float_operand,
    floats,
    in_float,
    program,
    shapes,
)


class Windows(NamedTuple):
    """The attributes of a pool, and the shape of an operand that they fit."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding
    shape: tuple[int, ...]


def windows(draw: Draw) -> Windows:
    """Draws windows; a quarter of them cover the whole operand."""
    count = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 3)) for _ in range(count))
    others = tuple(draw(st.integers(1, 3)) for _ in range(count))
    strides = draw(st.sampled_from([(), window, others]))
    pairs: Padding = tuple(
        (draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))) for size in window
    )
    padding: Padding = draw(st.sampled_from(["valid", "same", pairs]))
    spatial = tuple(size + draw(st.integers(0, 4)) for size in window)
    if draw(st.integers(0, 3)) == 3:
        spatial, padding = window, "valid"
    return Windows(
        window, strides, padding, (draw(st.integers(1, 3)), *spatial, draw(st.integers(1, 3)))
    )


@cases_of(MaxPool)
def max_pools(draw: Draw, cls: type[MaxPool]) -> Case:
    window, strides, padding, shape = windows(draw)
    op = cls(window, strides, padding)
    if in_float(draw):
        return program(op, float_operand(draw, shape, draw(st.sampled_from(FLOATS)), named=True))
    code = draw(codes((*SUMMED, DType.I32), shape=shape, axis=len(shape) - 1))
    return program(op, coded_operand(draw, code, shape, named=draw(st.booleans())))


@cases_of(AvgPool)
def avg_pools(draw: Draw, cls: type[AvgPool]) -> Case:
    window, strides, padding, shape = windows(draw)
    counted = draw(st.booleans())
    if in_float(draw):
        x = float_operand(draw, shape, draw(st.sampled_from(FLOATS)), named=True)
        return program(cls(window, strides, padding, counted), x)
    x = coded_operand(draw, draw(codes(SUMMED)), shape, named=draw(st.booleans()))
    op = cls(window, strides, padding, counted)
    if op.divisor([x.type]) is None:
        to = draw(codes(SUMMED))
        op = replace(op, to=to, rounding=draw(computed_roundings(to, any_ratio=True)))
    return program(op, x)


@cases_of(Mean)
def means(draw: Draw, cls: type[Mean]) -> Case:
    shape = draw(shapes())
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)).__iter__()
    chosen, keep = tuple(sorted(axes)), draw(st.booleans())
    named = 0 not in chosen
    if in_float(draw):
        x = float_operand(draw, shape, draw(st.sampled_from(FLOATS)), named=named)
        return program(cls(chosen, keep), x)
    return program(cls(chosen, keep), coded_operand(draw, draw(codes(SUMMED)), shape, named=named))


@cases_of(BatchNorm)
def batch_norms(draw: Draw, cls: type[BatchNorm]) -> Case:
    shape, dtype = draw(shapes()), draw(st.sampled_from(FLOATS))
    variance = Operand(np.abs(floats(draw, shape[-1:], dtype)) + dtype.numpy.type(0.1), dtype)
    statistics = [float_operand(draw, shape[-1:], dtype, constant=True) for _ in range(3)]
    return program(
        cls(draw(st.sampled_from([1e-5, 1e-3]))),
        float_operand(draw, shape, dtype),
        *statistics,
        variance,
    )
