"""Primitives that reduce whole axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qir.errors import UnsupportedError
from qir.frontends.jaxpr.primitives import PrimitiveRule, primitive
from qir.frontends.shared.emitter import Emitter, Operand
from qir.ops import ArgMax, Neg, ReduceMax, ReduceMin, ReduceProd, ReduceSum
from qir.types import DType

REDUCTIONS: dict[str, type[ReduceSum | ReduceMax | ReduceMin | ReduceProd]] = {
    "reduce_and": ReduceMin,
    "reduce_max": ReduceMax,
    "reduce_min": ReduceMin,
    "reduce_or": ReduceMax,
    "reduce_prod": ReduceProd,
    "reduce_sum": ReduceSum,
}
"""On masks the least number says whether all hold, the greatest whether any does."""


def _reduction(
    name: str, op: type[ReduceSum | ReduceMax | ReduceMin | ReduceProd]
) -> PrimitiveRule:
    def rule(b: Emitter, x: Operand, *, axes: Sequence[int], **_: Any) -> Operand:
        if name in ("reduce_and", "reduce_or") and x.type.element is not DType.BOOL:
            raise UnsupportedError(f"{name}: expected bool, got {x.type}")
        return b.emit(op(tuple(sorted(axes))), x) if axes else x

    return rule


for _name, _op in REDUCTIONS.items():
    primitive(_name)(_reduction(_name, _op))


@primitive("argmax")
def argmax(b: Emitter, x: Operand, *, axes: Sequence[int], index_dtype: Any, **_: Any) -> Operand:
    """Index of the greatest number, the first of several."""
    (axis,) = axes
    return b.cast(b.emit(ArgMax(axis), x), DType.of(index_dtype))


@primitive("argmin")
def argmin(b: Emitter, x: Operand, *, axes: Sequence[int], index_dtype: Any, **_: Any) -> Operand:
    """Index of the least number, the first of several."""
    if not x.type.is_float:
        raise UnsupportedError(f"argmin: expected floating-point numbers, got {x.type}")
    return argmax(b, b.emit(Neg(), x), axes=axes, index_dtype=index_dtype)
