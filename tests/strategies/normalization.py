"""Normalizations whose statistics are computed of the data."""

from __future__ import annotations

from itertools import chain, combinations
from typing import get_args

import numpy as np
from hypothesis import strategies as st

from qir.ops import GroupNorm, L2Norm, LayerNorm, RmsNorm
from qir.ops.normalization import Guard, Normalization
from qir.types import Affine, DType
from tests.strategies.base import (
    BYTES,
    FLOATS,
    Case,
    Draw,
    Operand,
    cases_of,
    coded_operand,
    codes,
    generator,
    in_float,
    program,
    scales,
    shapes,
)
from tests.strategies.base import floats as float_array


def wide_codes(draw: Draw) -> Affine:
    """Draws a code of sums: 32 bits, and bounds of a few more bits than 16."""
    bound = 2 ** draw(st.integers(1, 18)) - 1
    return Affine.of(DType.I32, draw(scales()), bounds=(-bound, bound))


def result_codes(draw: Draw) -> Affine:
    """Draws the code of a result."""
    return wide_codes(draw) if draw(st.booleans()) else draw(codes((*BYTES, DType.I16)))


def parameters(
    draw: Draw, shape: tuple[int, ...], element: DType, *, constant: bool
) -> list[Operand]:
    """Draws gamma and beta, of very different sizes, or one or none of them."""
    rng = generator(draw)
    operands = []
    for _ in range(draw(st.integers(0, 2))):
        # The first axis may be named, along which no constant varies.
        kept = (1, *(size if draw(st.booleans()) else 1 for size in shape[1:]))
        part = kept[draw(st.integers(0, len(shape))) :]
        size = 10.0 ** rng.integers(-9 if constant else -1, 3 if constant else 1, part)
        array = rng.normal(0, 1, part) * size * (rng.random(part) < 0.9)
        operands.append(Operand(np.asarray(array).astype(element.numpy), element, constant))
    return operands


def cases(draw: Draw, op: Normalization, shape: tuple[int, ...], axis: int | None) -> Case:
    """Draws operands for a norm of this shape, whose code may vary along an axis."""
    if in_float(draw):
        element = draw(st.sampled_from(FLOATS))
        x = Operand(
            float_array(draw, shape, element), element, named=0 not in op.view_axes(len(shape))
        )
        return program(op, x, *parameters(draw, shape, element, constant=draw(st.booleans())))
    if draw(st.booleans()):
        code = wide_codes(draw)
    else:
        code = draw(codes((*BYTES, DType.I4, DType.I16), shape=shape, axis=axis))
    named = code.per_tensor and 0 not in op.view_axes(len(shape))
    x = coded_operand(draw, code, shape, named=named)
    if draw(st.booleans()):
        rng = generator(draw)
        rare = rng.random(shape) < 0.2
        level = np.clip(rng.integers(-3, 4), *code.range)
        x = Operand(np.where(rare, x.array, level).astype(code.storage.numpy), code, named=named)
    element = draw(st.sampled_from(FLOATS))
    return program(
        op.with_code(result_codes(draw)), x, *parameters(draw, shape, element, constant=True)
    )


def epsilons() -> st.SearchStrategy[float]:
    """Draws what is added to squares."""
    return st.sampled_from([1e-5, 1e-6, 1e-3, 1e-12, 0.5, 1e4])


def guards() -> st.SearchStrategy[Guard]:
    """Draws how epsilon is joined to squares."""
    return st.sampled_from(get_args(Guard))


def axes_of(rank: int) -> list[tuple[int, ...]]:
    """Lists all sets of axes, to draw one as often as another; a drawn set mostly holds axis 0."""
    sets = (combinations(reversed(range(rank)), count) for count in range(1, rank + 1))
    return [tuple(sorted(axes)) for axes in chain.from_iterable(sets)]


@cases_of(LayerNorm, RmsNorm, L2Norm)
def norms(draw: Draw, cls: type[LayerNorm] | type[RmsNorm] | type[L2Norm]) -> Case:
    shape = draw(shapes(size=(1, 7)))
    axes = draw(st.sampled_from(axes_of(len(shape))))
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    op = cls(axes, draw(epsilons()), draw(guards()))
    return cases(draw, op, shape, draw(st.sampled_from(rest)) if rest else None)


@cases_of(GroupNorm)
def group_norms(draw: Draw, cls: type[GroupNorm]) -> Case:
    groups = draw(st.integers(1, 3))
    shape = (*draw(shapes(rank=(1, 3))), groups * draw(st.integers(1, 4)))
    return cases(draw, cls(groups, draw(epsilons()), draw(guards())), shape, 0)
