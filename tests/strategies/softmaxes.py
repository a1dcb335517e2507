"""Softmax, its exponentials, and quotients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from qir.ops import Div, ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow, Softmax
from qir.ops.softmax import SOFTMAX_CODE, MaskedRows
from qir.types import Affine, DType
from tests.strategies.base import (
    BYTES,
    FLOATS,
    SUMMED,
    WIDE,
    Case,
    Draw,
    Operand,
    cases_of,
    coded_operand,
    codes,
    float_operand,
    generator,
    in_float,
    program,
    shapes,
)


@cases_of(Softmax, ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow)
def softmaxes(draw: Draw, cls: type[Softmax | ExpBelowMax]) -> Case:
    shape = draw(shapes())
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=2))))
    named = 0 not in axes
    masks = []
    rows: MaskedRows = draw(st.sampled_from(["uniform", "unmasked", "nan"]))
    if draw(st.booleans()):
        cut = draw(st.integers(0, len(shape)))
        sizes = tuple(draw(st.sampled_from([1, size])) for size in shape[cut:])
        masks = [Operand(generator(draw).random(sizes) < 0.6, DType.BOOL)]
    op = cls(axes, rows if masks else "uniform")
    if in_float(draw):
        x = float_operand(draw, shape, draw(st.sampled_from(FLOATS)), named=named and not masks)
        return program(op, x, *masks)
    code = draw(codes(SUMMED))
    if draw(st.integers(0, 3)) == 0:
        code = Affine.of(DType.I16, float(code.scale.array) / 16, 5, bounds=(-2048, 2047))
    if isinstance(op, ExpBelowMax):
        op = replace(op, to=op.code)
    x = coded_operand(draw, code, shape, named=named and not masks)
    entries = op.integer_tables([x.type.with_shape(*shape)])["table"]
    dtype = op.table_type
    if isinstance(op, Softmax):
        if draw(st.booleans()):
            # Shares of small numbers are often halves.
            entries = generator(draw).integers(1, 9, entries.size).astype(np.int32)
        op = replace(op, to=draw(st.one_of(st.just(SOFTMAX_CODE), codes((*BYTES, *WIDE)))))
    return program(op, x, *masks, Operand(entries, dtype, constant=True))


@cases_of(Div)
def quotients(draw: Draw, cls: type[Div]) -> Case:
    shape = draw(shapes())
    divisors = tuple(draw(st.sampled_from([1, size])) for size in shape)
    divisors = divisors[draw(st.integers(0, len(shape))) :]
    if in_float(draw):
        dtype = draw(st.sampled_from(FLOATS))
        x = float_operand(draw, shape, dtype)
        y = float_operand(draw, divisors, dtype)
        return program(cls(), x, replace(y, array=(np.abs(y.array) + 0.5).astype(y.array.dtype)))
    if draw(st.booleans()):
        x = coded_operand(draw, draw(codes(SUMMED)), shape)
    else:
        code = draw(codes((DType.I32,), shape=shape, axis=len(shape) - 1))
        x = coded_operand(draw, code, shape)
    if draw(st.booleans()):
        y = coded_operand(draw, draw(codes((DType.I32,))), divisors)
    else:
        y = coded_operand(draw, draw(codes((*BYTES, *WIDE))), divisors)
    wide = codes((DType.I32,)).map(lambda code: replace(code, bounds=(-(2**17), 2**17 - 1)))
    return program(cls(draw(st.one_of(codes((*BYTES, *WIDE)), wide))), x, y)
