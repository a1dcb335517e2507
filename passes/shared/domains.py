"""Where functions are finite: operands that codes must not lead out of what data had."""

from __future__ import annotations

import numpy as np

from qir.ir import Builder, Value
from qir.ops import Clip, Div, Equal, Log, Pow, Reciprocal, Rsqrt, Select, Sqrt
from qir.ops.op import Op
from qir.types import DType

EDGES: dict[type, int] = {Div: 1, Log: 0, Pow: 0, Reciprocal: 0, Rsqrt: 0, Sqrt: 0}
"""Which operand of an op must not be 0 or must not be less."""


def inside_domain(op: Op, position: int, value: Value, real: Value, builder: Builder) -> Value:
    """Keeps what a code decodes to where data was, if the op that reads it is not finite elsewhere.

    Args:
        op: The op that reads the operand in floating point.
        position: The operand's position.
        value: The value of the float program, with its range.
        real: What its code decodes to.
        builder: Where to build.

    Returns:
        `real`, clipped to the range of data that did not reach 0; else with half a step for 0 where
        the op divides by it.
    """
    if EDGES.get(type(op)) != position or value.range is None:
        return real
    low, high = value.range.bounds
    if low > 0 or high < 0 or (low == 0 and isinstance(op, Sqrt | Pow)):
        return _noted(op, builder.emit(Clip(float(low), float(high)), real))
    if not isinstance(op, Div | Reciprocal) or real.op is None or real.type.dtype is not DType.F32:
        return real
    code = real.inputs[0].type.quant
    if code is None:
        return real
    half = np.float32(code.scale.array.min() / 2)
    zero, least = builder.const(np.float32(0), "zero"), builder.const(half, "half_a_step")
    is_zero = _noted(op, builder.emit(Equal(), real, zero))
    return _noted(op, builder.emit(Select(), is_zero, least, real))


def _noted(op: Op, value: Value) -> Value:
    assert value.node is not None
    value.node.note = f"it keeps {op.name}, which stays float, from numbers that data did not have"
    return value
