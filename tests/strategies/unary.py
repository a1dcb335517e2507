"""Functions of one number: in floating point, and on codes as a lookup in a table."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from qir.ops.op import OPS
from qir.ops.unary import Unary
from tests.strategies.base import (
    FLOATS,
    Case,
    Draw,
    cases_of,
    float_operand,
    in_float,
    program,
    shapes,
)
from tests.strategies.casts import tabulated

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
    return tabulated(draw, op.evaluate)
