"""Ops that move numbers without changing them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from qir.ops import Concat, Reshape, Transpose
from qir.types import Code, DType
from tests.strategies.base import (
    NARROW,
    Case,
    Draw,
    Operand,
    cases_of,
    coded_operand,
    codes,
    factored,
    float_operand,
    in_float,
    program,
    shapes,
)
from tests.strategies.kinds import in_two_levels, level_codes, with_blocks

STORAGES = (*NARROW, DType.I16, DType.I32)


def any_operand(
    draw: Draw, shape: tuple[int, ...], axis: int, far: bool = False, everywhere: bool = False
) -> Operand:
    """Draws floats or codes, the latter perhaps per channel of an axis, or far from zero.

    Args:
        draw: Given by hypothesis.
        shape: The shape.
        axis: The axis.
        far: Whether zero points may lie outside of the bounds.
        everywhere: Whether codes may also vary along two axes, which any may be.
    """
    named = draw(st.booleans())
    if in_float(draw):
        return float_operand(draw, shape, named=named)
    if everywhere and len(shape) > 1 and draw(st.integers(0, 4)) == 0:
        return coded_operand(draw, factored(draw, shape), shape, named=named)
    code: Code = draw(codes(STORAGES, shape=shape, axis=axis, far=far))
    if draw(st.integers(0, 3)) == 0:
        code = level_codes(draw, shape, axis)
        named = named and len(shape) > 1  # a block of all numbers has to have their size
    elif draw(st.integers(0, 7)) == 0:
        code = in_two_levels(draw, code, tuple(s if a == axis else 1 for a, s in enumerate(shape)))
    return coded_operand(draw, code, shape, named=named)


@cases_of(Reshape)
def reshapes(draw: Draw, cls: type[Reshape]) -> Case:
    rows, channels = draw(shapes((1, 3))), draw(st.integers(1, 4))
    x = any_operand(draw, (*rows, channels), len(rows), far=True, everywhere=True)
    kept = x.type.shape[0]
    count = int(np.prod(rows[1:]))
    parts = draw(st.sampled_from([(count,), (1, count), (count, 1), rows[1:]]))
    per_tensor = x.type.quant is None or x.type.quant.per_tensor
    flat = per_tensor and draw(st.booleans())
    return program(cls((kept, count * channels) if flat else (kept, *parts, channels)), x)


@cases_of(Transpose)
def transposes(draw: Draw, cls: type[Transpose]) -> Case:
    shape = with_blocks(draw, draw(shapes()))
    permutation = tuple(draw(st.permutations(range(len(shape)))))
    axis = draw(st.integers(0, len(shape) - 1))
    return program(cls(permutation), any_operand(draw, shape, axis, far=True, everywhere=True))


@cases_of(Concat)
def concats(draw: Draw, cls: type[Concat]) -> Case:
    shape = draw(shapes((2, 4)))
    axis = draw(st.integers(0, len(shape) - 1))
    other = (axis + 1) % len(shape)
    first = any_operand(draw, shape, other, far=True)
    named = first.named and axis > 0
    operands = [Operand(first.array, first.element, named=named)]
    for _ in range(draw(st.integers(0, 2))):
        sizes = (*shape[:axis], draw(st.integers(1, 3)), *shape[axis + 1 :])
        code = first.type.quant
        more = (
            float_operand(draw, sizes, named=named)
            if code is None
            else coded_operand(draw, code, sizes, named=named)
        )
        operands.append(more)
    return program(cls(axis), *operands)
