"""The cast whose scale is found at run time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from qir.ops import QuantizeDynamic
from qir.ops.quantize_dynamic import steps_code
from qir.types import DType
from tests.strategies.base import (
    Case,
    Draw,
    Operand,
    cases_of,
    generator,
    in_float,
    program,
    shapes,
)
from tests.strategies.casts import SPECIAL

STEPS = [(127, DType.I8), (7, DType.I8), (7, DType.I4), (1, DType.I2), (32767, DType.I16)]
"""The largest step and the storage of codes."""


@cases_of(QuantizeDynamic)
def quantizes_at_run_time(draw: Draw, cls: type[QuantizeDynamic]) -> Case:
    shape = draw(shapes())
    rng, rank = generator(draw), len(shape)
    onnx, block = in_float(draw), None
    axes = tuple(range(rank)) if onnx else tuple(sorted(draw(st.sets(st.integers(0, rank - 1)))))
    to = steps_code(*draw(st.sampled_from(STEPS)))
    if not onnx and rank - 1 in axes and draw(st.booleans()):
        block = draw(st.integers(1, 3))
        shape = (*shape[:-1], shape[-1] * block)
    # Rows of any size, some of them of small whole numbers, where the scale makes ties.
    rows = 10.0 ** rng.integers(-44, 38, (*shape[:-1], 1))
    whole = rng.integers(-2 * to.range[1], 2 * to.range[1] + 1, shape) / 2
    anywhere = rng.normal(0, 1, shape) * rows
    kind = rng.choice(4, (*shape[:-1], 1), p=[0.5, 0.3, 0.1, 0.1])
    special = np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), anywhere)
    with np.errstate(over="ignore"):
        x = np.choose(kind, [anywhere, whole, special, np.zeros(shape)]).astype(np.float32)
    op = cls(axes, DType.U8, mode="onnx") if onnx else cls(axes, to, block)
    return program(op, Operand(x, DType.F32, named=(rank > 1 or not block) and draw(st.booleans())))
