"""Functions of one number: in floating point, and on codes as a lookup in a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from qir.op import OPS
from qir.ops.unary import Unary
from qir.types import DType, Quant, tensor
from tests.strategies.base import (
    FLOATS,
    NARROW,
    Case,
    Draw,
    cases_of,
    codes,
    float_operand,
    in_float,
    program,
    shapes,
)
from tests.strategies.casts import lookup

ATTRIBUTES: dict[str, dict[str, list[Any]]] = {
    "gelu": {"approximate": [False, True]},
    "elu": {"alpha": [1.0, 0.3]},
    "leaky_relu": {"slope": [0.01, 0.5]},
    "round": {"ties": ["even", "away"]},
}
CLASSES = [cls for cls in OPS.values() if issubclass(cls, Unary)]


@cases_of(*CLASSES)
def unaries(draw: Draw, cls: type[Unary]) -> Case:
    chosen = {
        name: draw(st.sampled_from(values)) for name, values in ATTRIBUTES.get(cls.name, {}).items()
    }
    op = cls(**chosen)
    if in_float(draw):
        x = float_operand(draw, draw(shapes()), draw(st.sampled_from(FLOATS)))
        return program(op, x)
    code, result = draw(codes(NARROW)), draw(codes(NARROW))
    patterns = np.arange(2**code.storage.bits).astype(np.uint8)
    signed = code.storage in (DType.I8, DType.I4)
    every = _sign_extended(patterns, code.storage.bits) if signed else patterns
    with np.errstate(all="ignore"):
        image = op.evaluate(Quant.decode(code, every).astype(np.float64))
        entries = result.encode(np.nan_to_num(image, posinf=3e38, neginf=-3e38))
    assert tensor(entries).dtype is not None
    return lookup(draw, code, entries, result)


def _sign_extended(patterns: Any, bits: int) -> Any:
    shift = 8 - bits
    return (patterns << shift).view(np.int8) >> shift
