"""Constants that reach an op on codes moved, as a state of zeros spread over the batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qir.ir import Builder, Value
from qir.ops import Quantize
from qir.ops.rules import SameCode, SharedCode
from qir.types import Affine


def quantized(
    value: Value,
    op: Quantize,
    builder: Builder,
    coded: Callable[[Value, Affine, Builder], Value],
) -> Value:
    """Rounds a value of floating point; of a moved constant the stored numbers are moved instead.

    Args:
        value: The value.
        op: What rounds it where it is no moved constant, or one that is not finite.
        builder: Where to insert.
        coded: Gives a constant in a code.
    """
    moved = None
    if isinstance(op.to, Affine) and op.to.per_tensor:
        moved = _moved(value, op.to, builder, coded)
    return moved or builder.emit(op, value)


def _moved(
    value: Value,
    code: Affine,
    builder: Builder,
    coded: Callable[[Value, Affine, Builder], Value],
) -> Value | None:
    node = value.node
    if node is None or not _is_moved(value):
        return None
    source, *places = node.inputs
    if source.is_constant:
        stored = coded(source, code, builder) if np.isfinite(source.array).all() else None
    else:
        stored = _moved(source, code, builder, coded)
    if stored is None:
        return None
    return builder.emit_node(node.op, [stored, *places]).outputs[node.outputs.index(value)]


def _is_moved(value: Value) -> bool:
    """Whether a value is numbers of one other by their places alone."""
    op = value.op
    if op is None or not op.moves.by_place:
        return False
    if not isinstance(op.quant, SameCode) or isinstance(op.quant, SharedCode):
        return False
    source, *places = value.inputs
    return source.type.is_float and not any(place.type.is_float for place in places)
